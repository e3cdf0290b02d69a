"""Data-parallel training: processes that read a part of the streams each and move the weights as one."""

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import timedelta

import torch
from torch import Tensor, distributed, nn

from glassgate.errors import GlassgateError
from glassgate.layers.rows import tracked

__all__ = ["Ranks", "joined"]

PATIENCE = timedelta(hours=6)  # while the first tokenises, the others wait; one that ends is missed at once


class Ranks:
    """The processes of one training; a single one talks to nobody.

    Parameters
    ----------
    rank, count
        Which this one is, from 0, and how many there are. The first alone writes files.

    Examples
    --------
    >>> Ranks(1, 3).part(8), Ranks().first(0.5)
    (slice(2, 5, None), 0.5)
    """

    def __init__(self, rank: int = 0, count: int = 1) -> None:
        self.rank, self.count = rank, count

    def part(self, streams: int) -> slice:
        """Return which of so many streams are this one's; parts differ by one stream at most."""
        return slice(self.rank * streams // self.count, (self.rank + 1) * streams // self.count)

    def first(self, value: float) -> float:
        """Return the value that the first process gave: what clocks and measurements say must be one."""
        if self.count == 1:
            return value
        told = torch.tensor([value], dtype=torch.float64)
        with _reporting():
            distributed.broadcast(told, 0)
        return float(told)

    def share(self, values: Tensor) -> None:
        """Overwrite the values with those of the first process."""
        if self.count > 1:
            with _reporting():
                distributed.broadcast(values, 0)

    def together(self, own: Tensor, streams: int) -> Tensor:
        """Put all parts [layers, own streams, hidden] together, exactly: [layers, streams, hidden]."""
        if self.count == 1:
            return own
        whole = own.new_zeros(own.shape[0], streams, own.shape[2])
        whole[:, self.part(streams)] = own
        with _reporting():
            distributed.all_reduce(whole)
        return whole

    def add_gradients(self, parameters: Iterable[nn.Parameter], loss: float) -> float:
        """Replace each gradient by the sum over the processes; of tracked matrices rows alone travel.

        Parameters
        ----------
        parameters
            The same in each process, in the same order; each gradient is that of its own part of the loss.
        loss
            That part.

        Returns
        -------
        float
            The sum of the losses.

        Notes
        -----
        Of a tracked matrix a byte for each row tells which rows are in play anywhere; those rows travel,
        zeros where a process has none. All else is one message. The sums are the same bits everywhere, so
        that the weights stay alike without being sent.
        """
        if self.count == 1:
            return loss
        dense = []
        with _reporting():
            for parameter in parameters:
                gradient = tracked(parameter)
                if gradient is None:
                    if parameter.grad is None:
                        parameter.grad = torch.zeros_like(parameter)
                    dense.append(parameter.grad)
                    continue
                anywhere = gradient.in_play.clone()
                distributed.all_reduce(anywhere, distributed.ReduceOp.MAX)
                rows = anywhere.nonzero().squeeze(1)
                values = gradient.values[rows]
                values[gradient.in_play[rows] == 0] = 0
                distributed.all_reduce(values)
                gradient.values[rows] = values
                gradient.in_play.copy_(anywhere)
            message = torch.cat([g.flatten() for g in dense] + [dense[0].new_tensor([loss])])
            distributed.all_reduce(message)
        start = 0
        for g in dense:
            g.copy_(message[start : start + g.numel()].view_as(g))
            start += g.numel()
        return float(message[-1])


@contextmanager
def joined(device: torch.device) -> Iterator[Ranks]:
    """Meet the other processes that ``torchrun`` started; without it there is one.

    They talk by gloo; what lies on a CUDA device travels by nccl.

    Parameters
    ----------
    device
        Of this process.

    Yields
    ------
    Ranks
        Of this process.

    Raises
    ------
    GlassgateError
        When another process ended before the work did.
    """
    count = int(os.environ.get("WORLD_SIZE", "1"))
    if count == 1:
        yield Ranks()
        return
    with _reporting():
        if device.type == "cuda":
            torch.cuda.set_device(device)
            distributed.init_process_group("cpu:gloo,cuda:nccl", timeout=PATIENCE, device_id=device)
        else:
            distributed.init_process_group("gloo", timeout=PATIENCE)
    try:
        yield Ranks(distributed.get_rank(), count)
    finally:
        distributed.destroy_process_group()


@contextmanager
def _reporting() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        reason = str(error).splitlines()[0]
        raise GlassgateError(
            f"training: another of its processes is gone; what was saved stays, --resume goes on: {reason}"
        ) from error
