"""The cells: torch's in value and gradient, the layers' to the bit."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import glassgate
from glassgate.errors import GlassgateError

NAMES = ["LSTM", "GRU"]


@pytest.mark.parametrize("shape", [(4, 5), (5,)])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("name", NAMES)
def test_torch_in_float64(name: str, bias: bool, shape: tuple[int, ...]) -> None:
    results = []
    for module in (nn, glassgate):
        torch.manual_seed(1)
        cell: Any = getattr(module, name + "Cell")(5, 7, bias=bias, dtype=torch.float64)
        x = torch.randn(shape, dtype=torch.float64, requires_grad=True)
        first = cell(x)
        second = cell(x * 2, first)
        leaves = [x, *cell.parameters()]
        y = second if name == "GRU" else second[0] + 2 * second[1]
        results.append([y, *torch.autograd.grad(y.square().sum(), leaves)])
    for want, got in zip(*results, strict=True):
        # Some thirty roundings and a few dozen products of size one.
        torch.testing.assert_close(got, want, rtol=0, atol=1e-14)


@pytest.mark.parametrize(("name", "options"), [("LSTM", {}), ("GRU", {}), ("GRU", {"reset": "before"})])
def test_steps_are_the_layer(name: str, options: dict[str, Any]) -> None:
    layer = getattr(glassgate, name)(5, 40, **options)
    cell = getattr(glassgate, name + "Cell")(5, 40, **options)
    cell.load_state_dict({key.removesuffix("_l0"): value for key, value in layer.state_dict().items()})
    x = torch.randn(6, 3, 5)
    with glassgate.record(layer) as whole:
        layer(x)
    with glassgate.record(nn.ModuleDict({"step": cell})) as steps:
        state = None
        for x_t in x:
            state = cell(x_t, state)
    for gate in whole["l0"].names:
        np.testing.assert_array_equal(
            getattr(steps["step"], gate).detach().numpy(), getattr(whole, gate).detach().numpy()
        )


def test_messages() -> None:
    for call, message in [
        (
            lambda: glassgate.GRUCell(5, 7)(torch.zeros(4, 3)),
            "GRUCell: the input must be [N, 5] or [5], got [4, 3]",
        ),
        (
            lambda: glassgate.LSTMCell(5, 7)(torch.zeros(4, 5), (torch.zeros(4, 7), torch.zeros(7))),
            "LSTMCell: c must be [4, 7], got [7]",
        ),
        (
            lambda: glassgate.LSTMCell(5, 7)(torch.zeros(3, 5), torch.zeros(3, 7)),
            "LSTMCell: hx must be the pair (h, c), got Tensor",
        ),
        (
            lambda: glassgate.GRUCell(5, 7)(torch.zeros(3, 5), (torch.zeros(3, 7),)),
            "GRUCell: h must be a tensor, got tuple",
        ),
        (lambda: glassgate.GRUCell(5, 7)([0.0] * 5), "GRUCell: the input must be a tensor, got list"),
        *(
            (
                lambda dtype=dtype: glassgate.LSTMCell(5, 7)(torch.zeros(3, 5, dtype=dtype)),
                f"LSTMCell: the input must be of torch.float32 like the weights, got {dtype}",
            )
            for dtype in (torch.float64, torch.float16)
        ),
        (
            lambda: glassgate.LSTMCell(5, 7)(
                torch.zeros(3, 5), (torch.zeros(3, 7).double(), torch.zeros(3, 7))
            ),
            "LSTMCell: h must be of torch.float32 like the input, got torch.float64",
        ),
        (lambda: glassgate.GRUCell(5, 7, reset="no"), "reset: must be before or after, got 'no'"),
    ]:
        with pytest.raises(GlassgateError) as error:
            call()
        assert str(error.value) == message
