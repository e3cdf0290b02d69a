"""Torch's ModuleInfo of LSTM, GRU and the cells, by which torch tests its own modules, run on ours."""

import io
import itertools
import pickle
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.testing._internal.common_modules import ModuleErrorEnum, module_db

import glassgate
from glassgate.errors import GlassgateError

INFOS = {info.module_cls: info for info in module_db if info.module_cls in (nn.LSTM, nn.GRU)} | {
    info.module_cls: info for info in module_db if info.module_cls in (nn.LSTMCell, nn.GRUCell)
}
OURS = {theirs: getattr(glassgate, theirs.__name__) for theirs in INFOS}
# With a projection there is no kernel: torch's own path computes, and a warning says so.
pytestmark = pytest.mark.filterwarnings("ignore:LSTM. no kernel for proj_size:UserWarning")


def samples(theirs: type, dtype: torch.dtype = torch.float64, training: bool = False) -> list[Any]:
    torch.manual_seed(0)
    made = INFOS[theirs].module_inputs_func(
        INFOS[theirs], device="cpu", dtype=dtype, requires_grad=True, training=training
    )
    return list(made)


def pair(theirs: type, sample: Any, dtype: torch.dtype = torch.float64) -> tuple[nn.Module, nn.Module]:
    """Torch's module and ours with the weights that one seed draws."""
    modules = []
    for made in (theirs, OURS[theirs]):
        torch.manual_seed(1)
        given = sample.constructor_input
        modules.append(made(*given.args, **{"dtype": dtype, **given.kwargs}))
    return modules[0], modules[1]


def tensors(value: Any) -> list[Tensor]:
    """All tensors in nested tuples, in order."""
    return [value] if isinstance(value, Tensor) else list(itertools.chain(*map(tensors, value)))


def run(module: nn.Module, sample: Any) -> tuple[list[Tensor], list[Tensor]]:
    """Outputs, and the gradients of all inputs and parameters of their weighted sum."""
    given = sample.forward_input
    outputs = tensors(module(*given.args, **given.kwargs))
    torch.manual_seed(2)
    loss = torch.stack([(y * torch.randn_like(y)).sum() for y in outputs]).sum()
    return outputs, list(torch.autograd.grad(loss, [*tensors(given.args), *module.parameters()]))


def test_torch_describes_all_four() -> None:
    assert set(INFOS) == {nn.LSTM, nn.GRU, nn.LSTMCell, nn.GRUCell}
    assert all(samples(theirs) for theirs in INFOS)


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("theirs", INFOS)
def test_outputs_and_gradients(theirs: type, training: bool) -> None:
    for sample in samples(theirs, training=training):
        want, got = (run(module.train(training), sample) for module in pair(theirs, sample))
        for g, w in zip(got[0] + got[1], want[0] + want[1], strict=True):
            # The generators draw from (-9, 9): a dozen products of at most 9 and states of at most 9 in each
            # sum, at most 3 steps in 2 layers, and gradients of at most 9 times as much: 2^12 units of 9.
            torch.testing.assert_close(g, w, rtol=0, atol=2**12 * 9 * torch.finfo(torch.float64).eps)


@pytest.mark.parametrize("theirs", INFOS)
def test_the_reference_that_torch_gives(theirs: type) -> None:
    """One sequence without a batch axis is a batch of one."""
    for sample in samples(theirs):
        module = pair(theirs, sample)[1]
        got = run(module, sample)[0]
        want = tensors(sample.reference_fn(module, *sample.forward_input.args))
        assert len(got) == len(want)
        for g, w in zip(got, want, strict=True):
            assert torch.equal(g, w.reshape(g.shape))


@pytest.mark.parametrize("theirs", INFOS)
def test_inputs_that_are_not_contiguous(theirs: type) -> None:
    def apart(value: Any) -> Any:
        if not isinstance(value, Tensor):
            return tuple(map(apart, value))
        return value.detach().repeat_interleave(2, -1)[..., ::2].requires_grad_()

    for sample in samples(theirs):
        module = pair(theirs, sample)[1]
        given = sample.forward_input
        want = run(module, sample)
        given.args = apart(tuple(given.args))
        assert not any(t.is_contiguous() for t in tensors(given.args))
        got = run(module, sample)
        assert all(torch.equal(g, w) for g, w in zip(got[0] + got[1], want[0] + want[1], strict=True))


@pytest.mark.parametrize("theirs", INFOS)
def test_second_derivatives(theirs: type) -> None:
    for sample in samples(theirs):
        module = pair(theirs, sample)[1]
        inputs = [t.detach().div(9).requires_grad_() for t in tensors(sample.forward_input.args)]

        def function(x: Tensor, *states: Tensor, module: nn.Module = module) -> tuple[Tensor, ...]:
            return tuple(tensors(module(x, states if len(states) == 2 else states[0] if states else None)))

        assert torch.autograd.gradcheck(function, inputs, fast_mode=True)
        assert torch.autograd.gradgradcheck(function, inputs, fast_mode=True)


@pytest.mark.parametrize("theirs", INFOS)
def test_pickle_and_torch_save(theirs: type) -> None:
    """Bytes that this test wrote itself: torch's own test of its modules does the same."""
    for sample in samples(theirs):
        module = pair(theirs, sample)[1]
        want = run(module, sample)[0]
        file = io.BytesIO()
        torch.save(module, file)
        file.seek(0)
        for copy in (pickle.loads(pickle.dumps(module)), torch.load(file, weights_only=False)):
            assert type(copy) is OURS[theirs]
            assert repr(copy) == repr(module)
            assert all(torch.equal(g, w) for g, w in zip(run(copy, sample)[0], want, strict=True))


@pytest.mark.parametrize("theirs", INFOS)
def test_state_dict_both_ways(theirs: type) -> None:
    for sample in samples(theirs):
        one, other = pair(theirs, sample)
        for source, target in ((one, other), (other, one)):
            with torch.no_grad():
                for parameter in source.parameters():
                    parameter.add_(1)
            target.load_state_dict(source.state_dict())
            assert list(target.state_dict()) == list(source.state_dict())
            for name, value in source.state_dict().items():
                assert torch.equal(target.state_dict()[name], value)


@pytest.mark.parametrize("theirs", INFOS)
def test_device_and_dtype_of_the_constructor(theirs: type) -> None:
    sample = samples(theirs)[0]
    given = sample.constructor_input
    for device, dtype in (("cpu", torch.float32), ("cpu", torch.float64), ("meta", torch.float32)):
        module = OURS[theirs](*given.args, **given.kwargs, device=device, dtype=dtype)
        assert {(p.device.type, p.dtype) for p in module.parameters()} == {(device, dtype)}


@pytest.mark.parametrize("theirs", INFOS)
def test_what_torch_refuses_is_refused(theirs: type) -> None:
    info = INFOS[theirs]
    errors = info.module_error_inputs_func(
        info, device="cpu", dtype=torch.float32, requires_grad=False, training=False
    )
    assert errors
    for error in errors:
        given = error.module_error_input.constructor_input
        if error.error_on == ModuleErrorEnum.CONSTRUCTION_ERROR:  # torch's own constructor
            with pytest.raises(error.error_type, match=error.error_regex):
                OURS[theirs](*given.args, **given.kwargs)
            continue
        module, call = OURS[theirs](*given.args, **given.kwargs), error.module_error_input.forward_input
        with pytest.raises(GlassgateError, match=rf"^{theirs.__name__}: [^\n]* must be [^\n]*, got [^\n]*$"):
            module(*call.args, **call.kwargs)
