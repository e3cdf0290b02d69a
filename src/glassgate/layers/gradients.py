"""The gradients of the operators, of any order.

The first derivative is a kernel. The derivative of that one is taken of the reference, in plain operations
that are differentiable themselves, so every order follows.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch._functorch.utils import enable_single_level_autograd_function
from torch.autograd.function import _SingleLevelFunction

from glassgate.layers.operators import LIBRARY, SCAN, SCAN_BACKWARD, Maybe
from glassgate.layers.reference import scan as reference_scan
from glassgate.layers.reference import without_autocast

__all__ = ["input_gradients", "register"]

# The inputs of both operators begin with cell, the seven that have gradients, lengths, resets, reverse, bf16.


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    hidden, _, c_n, gates, state = output
    ctx.set_materialize_grads(False)
    ctx.mark_non_differentiable(*(t for t in (c_n, gates, state) if t.dim() == 1))
    ctx.cell, ctx.reverse, ctx.bf16, ctx.saved = inputs[0], inputs[10], inputs[11], inputs[12]
    ctx.save_for_backward(*inputs[1:10], hidden, gates, state)


def _gradients(ctx: Any, *d_outputs: Maybe) -> tuple[Maybe, ...]:
    saved = ctx.saved_tensors
    if not ctx.saved:
        with torch.no_grad():
            hidden, _, _, gates, state = SCAN(ctx.cell, *saved[:9], ctx.reverse, ctx.bf16, True)
        saved = (*saved[:9], hidden, gates, state)
    wanted = ctx.needs_input_grad[2:9]  # behind the key set and the cell
    given = input_gradients(ctx.cell, saved, ctx.reverse, ctx.bf16, d_outputs, wanted)
    return (None, *given, *[None] * 5)


def input_gradients(
    cell: int,
    saved: Sequence[Any],
    reverse: bool,
    bf16: bool,
    d_outputs: Sequence[Maybe],
    wanted: Sequence[bool],
) -> list[Maybe]:
    """Return the gradients on x, weights, biases, h0 and c0 through torch's dispatcher, None unless wanted.

    Parameters
    ----------
    saved
        The inputs from x to resets, then hidden, gates and state; None for a state that the cell lacks.
    d_outputs
        The gradients on hidden, h_n, c_n, gates and state, or None.
    """
    # Cut from their history: how they depend on the inputs is part of the inputs' second derivatives.
    hidden, gates, state = (saved[0].new_empty(0) if t is None else t.detach() for t in saved[9:])
    d_inputs = SCAN_BACKWARD(cell, *saved[:9], reverse, bf16, hidden, gates, state, *d_outputs, list(wanted))
    return [d if want else None for d, want in zip(d_inputs, wanted, strict=True)]


def _keep_backward(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    ctx.cell, ctx.reverse, ctx.bf16, ctx.wanted = inputs[0], inputs[10], inputs[11], inputs[20]
    ctx.save_for_backward(*inputs[1:10], *inputs[15:20])


def _second_gradients(ctx: Any, *dd_inputs: Tensor) -> tuple[Maybe, ...]:
    """Differentiate `scan_backward`: the gradients of the reference, differentiated once more."""
    saved: tuple[Maybe, ...] = ctx.saved_tensors
    values, (lengths, resets), d_outputs = saved[:7], saved[7:9], saved[9:]
    some = [k for k in range(7) if values[k] is not None]  # the inputs that there are
    wanted = [some.index(k) for k in range(7) if ctx.wanted[k]]
    given = [k for k in range(5) if d_outputs[k] is not None]

    def outputs(*inputs: Tensor) -> tuple[Tensor, ...]:
        full: list[Maybe] = [None] * 7
        for k, value in zip(some, inputs, strict=True):
            full[k] = value
        scan: Callable[..., tuple[Tensor, ...]] = reference_scan
        everything = scan(ctx.cell, *full, lengths, resets, ctx.reverse, ctx.bf16, True)
        return tuple(everything[k] for k in given)

    def gradients(*inputs: Tensor) -> tuple[Tensor, ...]:
        pull = torch.func.vjp(outputs, *inputs[: len(some)])[1]
        d_inputs = pull(inputs[len(some) :])
        return tuple(d_inputs[k] for k in wanted)

    with without_autocast(ctx.saved_tensors[0]):  # as the kernels, which no autocast changes
        pull = torch.func.vjp(gradients, *(values[k] for k in some), *(d_outputs[k] for k in given))[1]
        second = iter(pull(tuple(dd for dd, want in zip(dd_inputs, ctx.wanted, strict=True) if want)))
    d_all: list[Maybe] = [None] * 21
    for k in (*(1 + k for k in some), *(15 + k for k in given)):
        d_all[k] = next(second)
    return tuple(d_all)


def _differentiate(
    name: str, op: Any, keep: Callable[..., None], gradients: Callable[..., tuple[Maybe, ...]]
) -> None:
    """Register the gradients of an operator.

    `torch.library.register_autograd` would do but for torch.func: what it makes refuses to run inside a
    transform. A function of a single level is what torch's own operators are to the transforms.
    """

    def below(keyset: Any, inputs: tuple[Any, ...]) -> tuple[Tensor, ...]:
        with torch._C._AutoDispatchBelowAutograd():
            output: tuple[Tensor, ...] = op.redispatch(keyset & torch._C._after_autograd_keyset, *inputs)
        return output

    class WithGradients(_SingleLevelFunction):
        @staticmethod
        def forward(ctx: Any, keyset: Any, *inputs: Any) -> tuple[Tensor, ...]:
            output = below(keyset, inputs)
            keep(ctx, inputs, output)
            return output

        @staticmethod
        def backward(ctx: Any, *d_outputs: Maybe) -> tuple[Maybe, ...]:
            return (None, *gradients(ctx, *d_outputs))

    def run(keyset: Any, *inputs: Any) -> tuple[Tensor, ...]:
        if torch.is_grad_enabled() and any(isinstance(v, Tensor) and v.requires_grad for v in inputs):
            with enable_single_level_autograd_function():
                output: tuple[Tensor, ...]
                output = WithGradients.apply(keyset, *inputs)  # type: ignore[attr-defined]
            return output
        return below(keyset, inputs)

    LIBRARY.impl(name, run, "Autograd", with_keyset=True)


def register() -> None:
    """Make both operators differentiable."""
    _differentiate("scan", SCAN, _keep, _gradients)
    _differentiate("scan_backward", SCAN_BACKWARD, _keep_backward, _second_gradients)
