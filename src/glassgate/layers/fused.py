"""Linear layer, softmax and cross-entropy in one, with the gradients taken on the way forward.

With the factor of the sum known beforehand (1, or 1 / rows for a mean) nothing is left for the backward
pass but to hand the gradients on. So logits live only for a chunk of rows, which stays in the cache: three
matrix products and one pass over the chunk, nothing more. The idea is that of Hsu et al. 2024, "Liger
kernel: efficient Triton kernels for LLM training", arXiv:2410.10989.
"""

from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from glassgate.kernels import _native
from glassgate.layers.operators import KERNEL_DTYPES
from glassgate.layers.rows import RowGradient, tracked

__all__ = ["Layout", "fused_loss", "has_kernel"]

CHUNK = 1 << 23  # logits that are held at once, unless a single row has more
BLOCK = 4096  # words whose gradient is one product in bfloat16: it and what torch turns for it stay small


class Layout(NamedTuple):
    """Where words are cut, from 0 to their number; how many logits are held; whether factors are bfloat16."""

    bounds: tuple[int, ...]
    chunk: int = CHUNK
    bf16: bool = False


def has_kernel(h: Tensor, weight: Tensor) -> bool:
    """Tell whether the fused path computes these: float32 or float64 on the CPU."""
    return h.device.type == "cpu" and h.dtype == weight.dtype and h.dtype in KERNEL_DTYPES


class _Wanted(NamedTuple):
    """Where the gradients of one softmax go; None where they are not wanted."""

    h: Tensor | None
    V: Tensor | None
    c: Tensor | None


def _softmax(
    h: Tensor, V: Tensor, c: Tensor | None, targets: Tensor, scale: float, layout: Layout, d: _Wanted
) -> Tensor:
    """Return the losses of the rows under one softmax; write ``scale`` times their gradients, add d.h."""
    if layout.bf16:
        return _rounded_softmax(h, V, c, targets, scale, layout, d)
    losses = h.new_empty(len(h))
    parts, space = _chunks(h, len(V), layout.chunk)
    for part in parts:
        logits = space[: part.stop - part.start]
        torch.mm(h[part], V.t(), out=logits)
        _native.softmax_loss(
            logits.dtype == torch.float64,
            len(logits),
            len(V),
            len(V),
            *_pointers(logits, c, targets[part], scale, losses[part]),
        )
        if d.h is not None:
            d.h[part].addmm_(logits, V)
        if d.V is not None:
            d.V.addmm_(logits.t(), h[part], beta=min(part.start, 1))
        if d.c is not None:
            torch.sum(logits, 0, out=d.c) if part.start == 0 else d.c.add_(logits.sum(0))
    return losses


def _rounded_softmax(
    h: Tensor, V: Tensor, c: Tensor | None, targets: Tensor, scale: float, layout: Layout, d: _Wanted
) -> Tensor:
    """Do the same with factors and logits of bfloat16, twice as many at once: they are half as long."""
    losses = h.new_empty(len(h))
    h, V = h.bfloat16(), V.bfloat16()
    parts, space = _chunks(h, len(V), 2 * layout.chunk)
    blocks = [slice(i, i + BLOCK) for i in range(0, len(V), BLOCK)]
    d_c = None if d.c is None else d.c.zero_().data_ptr()
    for part in parts:
        logits = space[: part.stop - part.start]
        torch.mm(h[part], V.t(), out=logits)
        _native.rounded_softmax_loss(
            len(logits),
            len(V),
            *_pointers(logits, c, targets[part], scale, losses[part]),
            d_c,
        )
        if d.h is not None:
            d.h[part].add_(logits @ V)
        if d.V is not None:
            for block in blocks:
                d_V = logits[:, block].t() @ h[part]
                d.V[block].copy_(d_V) if part.start == 0 else d.V[block].add_(d_V)
    return losses


def _pointers(
    logits: Tensor, c: Tensor | None, targets: Tensor, scale: float, losses: Tensor
) -> tuple[int, int | None, int, float, int]:
    """Return what both kernels take: they write the losses, and the logits' gradients in their place."""
    bias = None if c is None else c.data_ptr()
    return logits.data_ptr(), bias, targets.data_ptr(), scale, losses.data_ptr()


