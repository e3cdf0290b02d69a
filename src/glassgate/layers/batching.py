"""The operators under vmap: a batch of inputs is more sequences, a batch of weights is a loop."""

from typing import Any

import torch
from torch import Tensor

from glassgate.layers.operators import LIBRARY, SCAN, SCAN_BACKWARD

__all__ = ["register"]

_BATCH = {"x": 1, "h0": 0, "c0": 0, "lengths": 0, "resets": 1}
_AT = {"x": 1, "h0": 6, "c0": 7, "lengths": 8, "resets": 9}


def _scan_vmap(info: Any, in_dims: tuple[int | None, ...], *inputs: Any) -> Any:
    if any(dim is not None for dim in in_dims[2:6]):
        return _loop(SCAN, info, in_dims, inputs)
    full = list(inputs)
    for name, k in _AT.items():
        tensor, dim, at = inputs[k], in_dims[k], _BATCH[name]
        if tensor is None:
            continue
        if dim is None:
            tensor = tensor.unsqueeze(at).expand(*tensor.shape[:at], info.batch_size, *tensor.shape[at:])
        else:
            tensor = tensor.movedim(dim, at)
        full[k] = tensor.flatten(at, at + 1)
    outputs, out_dims = [], []
    for output, at in zip(SCAN(*full), (1, 0, 0, 1, 1), strict=True):
        there = output.dim() > 1  # what was not asked for is one empty tensor, batched or not
        outputs.append(output.unflatten(at, (info.batch_size, -1)) if there else output)
        out_dims.append(at if there else None)
    return tuple(outputs), tuple(out_dims)


def _scan_backward_vmap(info: Any, in_dims: tuple[int | None, ...], *inputs: Any) -> Any:
    return _loop(SCAN_BACKWARD, info, in_dims, inputs)


def _loop(op: Any, info: Any, in_dims: tuple[int | None, ...], inputs: tuple[Any, ...]) -> Any:
    columns = []
    for value, dim in zip(inputs, in_dims, strict=True):
        batched = isinstance(value, Tensor) and dim is not None
        columns.append(value.unbind(dim) if batched else [value] * info.batch_size)
    outputs = [op(*row) for row in zip(*columns, strict=True)]
    stacked = tuple(torch.stack(column) for column in zip(*outputs, strict=True))
    return stacked, (0,) * len(stacked)


def register() -> None:
    """Give both operators their vmap rules."""
    torch.library.register_vmap(SCAN, _scan_vmap, lib=LIBRARY)
    torch.library.register_vmap(SCAN_BACKWARD, _scan_backward_vmap, lib=LIBRARY)
