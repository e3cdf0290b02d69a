"""What the engine reads: a text whose next words are wanted, and a text that is written on."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from math import log as ln
from sys import float_info
from typing import Any, NamedTuple

import numpy as np

from glassgate.runtime.output import Best
from glassgate.runtime.sampling import Sampling
from glassgate.server.engine import Reader, Want

__all__ = ["Predictor", "Token", "Writer"]


class Predictor(Reader):
    """A text that is read to its end; then its most probable next words are wanted.

    Parameters
    ----------
    numbers
        The words, at least one.
    want
        What is wanted after the last.
    deadline
        As for `Reader`.
    """

    def __init__(self, numbers: Sequence[int], want: Want, deadline: float) -> None:
        super().__init__(deadline)
        self._numbers = numbers
        self._place = 0
        self._want = want
        self.future: asyncio.Future[Best] = asyncio.get_running_loop().create_future()

    def next(self) -> int:
        """Return the next word's number."""
        self._place += 1
        return self._numbers[self._place - 1]

    def want(self) -> Want | None:
        """Want the best words after the last."""
        return self._want if self._place == len(self._numbers) else None

    def take(self, best: Best | None, log: float | None) -> tuple[bool, Any]:
        """Deliver them: the text is done."""
        return True, best

    def deliver(self, event: Any) -> None:
        """Give them to whoever awaits `future`."""
        if self.future.done():
            return
        if isinstance(event, BaseException):
            self.future.set_exception(event)
        else:
            self.future.set_result(event)


class Token(NamedTuple):
    """A word that was read or written."""

    number: int
    log: float  #: of its probability, in nats
    top: Best  #: the most probable words in its place, as many as were wanted
    last: bool  #: whether no other follows


class Writer(Reader):
    """A text that is read and then written on, word by word.

    Parameters
    ----------
    numbers
        What is read, at least one word.
    words
        How many to write; 0 with ``score`` alone.
    sampling, vocabulary
        How each is drawn, and out of how many.
    top
        How many of the most probable words are told with each.
    score
        Whether the words that are read are told too, from the second on.
    deadline
        As for `Reader`.
    together
        How many words are delivered at once: waking the other thread for each costs more than drawing it.
    """

    def __init__(
        self,
        numbers: Sequence[int],
        words: int,
        sampling: Sampling,
        vocabulary: int,
        deadline: float,
        top: int = 0,
        score: bool = False,
        together: int = 1,
    ) -> None:
        super().__init__(deadline)
        self._numbers = numbers
        self._place = 0
        self._left = words
        self._sampling = sampling
        self._vocabulary = vocabulary
        self._candidates = sampling.candidates(vocabulary)
        self._top = top
        self._score = score
        self._generator = np.random.default_rng(sampling.seed)
        self._drawn = 0
        self._together = together
        self._held: list[Token] = []
        self._queue: asyncio.Queue[Any] = asyncio.Queue()
        self._first: Any = None

    @property
    def steps(self) -> dict[int, int]:
        """After how many steps how many words are wanted; to score one takes as long as to rank all."""
        read, written = self._vocabulary if self._score else 0, max(self._candidates, self._top)
        steps = {read: len(self._numbers) - 1}
        steps[written] = steps.get(written, 0) + self._left
        return steps

    def next(self) -> int:
        """Return the next word of the text, or the one last drawn."""
        if self._place == len(self._numbers):
            return self._drawn
        self._place += 1
        return self._numbers[self._place - 1]

    def want(self) -> Want | None:
        """Want what the next word is drawn from; of a word that is known its probability, to score it."""
        if self._place == len(self._numbers):
            return Want(k=max(self._candidates, self._top))
        return Want(k=self._top, target=self._numbers[self._place]) if self._score else None

    def take(self, best: Best | None, log: float | None) -> tuple[bool, Any]:
        """Deliver a word: the one that is read next, or one that is drawn."""
        none = np.empty(0, np.int64), np.empty(0)
        if log is not None:
            number = self._numbers[self._place]
            last = not self._left and self._place == len(self._numbers) - 1
            return last, self._hold(Token(number, log, best or none, last))
        assert best is not None
        numbers, y = best
        place = self._sampling.draw(y[: self._candidates], self._generator)
        self._drawn = int(numbers[place])
        self._left -= 1
        last = not self._left
        top = numbers[: self._top], y[: self._top]
        log = ln(max(float(y[place]), float_info.min))
        return last, self._hold(Token(self._drawn, log, top, last))

    def _hold(self, token: Token) -> list[Token] | None:
        """Keep a word back until there are enough of them, or no more."""
        self._held.append(token)
        if len(self._held) < self._together and not token.last:
            return None
        held, self._held = self._held, []
        return held

    def deliver(self, event: Any) -> None:
        """Queue it for `tokens`."""
        self._queue.put_nowait(event)

    async def begin(self) -> None:
        """Wait for the first words of a stream: until they have come, it may be refused."""
        self._first = await self._queue.get()
        if isinstance(self._first, BaseException):
            raise self._first
        self.heard = True

    async def tokens(self) -> AsyncGenerator[Token, None]:
        """Yield the words; whoever stops before the last one frees the engine of the rest."""
        try:
            while True:
                event, self._first = self._first or await self._queue.get(), None
                if isinstance(event, BaseException):
                    raise event
                for token in event:
                    yield token
                    if token.last:
                        return
        finally:
            self.cancelled = True