def _chunks(h: Tensor, entries: int, most: int) -> tuple[list[slice], Tensor]:
    """Return the rows that are computed at once, about equally many, and memory for their logits."""
    rows = len(h)
    count = -(-rows // max(1, most // entries))
    step = -(-rows // count) if rows else 0
    return [slice(i, min(i + step, rows)) for i in range(0, rows, step or 1)], h.new_empty(step, entries)


class _Head(NamedTuple):
    """The softmax over the frequent words and an entry for each cluster, side by side for one product."""

    V: Tensor
    c: Tensor | None

    @classmethod
    def join(cls, weights: "_Weights", first: int) -> "_Head":
        assert weights.clusters is not None
        V = torch.cat([weights.V[:first], weights.clusters])
        if weights.c is None or weights.clusters_c is None:
            return cls(V, None)
        return cls(V, torch.cat([weights.c[:first], weights.clusters_c]))


class _Weights(NamedTuple):
    """The parameters of an output layer, or the gradients on those that want one."""

    V: Tensor
    c: Tensor | None
    clusters: Tensor | None
    clusters_c: Tensor | None


class _FusedLoss(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        h: Tensor,
        V: Tensor,
        c: Tensor | None,
        clusters: Tensor | None,
        clusters_c: Tensor | None,
        targets: Tensor,
        scale: float,
        layout: Layout,
        rows: RowGradient | None,
    ) -> Tensor:
        weights = _Weights(V, c, clusters, clusters_c)
        want_h, want_V, *want = ctx.needs_input_grad[:5]
        d_h = torch.zeros_like(h) if want_h else None
        d_rest = [
            torch.zeros_like(w) if w is not None and wanted else None
            for w, wanted in zip(weights[1:], want, strict=True)
        ]
        d_V, ctx.turn, ctx.rows = None, 0, rows if want_V else None
        if want_V:
            d_V, ctx.turn = (torch.empty_like(V), 0) if rows is None else rows.begin()
        gradients = (d_h, d_V, *d_rest)
        if clusters is None and len(layout.bounds) == 2:
            if rows is not None:
                rows.read(None)
            losses = _softmax(h, V, c, targets, scale, layout, _Wanted(*gradients[:3]))
            total, ctx.slices = losses.sum(dtype=torch.float64), [slice(0, len(V))]
        else:
            total, ctx.slices = _clustered(h, weights, targets, scale, layout, gradients, rows)
        ctx.written = None if rows is None else d_V
        ctx.save_for_backward(d_h, None if rows is not None else d_V, *d_rest)
        return (total * scale).to(h.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        factor = float(upstream)
        if ctx.rows is not None:
            ctx.rows.commit(ctx.turn, ctx.written, ctx.slices, factor)
        gradients = ctx.saved_tensors
        if factor != 1:
            gradients = [None if d is None else d * factor for d in gradients]
        return (*gradients, None, None, None, None)


def _clustered(
    h: Tensor,
    weights: _Weights,
    targets: Tensor,
    scale: float,
    layout: Layout,
    gradients: tuple[Tensor | None, ...],
    rows: RowGradient | None,
) -> tuple[Tensor, list[slice]]:
    """Return the sum of the losses and the slices of V that have a gradient; write the gradients.

    With entries for clusters the first part of V is in the head; without there is no head.
    """
    d_h, d_V, d_c, _, _ = gradients
    number = torch.bucketize(targets, torch.tensor(layout.bounds[1:-1]), right=True)
    sizes = torch.bincount(number, minlength=len(layout.bounds) - 1).tolist()
    first = 0 if weights.clusters is None else layout.bounds[1]
    # Clusters beyond V have their words elsewhere: of these rows the head's entry alone counts here.
    parts = zip(pairwise(layout.bounds), sizes, strict=True)
    inside = [(a, b, n) for (a, b), n in parts if b <= len(weights.V)]
    clusters = inside[1:] if first else inside
    slices = [slice(a, b) for a, b, n in clusters if n]
    touched = [slice(0, first), *slices] if first else slices
    if rows is not None:
        rows.read(torch.cat([torch.arange(s.start, s.stop) for s in touched]))
    elif d_V is not None:
        for a, b, n in clusters:
            if n == 0:
                d_V[a:b] = 0
    total = torch.zeros((), dtype=torch.float64)
    if first:
        entries = torch.where(number == 0, targets, first - 1 + number)
        total += _head(h, weights, entries, scale, layout, gradients)
    # The rows of the rare words, cluster by cluster. They are few, and as many as chance will have it: for
    # each new number of them a product of bfloat16 is compiled first, which takes longer than it.
    layout = layout._replace(bf16=False)
    start = sizes[0] if first else 0
    order = torch.argsort(number, stable=True)[start : start + sum(n for _, _, n in clusters)]
    h_rare, targets = h[order], targets[order]
    d_rare = None if d_h is None else torch.zeros_like(h_rare)
    start = 0
    for words, size in zip(slices, (n for _, _, n in clusters if n), strict=True):
        part = slice(start, start + size)
        start += size
        d = _Wanted(*(None if g is None else g[s] for g, s in ((d_rare, part), (d_V, words), (d_c, words))))
        c = None if weights.c is None else weights.c[words]
        inner = targets[part] - words.start
        total += _softmax(h_rare[part], weights.V[words], c, inner, scale, layout, d).sum(dtype=torch.float64)
    if d_h is not None and d_rare is not None:
        d_h.index_add_(0, order, d_rare)
    return total, touched


def _head(
    h: Tensor,
    weights: _Weights,
    entries: Tensor,
    scale: float,
    layout: Layout,
    gradients: tuple[Tensor | None, ...],
) -> Tensor:
    """Return the sum of the head's losses; write the gradients on h, its words and the clusters' entries."""
    d_h, d_V, d_c, d_clusters, d_clusters_c = gradients
    first = layout.bounds[1]
    head = _Head.join(weights, first)
    d_head = None if d_V is None and d_clusters is None else torch.empty_like(head.V)
    d_head_c = None if head.c is None or (d_c is None and d_clusters_c is None) else torch.empty_like(head.c)
    losses = _softmax(h, head.V, head.c, entries, scale, layout, _Wanted(d_h, d_head, d_head_c))
    for whole, parts in ((d_head, (d_V, d_clusters)), (d_head_c, (d_c, d_clusters_c))):
        if whole is not None:
            if parts[0] is not None:
                parts[0][:first] = whole[:first]
            if parts[1] is not None:
                parts[1].copy_(whole[first:])
    return losses.sum(dtype=torch.float64)


def fused_loss(
    h: Tensor,
    V: Tensor,
    c: Tensor | None,
    targets: Tensor,
    layout: Layout,
    scale: float,
    clusters: Tensor | None = None,
    clusters_c: Tensor | None = None,
) -> Tensor:
    """Return ``scale`` times the sum of -log p(target), its gradients ready.

    Parameters
    ----------
    h : Tensor [M, width]
        float32 or float64, on the CPU.
    V, c : Tensor [words, width] and [words]
        Weights and biases; c may be None. Where V is tracked (`glassgate.layers.track`), its
        gradient goes there.
    targets : Tensor of int64 [M]
        Each from 0 to words - 1.
    layout
        The cut of the words and how much is computed at once.
    scale
        1, or 1 / M for a mean.
    clusters, clusters_c : Tensor [C, width] and [C]
        Of an adaptive softmax: the head's entries for the clusters. V may end before the words do, at
        the end of a cluster: of a word beyond it p is that of its cluster. Where the words are cut and
        these are missing, p is a word's share of its cluster.

    Returns
    -------
    Tensor
        A scalar of h's dtype. It can be differentiated once.

    Examples
    --------
    >>> h, V = torch.zeros(3, 2), torch.zeros(4, 2)
    >>> loss = fused_loss(h, V, None, torch.tensor([0, 1, 3]), Layout((0, 4)), scale=1 / 3)
    >>> round(float(loss.exp()), 4)  # four words, any as probable as the others
    4.0
    """
    rows = tracked(V) if torch.is_grad_enabled() else None
    h, targets = h.contiguous(), targets.contiguous()
    arguments = (h, V, c, clusters, clusters_c, targets, scale, layout, rows)
    loss: Tensor = _FusedLoss.apply(*arguments)  # type: ignore[no-untyped-call]
    return loss
