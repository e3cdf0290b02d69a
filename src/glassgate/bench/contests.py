"""For each work and shape: ours, the peer's forms, and whether both find the same."""

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from glassgate import kernels
from glassgate.bench import onnx_peer
from glassgate.bench.checks import WrongResultError, compare, tolerance
from glassgate.bench.loops import LOOPS
from glassgate.bench.timing import HOPELESS, Call, Timed, trial
from glassgate.bench.works import Shape, Work
from glassgate.layers import GRU, LSTM, record

__all__ = ["Contest", "prepare"]

FEW = 2  # steps

Results = dict[str, Tensor]
Forward = Callable[[Any, Tensor], Tensor]


@dataclass(frozen=True)
class Contest:
    """One row of the table before it is timed."""

    ours: Call
    peers: Mapping[str, Call]
    check: Callable[[], float]
    """Compares the results and returns the largest difference; raises WrongResultError."""
    allowed: float
    steps: int
    """Steps of all sequences together, padding left out."""
    outside: Mapping[str, Timed] = field(default_factory=dict)
    """Forms of the peer that were timed in a process of their own, which has ended."""


def prepare(work: Work, shape: Shape, threads: int, seconds: float) -> Contest:
    """Make ours and the peer's with the same random weights, inputs and gradients, never zeros.

    Parameters
    ----------
    work, shape
        What is measured, and on what sizes.
    threads, seconds
        How many threads a peer in a process of its own may use, and how long it is measured.
    """
    torch.manual_seed(1)
    theirs: Any = (nn.LSTM if work.cell == "lstm" else nn.GRU)(shape.I, shape.H)
    options: dict[str, Any] = {"reset": "before"} if work.cell == "gru-before" else {}
    options |= {"precision": "bf16"} if work.task == "bf16" else {}
    ours: Any = (LSTM if work.cell == "lstm" else GRU)(shape.I, shape.H, **options)
    ours.load_state_dict(theirs.state_dict())
    x = torch.randn(shape.T, shape.N, shape.I)
    if work.peer == "ONNX Runtime":
        return _against_onnx(work, shape, ours, theirs, x, threads, seconds)
    if work.steps:
        return _layer_step(shape, ours, theirs, x)
    if work.task == "recorded":
        return _recorded(shape, ours, theirs, x)
    if work.training:
        return _training(work, shape, ours, theirs, x)
    return _inference(shape, ours, theirs, x)


class _Rival(Protocol):
    """What is timed by calling it, and tells its results."""

    def __call__(self) -> object: ...

    def results(self) -> Results: ...


def _alike(
    shape: Shape,
    mine: _Rival,
    peers: Mapping[str, Call],
    exact: Callable[[], Results],
    outside: Mapping[str, Timed] | None = None,
) -> Contest:
    """Make the contest of results that are compared as they are, in float32."""
    allowed = tolerance(shape)

    def check() -> float:
        return compare(mine.results(), exact(), allowed)

    return Contest(mine, peers, check, allowed, shape.T * shape.N, outside or {})


def _forms(theirs: Any, steps: int, form: Callable[[Any, int], _Rival]) -> dict[str, _Rival]:
    """Make torch's forms: float32, and bfloat16 unless a few steps show that it has no chance.

    Where a machine has no instructions for it, a whole sequence could take minutes.
    """
    narrow = copy.deepcopy(theirs).bfloat16()
    forms = {"torch fp32": form(theirs, steps)}
    if steps <= FEW or trial(form(narrow, FEW)) <= HOPELESS * trial(form(theirs, FEW)):
        forms["torch bf16"] = form(narrow, steps)
    return forms


class _Training:
    """Forward and backward of one module: a call computes, `results` tells the output and all gradients."""

    def __init__(self, module: nn.Module, x: Tensor, d: Tensor, forward: Forward) -> None:
        dtype = next(module.parameters()).dtype
        self.module, self.forward = module, forward
        self.x, self.d = x.detach().to(dtype).requires_grad_(), d.to(dtype)

    def __call__(self) -> Tensor:
        self.module.zero_grad(set_to_none=True)
        self.x.grad = None
        y = self.forward(self.module, self.x)
        torch.autograd.backward(y, self.d)
        return y

    def results(self) -> Results:
        found = {"output": self().detach()}
        wanted = {"input": self.x, **dict(self.module.named_parameters())}
        for name, tensor in wanted.items():
            if tensor.grad is None:
                raise WrongResultError(f"gradient on {name}: is missing")
            found[f"gradient on {name}"] = tensor.grad
        return found


