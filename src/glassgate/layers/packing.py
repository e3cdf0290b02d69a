"""Packed weights, kept between calls.

The kernels read weights in an order of their own. Bringing them into it costs as much as a dozen steps or
more, so a module keeps what was packed for as long as its weights stay as they are. Whether they did is seen
by comparing them with a copy, bit by bit, before each use: that costs about as much as a step or two, and is
always right. ``Tensor._version`` would be cheaper to look at, but does not tell: ``p.data = ...``, in-place
operations on ``p.data``, writes through NumPy and writes of other processes leave it as it was.
"""

import ctypes
from typing import NamedTuple, TypeAlias

import torch
from torch import Tensor, nn

from glassgate.kernels import _native
from glassgate.layers.operators import Weights
from glassgate.layers.reference import gate_count

__all__ = ["Kind", "Packs", "packed", "plain"]

Kind: TypeAlias = tuple[int, torch.dtype, bool]
"""Cell, dtype, and whether to round to bf16."""


class Pack(NamedTuple):
    """Weights as the kernels read them, and what they were when they were packed."""

    kind: Kind
    copies: list[tuple[Tensor, int, int] | None]  #: of each weight a copy, its address, its bytes
    packed: _native.Packed


Packs: TypeAlias = dict[str, Pack]
"""What a module keeps, by layer and direction."""

_memcmp = ctypes.CDLL(None).memcmp
_memcmp.argtypes = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t)

_PLAIN = {torch.Tensor, nn.Parameter}


def plain(tensor: Tensor) -> bool:
    """Tell whether the tensor's values are what lies at its address, here on the CPU."""
    return type(tensor) in _PLAIN and tensor.is_cpu and not tensor.is_neg()


def packed(packs: Packs, name: str, kind: Kind, weights: Weights, I: int, H: int) -> _native.Packed | None:
    """Return the packed weights of a layer in one direction, from `packs` or packed now.

    Parameters
    ----------
    packs, name
        What the module keeps, and which of it this is.
    kind
        Cell, dtype and bf16.
    weights : Tensor [G H, I], [G H, H], [G H], [G H]
        The last two may be None.
    I, H
        Inputs and hidden units.

    Returns
    -------
    Packed or None
        None if the weights are not plain tensors in one piece, of this dtype and these shapes.
    """
    pack = packs.get(name)
    if pack is None or not _holds(pack, kind, weights):
        pack = _pack(kind, weights, I, H)
        if pack is None:
            return None
        packs[name] = pack
    return pack.packed


def _holds(pack: Pack, kind: Kind, weights: Weights) -> bool:
    """Tell whether these weights are, bit by bit, those that were packed."""
    if pack.kind != kind:
        return False
    for weight, kept in zip(weights, pack.copies, strict=True):
        if kept is None:
            if weight is not None:
                return False
            continue
        copy, at, size = kept
        if (
            weight is None
            or weight.dtype != kind[1]
            or weight.shape != copy.shape
            or not weight.is_contiguous()
            or not plain(weight)
            or _memcmp(weight.data_ptr(), at, size)
        ):
            return False
    return True


def _pack(kind: Kind, weights: Weights, I: int, H: int) -> Pack | None:
    cell, dtype, bf16 = kind
    rows = gate_count(cell) * H
    copies: list[tuple[Tensor, int, int] | None] = []
    for weight, shape in zip(weights, ((rows, I), (rows, H), (rows,), (rows,)), strict=True):
        if weight is None:
            copies.append(None)
            continue
        if weight.dtype != dtype or weight.shape != shape or not weight.is_contiguous() or not plain(weight):
            return None
        copy = weight.detach().clone()
        copies.append((copy, copy.data_ptr(), copy.nbytes))
    # Packed from the copies: whatever another thread does to the weights meanwhile, the two agree.
    w_ih, w_hh, b_ih, b_hh = (None if kept is None else kept[1] for kept in copies)
    twice = dtype == torch.float64
    return Pack(kind, copies, _native.Packed(cell, twice, I, H, w_ih, w_hh, b_ih, b_hh, bf16))
