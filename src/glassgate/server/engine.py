"""All texts that are being read, in one kernel step: it knows word numbers only, no words and no HTTP."""

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Sequence
from queue import Empty, SimpleQueue
from threading import Thread
from time import monotonic, perf_counter
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from glassgate.errors import GlassgateError
from glassgate.runtime.matrix import Array, Numbers
from glassgate.runtime.network import Network
from glassgate.runtime.output import Best
from glassgate.server.pace import Pace

__all__ = ["BusyError", "Call", "Engine", "LateError", "Reader", "Want"]

FEW = 1024  # words: rows that want at most so many are answered together, of more each by itself

Event: TypeAlias = tuple["Reader | Call", Any, bool]
"""Whose it is, what is delivered (None: nothing), and whether it is the last."""


class BusyError(Exception):
    """There is no room: ask again later."""


class LateError(Exception):
    """The deadline came first."""


class Want(NamedTuple):
    """What a reader wants to know after a step."""

    k: int = 0  #: so many most probable words
    allowed: Numbers | None = None  #: no others than these may come
    target: int | None = None  #: a word whose log-probability is wanted


class Reader:
    """One text that is read word by word: what it reads next, and what it wants to know after that.

    The engine calls `next`, `want` and `take` in its own thread, `deliver` in that of the event loop.

    Parameters
    ----------
    deadline
        A time of `time.monotonic`; after it the text is dropped with a `LateError`.
    """

    def __init__(self, deadline: float) -> None:
        self.deadline = deadline
        self.entered = 0.0  # when it came into the batch
        self.cancelled = False

    def next(self) -> int:
        """Return the number of the word that is read next."""
        raise NotImplementedError

    def want(self) -> Want | None:
        """Return what is wanted after the word that was just read; None: nothing, read on."""
        raise NotImplementedError

    def take(self, best: Best | None, log: float | None) -> tuple[bool, Any]:
        """Take in what was wanted; return whether the text is done, and what to deliver (None: nothing)."""
        raise NotImplementedError

    def deliver(self, event: Any) -> None:
        """Hand on what `take` returned, or an exception that ended the text."""
        raise NotImplementedError


class Call:
    """A computation of its own, made between two steps.

    Parameters
    ----------
    function
        What is computed.
    deadline
        As for `Reader`.
    """

    def __init__(self, function: Callable[[], Any], deadline: float) -> None:
        self.function = function
        self.deadline = deadline
        self.future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

    def deliver(self, event: Any) -> None:
        """Hand on the result, or the exception."""
        if self.future.done():
            return
        if isinstance(event, BaseException):
            self.future.set_exception(event)
        else:
            self.future.set_result(event)


