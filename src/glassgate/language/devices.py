"""Where a training computes: on the CPU by the kernels, on a CUDA device by torch's own layers."""

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal, TypeAlias, get_args

import torch

from glassgate.errors import GlassgateError

__all__ = ["DeviceChoice", "choose_device", "computing", "has_kernels"]

DeviceChoice: TypeAlias = Literal["cpu", "cuda"]


def choose_device(name: DeviceChoice) -> torch.device:
    """Return the device of this process; of several on one machine each has a device of its own.

    Parameters
    ----------
    name
        ``"cpu"`` or ``"cuda"``.

    Returns
    -------
    torch.device
        A CUDA device with its number: that of the process, as ``torchrun`` counts them on a machine.

    Raises
    ------
    GlassgateError
        There is no such device, or not one for each process.

    Examples
    --------
    >>> choose_device("cpu")
    device(type='cpu')
    """
    if name not in get_args(DeviceChoice):
        raise GlassgateError(f"--device: must be {' or '.join(get_args(DeviceChoice))}, got {name!r}")
    if name == "cpu":
        return torch.device("cpu")
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if count == 0:
        raise GlassgateError("--device: torch finds no CUDA device here: expected one, or --device cpu")
    number = int(os.environ.get("LOCAL_RANK", "0"))
    if number >= count:
        raise GlassgateError(
            f"--device: each process needs a CUDA device of its own: expected at least {number + 1}, "
            f"got {count}"
        )
    return torch.device("cuda", number)


def has_kernels(device: torch.device) -> bool:
    """Tell whether the kernels compute on a device.

    Examples
    --------
    >>> has_kernels(torch.device("cpu")), has_kernels(torch.device("cuda"))
    (True, False)
    """
    return device.type == "cpu"


@contextmanager
def computing(device: torch.device) -> Iterator[None]:
    """Compute on a device in full float32, and leave torch's generators as they were.

    Examples
    --------
    >>> with computing(torch.device("cpu")):
    ...     _ = torch.manual_seed(1)
    """
    on_cuda = device.type == "cuda"
    # cuDNN's recurrences would round what they multiply to TF32, ten bits.
    exact = torch.backends.cudnn.flags(enabled=True, allow_tf32=False)
    with torch.random.fork_rng(devices=[device] if on_cuda else []), warnings.catch_warnings(), exact:
        # That torch computes is what was asked for; its weights are of one piece only until one is dropped.
        warnings.filterwarnings(
            "ignore", message=r"\w+: no kernel for device cuda, torch's own path computes"
        )
        warnings.filterwarnings("ignore", message="RNN module weights are not part of single contiguous")
        yield
