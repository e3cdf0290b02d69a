"""Gradients that know which rows they have: of an embedding, of V, of the two tied.

A training step of a next-word model touches a part of its largest matrices: the rows of the words it reads
and those of the clusters it predicts. `track` gives a matrix a `RowGradient`. The layers here that read the
matrix then add to that, instead of building a gradient of the whole matrix, and an optimiser finds the rows
in play and their values there. A matrix that is not tracked has a gradient like any other.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from glassgate.errors import GlassgateError
from glassgate.kernels import _native

__all__ = ["Embedding", "RowGradient", "track", "tracked", "untrack"]


class RowGradient:
    """The gradient on a matrix, row by row, as it gathers over the backward passes of a step.

    Parameters
    ----------
    parameter : Parameter [rows, width]
        The matrix: float32 or float64, dense, on the CPU.

    Attributes
    ----------
    values : Tensor [rows, width]
        The gradient of the rows in play; elsewhere anything.
    in_play : Tensor of uint8 [rows]
        1 for the rows that have a gradient.
    before_read
        Called with row numbers, rising, before a forward pass that will need their gradient reads
        them; with None for all rows. An optimiser that lets rows lag behind brings them up to date.

    Examples
    --------
    >>> embedding = Embedding(5, 2)
    >>> gradient = track(embedding.weight)
    >>> embedding(torch.tensor([3, 1, 3])).sum().backward()
    >>> gradient.rows(), gradient.values[gradient.rows()]
    (tensor([1, 3]), tensor([[1., 1.],
            [2., 2.]]))
    """

    def __init__(self, parameter: nn.Parameter) -> None:
        if parameter.dim() != 2 or not parameter.is_contiguous() or parameter.device.type != "cpu":
            raise GlassgateError(
                f"track: must be a dense matrix on the CPU, got {list(parameter.shape)} on {parameter.device}"
            )
        if parameter.dtype not in (torch.float32, torch.float64):
            raise GlassgateError(f"track: must be of float32 or float64, got {parameter.dtype}")
        self.values = torch.empty_like(parameter, requires_grad=False)
        self.in_play = torch.zeros(len(parameter), dtype=torch.uint8)
        self.before_read: Callable[[Tensor | None], None] | None = None
        self._turn = 0

    def clear(self) -> None:
        """Forget the gradient: no row is in play."""
        self.in_play.zero_()

    def rows(self) -> Tensor | None:
        """Return the numbers of the rows in play, rising; None when all are."""
        rows = self.in_play.nonzero().squeeze(1)
        return None if len(rows) == len(self.in_play) else rows

    def read(self, rows: Tensor | None) -> None:
        """Say that rows, rising numbers or None for all, are about to be read."""
        if self.before_read is not None:
            self.before_read(rows)

    def add(self, rows: Tensor, values: Tensor) -> None:
        """Add ``values`` [n, width] to the rows of these numbers [n], which may repeat."""
        values, rows = values.contiguous(), rows.contiguous()
        if values.dtype != self.values.dtype or values.shape != (len(rows), self.values.shape[1]):
            raise GlassgateError(
                f"track: the gradient must be {self.values.dtype} {[len(rows), self.values.shape[1]]}, "
                f"got {values.dtype} {list(values.shape)}"
            )
        _native.add_rows(
            values.dtype == torch.float64,
            self.values.shape[0],
            self.values.shape[1],
            len(rows),
            rows.data_ptr(),
            values.data_ptr(),
            self.values.data_ptr(),
            self.in_play.data_ptr(),
        )

    def begin(self) -> tuple[Tensor, int]:
        """Return a matrix to write the gradient of some slices of rows to, and the turn to `commit`.

        It is ``values`` itself where no row is in play yet; what is written there counts once it
        is committed.
        """
        self._turn += 1
        if bool(self.in_play.any()):
            return torch.empty_like(self.values), self._turn
        return self.values, self._turn

    def commit(self, turn: int, written: Tensor, slices: list[slice], factor: float) -> None:
        """Add ``factor`` times the slices that were written to what `begin` returned.

        Raises
        ------
        GlassgateError
            Another turn has begun in between and has written to the same place, or this one was
            committed before.
        """
        direct = written.data_ptr() == self.values.data_ptr()
        if direct and (turn != self._turn or bool(self.in_play.any())):
            raise GlassgateError(
                "loss: with a tracked matrix each loss must be followed by its backward pass, once, before "
                "the next"
            )
        for part in slices:
            if factor != 1:
                written[part] *= factor
            if direct:
                self.in_play[part] = 1
            else:
                self.add(torch.arange(part.start, part.stop), written[part])


def track(parameter: nn.Parameter) -> RowGradient:
    """Gather the gradient on a matrix by rows from now on; see `RowGradient`.

    Its ``grad`` stays None, and `torch.autograd.grad` finds none.

    Parameters
    ----------
    parameter : Parameter [rows, width]
        Read by `Embedding`, and as V by the output layers under ``loss(..., "mean")`` or ``"sum"``.

    Returns
    -------
    RowGradient
        The same for the same parameter.

    Raises
    ------
    GlassgateError
        It is no dense matrix of float32 or float64 on the CPU.
    """
    known = tracked(parameter)
    if known is None:
        known = RowGradient(parameter)
        parameter._row_gradient = known  # type: ignore[attr-defined]
    return known


def tracked(parameter: Tensor) -> RowGradient | None:
    """Return what `track` gave the parameter, or None."""
    return getattr(parameter, "_row_gradient", None)


def untrack(parameter: nn.Parameter) -> None:
    """Let a matrix have a gradient like any other again.

    Examples
    --------
    >>> embedding = Embedding(5, 2)
    >>> _ = track(embedding.weight)
    >>> untrack(embedding.weight)
    >>> embedding(torch.tensor([1])).sum().backward()
    >>> embedding.weight.grad is None
    False
    """
    if tracked(parameter) is not None:
        del parameter._row_gradient  # type: ignore[attr-defined]


class _Lookup(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, weight: Tensor, words: Tensor, gradient: RowGradient) -> Tensor:
        ctx.gradient = gradient
        ctx.save_for_backward(words)
        return weight[words]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_x: Tensor) -> tuple[None, None, None]:
        (words,) = ctx.saved_tensors
        ctx.gradient.add(words.flatten(), d_x.reshape(-1, d_x.shape[-1]))
        return None, None, None


class Embedding(nn.Embedding):
    """`torch.nn.Embedding`; of a tracked matrix (`track`) the gradient has the rows that were read.

    Parameters
    ----------
    num_embeddings, embedding_dim
        The number of words and the width, by torch's names.

    Examples
    --------
    >>> embedding = Embedding(10, 3)
    >>> embedding(torch.tensor([[1, 2], [3, 4]])).shape
    torch.Size([2, 2, 3])
    """

    def __init__(self, num_embeddings: int, embedding_dim: int) -> None:
        super().__init__(num_embeddings, embedding_dim)

    @torch.no_grad()
    def start_at(self, rows: Tensor) -> None:
        """Take over the vectors of the first words, [n, width]; the others stay."""
        self.weight[: len(rows)] = rows

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002  # torch's name for it
        """Return the rows of these numbers: [...] -> [..., width]."""
        gradient = tracked(self.weight)
        if gradient is None or not torch.is_grad_enabled():
            return super().forward(input)
        gradient.read(torch.unique(input))
        rows: Tensor = _Lookup.apply(self.weight, input, gradient)  # type: ignore[no-untyped-call]
        return rows
