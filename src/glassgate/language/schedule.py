"""The learning rate over a training, and the order in which it reads its text."""

import numpy as np
import torch
from torch import Tensor

from glassgate.language.corpus import TokenArray

__all__ = ["Streams", "one_cycle"]

WARM_UP = 0.1  # share of the budget
START, END = 0.04, 0.001  # of the peak


def one_cycle(progress: float) -> float:
    """Return the learning rate as a share of its peak: up in a line, and down in another.

    Parameters
    ----------
    progress
        The share of the budget that is spent, 0 to 1; the rate ends with the budget.

    Returns
    -------
    float
        0.04 at the start, 1 after a tenth, 0.001 at the end.

    References
    ----------
    One cycle: Smith and Topin 2018, "Super-convergence", arXiv:1708.07120. Down in a line to next to
    nothing: Bergsma et al. 2025, "Straight to zero", arXiv:2502.15938.

    Examples
    --------
    >>> [round(one_cycle(p), 4) for p in (0, 0.05, 0.1, 0.55, 1)]
    [0.04, 0.52, 1.0, 0.5005, 0.001]
    """
    if progress < WARM_UP:
        return START + (1 - START) * progress / WARM_UP
    return END + (1 - END) * (1 - progress) / (1 - WARM_UP)


class Streams:
    """A text read as N parallel streams in pieces of T words: truncated BPTT.

    The text is a ring that starts at a place drawn from the seed; it is cut into N streams of equal length.
    Each epoch starts up to T words further on, so that the pieces' borders lie elsewhere, and no more: a word
    is met again an epoch later, never soon after. What a step reads depends on its number alone, so there is
    no reader's state to save.

    Parameters
    ----------
    tokens
        The training text; a memory map is read piece by piece.
    batch, unroll
        N and T.
    seed
        Of the training.
    random
        Whether the pieces' borders move, each by up to a quarter of T to either side: the steps stay as
        many, and a word does not stand at the same distance from a border in each epoch.

    Examples
    --------
    >>> streams = Streams(np.arange(11, dtype=np.uint16), batch=2, unroll=3, seed=1)
    >>> len(streams)  # steps in an epoch: 5 words a stream, 3 and then 2
    2
    >>> words, targets = streams.read(0)
    >>> torch.equal((words + 1) % 11, targets)
    True
    """

    def __init__(self, tokens: TokenArray, batch: int, unroll: int, seed: int, random: bool = False) -> None:
        self.tokens = tokens
        self.unroll = unroll
        self.seed = seed
        self.random = random
        self.start = int(np.random.default_rng(seed).integers(len(tokens)))
        self.length = (len(tokens) - 1) // batch
        self.starts = np.arange(batch, dtype=np.int64) * self.length

    def __len__(self) -> int:
        return -(-self.length // self.unroll)

    def read(self, step: int) -> tuple[Tensor, Tensor]:
        """Return the words [T, N] of a step, counted from 0, and the words that follow them."""
        epoch, position = divmod(step, len(self))
        offset = self.start + int(np.random.default_rng((self.seed, epoch)).integers(self.unroll))
        first, last = self._border(epoch, position), self._border(epoch, position + 1)
        steps = np.arange(first, last + 1, dtype=np.int64)
        places = (offset + steps[:, None] + self.starts) % len(self.tokens)
        words = torch.from_numpy(self.tokens[places].astype(np.int64))
        return words[:-1], words[1:]

    def _border(self, epoch: int, position: int) -> int:
        """Return where a piece begins; the first begins and the last ends with the streams."""
        if not 0 < position < len(self):
            return min(position * self.unroll, self.length)
        if not self.random:
            return position * self.unroll
        most = self.unroll // 4
        moved = int(np.random.default_rng((self.seed, epoch, position)).integers(-most, most + 1))
        return min(position * self.unroll + moved, self.length - 1)