def _training(work: Work, shape: Shape, ours: Any, theirs: Any, x: Tensor) -> Contest:
    d = torch.randn(shape.T, shape.N, shape.H)
    steps = shape.T * shape.N
    my_way: Forward = _output
    their_way: Forward = _output
    if work.task == "ragged":
        lengths = torch.randint(max(1, shape.T // 4), shape.T + 1, (shape.N,))
        steps, my_way, their_way = int(lengths.sum()), _with_lengths(lengths), _packed(lengths)
    elif work.peer == "Python loop":
        their_way = _loop(work.cell)
        my_way = _recording if work.task == "gates" else _output
    mine, exact = _Training(ours, x, d, my_way), _Training(theirs, x, d, their_way)

    def torch_form(module: Any, steps: int) -> _Rival:
        way = _packed(lengths.clamp(max=steps)) if work.task == "ragged" else _output
        return _Training(module, x[:steps], d[:steps], way)

    peers = {"loop fp32": exact} if work.peer == "Python loop" else _forms(theirs, shape.T, torch_form)
    sides = 2
    if work.cell == "gru-before":  # torch has no such layer: the loop in float64 says what is right
        exact, sides = _Training(copy.deepcopy(theirs).double(), x, d, their_way), 1
    allowed = tolerance(shape, sides, work.task == "bf16")
    return Contest(mine, peers, lambda: compare(mine.results(), exact.results(), allowed), allowed, steps)


def _output(module: Any, x: Tensor) -> Tensor:
    return module(x)[0]  # type: ignore[no-any-return]


def _recording(module: Any, x: Tensor) -> Tensor:
    with record(module):
        return module(x)[0]  # type: ignore[no-any-return]


def _loop(cell: str) -> Forward:
    return lambda module, x: LOOPS[cell](module, x)[0]


def _with_lengths(lengths: Tensor) -> Forward:
    return lambda module, x: module(x, lengths=lengths)[0]


def _packed(lengths: Tensor) -> Forward:
    def forward(module: Any, x: Tensor) -> Tensor:
        packed = pack_padded_sequence(x, lengths, enforce_sorted=False)
        return pad_packed_sequence(module(packed)[0], total_length=len(x))[0]

    return forward


class _Inference:
    """A whole sequence without gradients."""

    def __init__(self, module: Any, x: Tensor) -> None:
        self.module, self.x = module, x.to(next(module.parameters()).dtype)

    def __call__(self) -> Tensor:
        return self.module(self.x)[0]  # type: ignore[no-any-return]

    def results(self) -> Results:
        return {"output": self()}


def _inference(shape: Shape, ours: Any, theirs: Any, x: Tensor) -> Contest:
    peers = _forms(theirs, shape.T, lambda module, steps: _Inference(module, x[:steps]))
    return _alike(shape, _Inference(ours, x), peers, peers["torch fp32"].results)


def _recorded(shape: Shape, ours: Any, theirs: Any, x: Tensor) -> Contest:
    allowed = tolerance(shape)

    def recorded() -> tuple[Tensor, Any]:
        with record(ours) as trace:
            y, _ = ours(x)
        return y, trace

    def check() -> float:
        y, trace = recorded()
        if not torch.equal(y, ours(x)[0]):
            raise WrongResultError("output: differs between recorded and not")
        before = torch.cat((torch.zeros(1, *trace.cell.shape[1:]), trace.cell[:-1]))
        cell = trace.forget * before + trace.input * trace.candidate
        got = {"output": y, "cell": trace.cell, "hidden": trace.hidden}
        want = {"output": theirs(x)[0], "cell": cell, "hidden": trace.output * torch.tanh(trace.cell)}
        return compare(got, want, allowed)

    return Contest(recorded, {"not recorded": lambda: ours(x)}, check, allowed, shape.T * shape.N)


class _LayerStep:
    """A layer that takes one step a call and carries its state."""

    def __init__(self, module: Any, x: Tensor, h: Tensor, c: Tensor) -> None:
        dtype = next(module.parameters()).dtype
        self.module, self.x, self.state = module, x.to(dtype), (h.to(dtype), c.to(dtype))

    def __call__(self) -> None:
        _, self.state = self.module(self.x, self.state)

    def results(self) -> Results:
        """Return the state after one step from the state as it is, which stays."""
        h, c = self.module(self.x, self.state)[1]
        return {"h": h, "c": c}


def _layer_step(shape: Shape, ours: Any, theirs: Any, x: Tensor) -> Contest:
    h, c = torch.rand(1, 1, shape.H), torch.randn(1, 1, shape.H)
    peers = _forms(theirs, 1, lambda module, steps: _LayerStep(module, x, h, c))
    return _alike(shape, _LayerStep(ours, x, h, c), peers, peers["torch fp32"].results)


class _Packed:
    """The kernels' own sequence on NumPy arrays, its weights packed once, as ONNX Runtime packs its own."""

    def __init__(self, cell: str, module: nn.Module, x: Tensor) -> None:
        packed = kernels.PackedLSTM if cell == "lstm" else kernels.PackedGRU
        self.model = packed(*(p.detach().numpy() for p in module.parameters()))
        self.x = x.numpy()

    def __call__(self) -> Any:
        return self.model.forward(self.x).hidden

    def results(self) -> Results:
        return {"output": torch.from_numpy(self())}


class _PackedStep:
    """The kernels' own step, in place on NumPy arrays."""

    def __init__(self, module: nn.Module, x: Tensor, h: Tensor, c: Tensor) -> None:
        self.model = kernels.PackedLSTM(*(p.detach().numpy() for p in module.parameters()))
        self.x, self.h, self.c = (t[0].clone().numpy() for t in (x, h, c))

    def __call__(self) -> None:
        self.model.step(self.x, self.h, self.c)

    def results(self) -> Results:
        h, c = self.h.copy(), self.c.copy()
        self.model.step(self.x, h, c)
        return {"h": torch.from_numpy(h)[None], "c": torch.from_numpy(c)[None]}


def _against_onnx(
    work: Work, shape: Shape, ours: Any, theirs: Any, x: Tensor, threads: int, seconds: float
) -> Contest:
    feeds = {"x": x.numpy()}
    mine: _Rival = _Packed(work.cell, ours, x) if work.task == "packed" else _Inference(ours, x)
    if work.steps:
        h, c = torch.rand(1, 1, shape.H), torch.randn(1, 1, shape.H)
        feeds |= {"h": h.numpy(), "c": c.numpy()}
        mine = (_PackedStep if work.task == "step" else _LayerStep)(ours, x, h, c)
    graph = onnx_peer.graph(work.cell, theirs.state_dict(), work.steps)
    outputs, outside = onnx_peer.measure(graph, feeds, threads, seconds)
    want = {name: torch.from_numpy(array).view(-1, shape.N, shape.H) for name, array in outputs.items()}
    return _alike(shape, mine, {}, lambda: want, outside)
