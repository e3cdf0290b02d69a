"""All texts that are being read, in one kernel step: it knows word numbers only, no words and no HTTP."""

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from math import inf, nextafter
from time import monotonic, perf_counter, process_time, thread_time
from typing import Any, NamedTuple, TypeAlias, cast

import numpy as np

from glassgate.errors import GlassgateError
from glassgate.runtime.matrix import Array, Numbers
from glassgate.runtime.network import Network
from glassgate.runtime.output import Best
from glassgate.server.pace import Pace

__all__ = ["BusyError", "Call", "Engine", "LateError", "Reader", "Want"]

QUICK = 0.005  # seconds, for which the interpreter leaves a thread alone: shorter steps need none
TURN_SECONDS = 0.0002  # after which no further step is begun before the event loop has had its turn
PROMPT = 0.2  # seconds after which a text that was let in is no longer refused
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

    The engine may call `next`, `want` and `take` in a thread, `deliver` in that of the event loop.

    Parameters
    ----------
    deadline
        A time of `time.monotonic`; after it the text is dropped with a `LateError`.
    """

    def __init__(self, deadline: float) -> None:
        self.deadline = deadline
        self.cancelled = False
        # For the engine: when it came, the processor's time then and how much of it steps had taken, and
        # whether its client has heard of it.
        self.entered, self.began, self.computed, self.heard = 0.0, 0.0, 0.0, False

    def cancel(self) -> None:
        """Say that nobody wants it any more: it is dropped before its next step."""
        self.cancelled = True

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

    It lives in one event loop and works in turns: some steps, then the loop has its own. As long as steps
    are short, they are made in the loop itself: to wake another thread, and to wait until it hands the
    interpreter back, would take longer than they do. Steps of a large model, nearly all of them in kernels
    that leave the interpreter free, and calls are made in a thread.

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
    load
        How many texts and calls are in.
    steps, words
        How many kernel steps were made, and how many words were read in them.
    """

    def __init__(self, network: Network, never: int | None, rows: int = 64, waiting: int = 64) -> None:
        self.network = network
        self.never = never
        self.rows = rows
        self.limit = rows + waiting
        self.load = 0
        self.steps = self.words = 0
        self._pace = Pace()
        self._computed = 0.0  # seconds, of all steps
        self._state = network.initial_state(rows)
        self._readers: list[Reader] = []
        self._waiting: deque[Reader] = deque()
        self._calls: deque[Call] = deque()
        self._arrived: list[Reader | Call] = []  # during a turn in the thread
        self._turning = False  # whether a turn is under way, or the next one is due
        self._idle = asyncio.Event()
        self._idle.set()
        self._thread = ThreadPoolExecutor(1, "glassgate-engine")
        self._loop = cast("asyncio.AbstractEventLoop", None)

    def start(self) -> None:
        """Begin to compute for the running event loop."""
        self._loop = asyncio.get_running_loop()

    async def stop(self) -> None:
        """Finish what is in."""
        await self._idle.wait()
        self._thread.shutdown()

    @property
    def room(self) -> int:
        """How many texts and calls may be in."""
        return self._pace.room(self.limit)

    def submit(self, work: Sequence[Reader | Call]) -> None:
        """Take in texts or calls, all or none.

        Raises
        ------
        BusyError
            When there is no room for them.
        """
        wanted = self.load + len(work)  # one request may be larger than the room, where it is alone
        if wanted > self.limit or (self.load and wanted > self.room):
            self.refuse()
            raise BusyError
        self.load += len(work)
        self._arrived += work
        now, began = monotonic(), process_time()
        for one in work:
            if isinstance(one, Reader):
                one.entered, one.began, one.computed = now, began, self._computed
        if not self._turning and work:
            self._turning = True
            self._idle.clear()
            self._loop.call_soon(self._turn)

    def seconds(self, texts: int, steps: Mapping[int, int]) -> float:
        """Estimate how long so many texts take by themselves: after so many steps k words are wanted."""
        return self._pace.seconds(texts, {_kind(k) if k else 0: count for k, count in steps.items()})

    def refuse(self) -> None:
        """Take in that a request was refused for want of room, here or before it came here."""
        self._pace.refuse()

    def _turn(self) -> None:
        """Take in what has come, and compute for a while."""
        for one in self._arrived:
            if isinstance(one, Call):
                self._calls.append(one)
            else:
                self._waiting.append(one)
        self._arrived.clear()
        if self._calls or self._pace.step > QUICK:
            future = self._loop.run_in_executor(self._thread, self._work)
            future.add_done_callback(lambda done: self._deliver(done.result()))
        else:
            self._deliver(self._work())

    def _work(self) -> list[Event]:
        """Make steps until the turn is over or nothing is left; return what is to be delivered."""
        events: list[Event] = []
        end = perf_counter() + TURN_SECONDS
        while True:
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
            if not (self._readers or self._waiting) or self._calls or perf_counter() > end:
                return events

    def _deliver(self, events: list[Event]) -> None:
        """Hand on what a turn brought, and see to the next one."""
        now = process_time()
        for one, event, ended in events:
            self.load -= ended
            if ended and isinstance(one, Reader) and not isinstance(event, Exception):
                self._pace.leave(now - one.began, self._computed - one.computed)
            if event is not None:
                one.deliver(event)
        if self.load:
            self._loop.call_soon(self._turn)
        else:
            self._turning = False
            self._idle.set()

    def _admit(self, events: list[Event]) -> None:
        """Drop the texts that nobody wants any more or that find no time, and let in those that wait."""
        now = monotonic()
        since = self._refused_since(now) if self._pace.crowded(now) else inf
        for place in reversed(range(len(self._readers))):
            reader = self._readers[place]
            error = _dropped(reader, now, since)
            if error is not None:
                events.append((reader, error, True))
                self._remove(place)
        while self._waiting and len(self._readers) < self.rows:
            reader = self._waiting.popleft()
            error = _dropped(reader, now, since)
            if error is not None:
                events.append((reader, error, True))
                continue
            for part in self._state:
                part[:, len(self._readers)] = 0
            self._readers.append(reader)

    def _refused_since(self, now: float) -> float:
        """Return the time from which on texts came that there is no room for, though they were let in.

        A burst that turns out to have no end was let in up to the limit: those who came first go on, the
        others are refused while that is still prompt. One request's texts came at one time and stay together.
        """
        entered = sorted(reader.entered for reader in (*self._readers, *self._waiting))
        room = self.room
        if len(entered) <= room:
            return inf
        return max(entered[room], nextafter(entered[0], inf), now - PROMPT)

    def _step(self, events: list[Event]) -> None:
        start = thread_time()
        readers = self._readers
        count = len(readers)
        state = tuple(part[:, :count] for part in self._state)
        self.network.step(np.fromiter((reader.next() for reader in readers), np.int64, count), state)
        self.steps += 1
        self.words += count
        wants = [(place, want) for place in range(count) if (want := readers[place].want()) is not None]
        if wants:
            self._answer(wants, state[0][-1], events)
        seconds = thread_time() - start
        self._computed += seconds
        self._pace.note(count, max((_kind(want.k) for _, want in wants), default=0), seconds)

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


def _kind(k: int) -> int:
    """Return which steps take as long as one after which k words are wanted."""
    return 1 + k.bit_length()


def _dropped(reader: Reader, now: float, since: float) -> Exception | None:
    """Return why a text is dropped: it is late or unwanted, or it came when there was no room left."""
    if reader.cancelled or now > reader.deadline:
        return LateError()
    if reader.entered >= since and not reader.heard:
        return BusyError()
    return None
