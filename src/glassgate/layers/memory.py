"""Memory for large results, used again once nobody holds them.

A training step frees as much as it takes, and the C library hands large pieces back to the system at once.
The pages that come for the next step are first filled with zeros by the system, which has been seen to take
a sixth of the step. So the storages of the latest large results stay known here, and one that no tensor
refers to any more is given out anew.
"""

from math import prod
from sys import getrefcount

import torch
from torch import Tensor

__all__ = ["KEPT", "SMALL", "empty"]

KEPT = 256 << 20
"""How many bytes of storages are known at most."""

SMALL = 1 << 20
"""Bytes: what is smaller the C library keeps itself."""

_known: list[torch.UntypedStorage] = []  # the one that was given out last stands last


def _references() -> int:
    """Return how often Python counts an object that one local name holds: it differs between versions."""
    storage = torch.empty(0).untyped_storage()
    return getrefcount(storage)


_UNHELD = _references()


def empty(like: Tensor, *shape: int) -> Tensor:
    """Return a tensor of this shape with any content, of the dtype of ``like``, on the CPU.

    Examples
    --------
    >>> tuple(empty(torch.zeros(1), 3, 2).shape)
    (3, 2)
    """
    size = prod(shape) * like.dtype.itemsize
    if size < SMALL or size > KEPT:
        return like.new_empty(shape)
    storage = _idle(size)
    if storage is None:
        result = like.new_empty(shape)
        storage = result.untyped_storage()
    else:
        result = like.new_empty(0).set_(storage, 0, shape)  # type: ignore[call-overload]
    _known.append(storage)
    while sum(known.nbytes() for known in _known) > KEPT:
        del _known[:1]  # another thread may have been here
    return result


def _idle(size: int) -> torch.UntypedStorage | None:
    """Take out of those known a storage of this size that no tensor refers to and nobody else holds."""
    for place in range(len(_known) - 1, -1, -1):
        try:
            storage = _known.pop(place)  # out of the list: another thread cannot find it too
        except IndexError:
            continue
        alone = torch._C._storage_Use_Count(storage._cdata) == 1 and getrefcount(storage) == _UNHELD
        if alone and storage.nbytes() == size and not storage.is_shared():
            return storage
        _known.insert(place, storage)
    return None