class Engine:
    """Reads many texts together, a word of each in one kernel step; texts come and go between steps.

    One thread computes. Requests come from one event loop, and results go back there.

    Parameters
    ----------
    network
        What computes.
    never
        The number of a word that is never among the best: ``<unk>``.
    rows
        How many texts are read in one step.
    waiting
        How many more may wait.

    Attributes
    ----------
    steps, words
        How many kernel steps were made, and how many words were read in them.
    """

    def __init__(self, network: Network, never: int | None, rows: int = 64, waiting: int = 64) -> None:
        self.network = network
        self.never = never
        self.rows = rows
        self.limit = rows + waiting
        self.load = 0  # texts and calls that are in; the event loop's thread alone counts
        self.steps = self.words = 0
        self._pace = Pace()
        self._inbox: SimpleQueue[Sequence[Reader | Call] | None] = SimpleQueue()
        self._state = network.initial_state(rows)
        self._readers: list[Reader] = []
        self._waiting: deque[Reader] = deque()
        self._calls: deque[Call] = deque()
        self._stopping = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread = Thread(target=self._run, name="glassgate-engine", daemon=True)

    def start(self) -> None:
        """Begin to compute for the running event loop."""
        self._loop = asyncio.get_running_loop()
        self._thread.start()

    def stop(self) -> None:
        """Finish what is in, and end the thread."""
        self._inbox.put(None)
        self._thread.join()

    def submit(self, work: Sequence[Reader | Call]) -> None:
        """Take in texts or calls, all or none.

        Raises
        ------
        BusyError
            When there is no room for them.
        """
        wanted = self.load + len(work)  # one request may be larger than the room, where it is alone
        if wanted > self.limit or (self.load and wanted > self._pace.room(self.limit)):
            self.refuse()
            raise BusyError
        self.load += len(work)
        self._inbox.put(work)

    def refuse(self) -> None:
        """Take in that a request was refused for want of room, here or before it came here."""
        self._pace.refuse(self.limit)

    def _run(self) -> None:
        while self._receive():
            events: list[Event] = []
            try:
                self._admit(events)
                if self._readers:
                    self._step(events)
                if self._calls:
                    self._compute(self._calls.popleft(), events)
            except Exception as error:  # whatever it is: those who wait are told, and the server goes on
                if not isinstance(error, GlassgateError):
                    logging.getLogger(__name__).exception("a step failed")
                events += [(reader, error, True) for reader in self._readers]
                self._readers.clear()
            if events:
                assert self._loop is not None
                self._loop.call_soon_threadsafe(self._deliver, events)

    def _receive(self) -> bool:
        """Take in what has come, waiting where nothing is under way; tell whether to go on."""
        busy = bool(self._readers or self._waiting or self._calls)
        while True:
            if not busy and self._stopping:
                return False
            try:
                work = self._inbox.get(block=not busy)
            except Empty:
                return True
            busy = True
            if work is None:
                self._stopping, busy = True, bool(self._readers or self._waiting or self._calls)
                continue
            for one in work:
                if isinstance(one, Call):
                    self._calls.append(one)
                else:
                    self._waiting.append(one)

    def _admit(self, events: list[Event]) -> None:
        """Drop the texts that nobody wants any more, and let in those that wait."""
        now = monotonic()
        for place in reversed(range(len(self._readers))):
            reader = self._readers[place]
            if reader.cancelled or now > reader.deadline:
                events.append((reader, LateError(), True))
                self._remove(place)
        while self._waiting and len(self._readers) < self.rows:
            reader = self._waiting.popleft()
            if reader.cancelled or now > reader.deadline:
                events.append((reader, LateError(), True))
                continue
            reader.entered = now
            for part in self._state:
                part[:, len(self._readers)] = 0
            self._readers.append(reader)

    def _step(self, events: list[Event]) -> None:
        start = perf_counter()
        readers = self._readers
        count = len(readers)
        state = tuple(part[:, :count] for part in self._state)
        self.network.step(np.fromiter((reader.next() for reader in readers), np.int64, count), state)
        self.steps += 1
        self.words += count
        wants = [(place, want) for place in range(count) if (want := readers[place].want()) is not None]
        if wants:
            self._answer(wants, state[0][-1], events)
        self._pace.note(count, bool(wants), perf_counter() - start)

    def _answer(self, wants: Sequence[tuple[int, Want]], hidden: Array, events: list[Event]) -> None:
        """Give the readers what they want after a step, and take out those that are done."""
        places = [place for place, _ in wants]
        h = self.network.features(hidden if len(places) == len(hidden) else hidden[places])
        best, logs = self._best(h, wants), self._logs(h, wants)
        done = []
        for row, place in enumerate(places):
            reader = self._readers[place]
            ended, event = reader.take(best.get(row), logs.get(row))
            if ended:
                done.append(place)
                self._pace.leave(monotonic() - reader.entered)
            if ended or event is not None:
                events.append((reader, event, ended))
        for place in reversed(done):
            self._remove(place)

    def _best(self, h: Array, wants: Sequence[tuple[int, Want]]) -> dict[int, Best]:
        """Find the best words of each row that wants them; rows that want few in one product with V."""
        found: dict[int, Best] = {}
        together: list[int] = []
        output, never = self.network.output, self.never
        for row, (_, want) in enumerate(wants):
            if want.k > FEW or want.allowed is not None:
                (found[row],) = output.best(h[row : row + 1], want.k, want.allowed, never)
            elif want.k:
                together.append(row)
        if together:
            k = max(wants[row][1].k for row in together)
            several = output.best(h if len(together) == len(h) else h[together], k, None, never)
            for row, (numbers, y) in zip(together, several, strict=True):
                own = wants[row][1].k
                found[row] = numbers[:own], y[:own]
        return found

    def _logs(self, h: Array, wants: Sequence[tuple[int, Want]]) -> dict[int, float]:
        rows = [row for row, (_, want) in enumerate(wants) if want.target is not None]
        if not rows:
            return {}
        targets = np.array([wants[row][1].target for row in rows], np.int64)
        logs = self.network.output.log_probability(h[rows], targets)
        return dict(zip(rows, logs.tolist(), strict=True))

    def _remove(self, place: int) -> None:
        """Take a text out; the last one moves to its place."""
        last = len(self._readers) - 1
        if place != last:
            self._readers[place] = self._readers[last]
            for part in self._state:
                part[:, place] = part[:, last]
        del self._readers[last]

    def _compute(self, call: Call, events: list[Event]) -> None:
        if call.future.cancelled() or monotonic() > call.deadline:
            events.append((call, LateError(), True))
            return
        try:
            events.append((call, call.function(), True))
        except Exception as error:
            events.append((call, error, True))

    def _deliver(self, events: list[Event]) -> None:
        for one, event, ended in events:
            self.load -= ended
            if event is not None:
                one.deliver(event)
