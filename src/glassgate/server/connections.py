"""What the connections of a server have in common: the room there is, the clock, and the end."""

import asyncio
import selectors
from collections import deque
from collections.abc import Callable, Sequence
from email.utils import formatdate
from time import perf_counter
from typing import Any, Protocol

from glassgate.server.answers import RefusedError, head_bytes
from glassgate.server.application import Application
from glassgate.server.engine import Engine

__all__ = ["Connections", "Selector"]

MOST_CONNECTIONS = 512
MOST_REQUESTS = 32  # that are answered at the same time, or wait to be read
ROUNDS, ROUNDS_SECONDS = 4, 0.0005
ASK_SECONDS = 0.001  # after which the system is asked anew what became ready
FULL_SECONDS = 0.001
LATE_SECONDS = 0.003  # in a crowd, after which what was not read yet is refused
SOCKETS, FULL_SOCKETS = 8, 16  # that are read before what was read is answered
MOST_UNREAD = 128 << 20  # bytes of answers that clients leave unread; beyond, nothing more is computed
READ = 64 << 10  # bytes that are read at once
REFUSAL_SECONDS = 0.028
"""So late a refusal for want of room goes out: who asks again at once does not take what others need."""
END = b"\r\n\r\n"  # of a head
MOST_KNOWN, LARGEST_KNOWN = 512, 1 << 10  # heads that are known again, and bytes of one
GRAIN = 0.002  # seconds by which it may be sent earlier, with others
TICK = 0.1  # seconds between two looks at what takes too long


class Connection(Protocol):
    """What is asked of each."""

    def check(self, now: float) -> None:
        """End it where something takes too long."""

    def finish(self) -> None:
        """Let it answer what it has, and end."""

    def abort(self) -> None:
        """End it at once."""

    def refuse_now(self) -> None:
        """Send a refusal that was delayed."""


class Selector(selectors.DefaultSelector):
    """Tells of a few sockets at a time: what those began comes to its end before the next are read.

    A request goes through the event loop three times after it was read: it is looked at, computed, answered.
    So, while there is something to do, sockets are told of every fourth time alone, if that takes no longer
    than half a millisecond. Where there is no room, what is read can only be refused: then they wait for a
    millisecond, and more of them come at a time, which costs less than one by one.

    Of more sockets than are told of at a time, those come first that have waited longest; but in a crowd,
    while there is room, those that became ready last: what is let in then has not waited long. Of those that
    have waited for 3 ms meanwhile a round is told of that is refused.

    Attributes
    ----------
    full, crowded
        Asked whether there is no room, and whether bursts do not end.
    late
        Whether those told of last came too late to be let in.
    """

    def __init__(self) -> None:
        super().__init__()
        self.full: Callable[[], bool] = bool
        self.crowded: Callable[[], bool] = bool
        self.late = False
        self._since: dict[
            int, float
        ] = {}  # since when those that are ready have been, by their files' numbers
        self._ready: deque[tuple[selectors.SelectorKey, int]] = deque()
        self._asked = 0.0  # when the system last told of all that are ready, the first of them first
        self._rounds, self._told = 0, 0.0  # how many, and when, since sockets were told of
        self._loop: int | None = None  # what wakes the event loop: the first that it registers

    @property
    def waiting(self) -> int:
        """How many sockets have something to be read, and were not told of yet."""
        return len(self._ready)

    def register(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        """Watch a socket, as the class above does."""
        key = super().register(fileobj, events, data)
        if self._loop is None:
            self._loop = key.fd
        return key

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """Wait for sockets, as the class above does, where none are left from before."""
        now, self._rounds, most, self.late = perf_counter(), self._rounds + 1, SOCKETS, False
        full = self.full()
        if timeout == 0:
            if full:
                most, again = FULL_SOCKETS, now - self._told > FULL_SECONDS
            else:
                again = self._rounds >= ROUNDS or now - self._told > ROUNDS_SECONDS
            if not again:
                return []
        self._rounds, self._told = 0, now
        ready = self._ready
        if not ready or now - self._asked > ASK_SECONDS:
            found = super().select(0 if ready else timeout)
            self._asked = perf_counter()
            if len(found) <= most:
                ready.clear()
                self._since.clear()
                return found
            own = [one for one in found if one[0].fd == self._loop]
            self._ready = ready = deque(one for one in found if one[0].fd != self._loop)
            since, self._since = self._since, {}
            for key, _ in ready:
                self._since[key.fd] = since.get(key.fd, now)
            if own:
                return own
        take = ready.popleft
        if self.crowded() and not full:
            self.late = now - self._since[ready[0][0].fd] > LATE_SECONDS
            most, take = (FULL_SOCKETS, take) if self.late else (most, ready.pop)
        some = [take() for _ in range(min(most, len(ready)))]
        for key, _ in some:
            del self._since[key.fd]  # what it sends from now on is new
        known = self.get_map()  # what was changed or closed meanwhile is told of anew, or not at all
        return [(key, events) for key, events in some if known.get(key.fd) is key]


class Connections:
    """All connections of one server, in one event loop.

    Parameters
    ----------
    application
        That answers.
    engines
        That compute, one for each model, and know whether there is room.
    selector
        Of the event loop.

    Attributes
    ----------
    open
        How many requests are being answered.
    unread
        How many bytes of answers clients have not taken yet.
    buffer
        What is read into.
    date
        The time, as the Date header has it.
    busy, busy_bytes
        The refusal for want of room, and all of it on a connection that goes on.
    """

    def __init__(self, application: Application, engines: Sequence[Engine], selector: Selector) -> None:
        self.application = application
        self.loop = asyncio.get_running_loop()
        self.open = self.unread = 0
        self.buffer = memoryview(bytearray(READ))
        self.date = b""
        self.busy = RefusedError(429, "the server: is busy; ask again in a second", retry_after="1").answer()
        self.busy_bytes = b""
        self._heads: dict[bytes, int] = {}
        self._delayed: deque[tuple[float, Connection]] = deque()
        self._engines = engines
        self._selector = selector
        selector.full = lambda: self.full
        selector.crowded = lambda: any(engine.room < engine.limit for engine in engines)
        self._all: set[Connection] = set()
        self._empty = asyncio.Event()
        self._empty.set()
        self._tick()

    @property
    def full(self) -> bool:
        """Whether there is no room for another request that is computed.

        Of a burst those that wait to be read are counted, too, unless nothing is answered: one always is.
        """
        if self._selector.late:
            return True
        room = load = 0
        for engine in self._engines:
            room, load = room + engine.room, load + engine.load
        burst = room >= MOST_REQUESTS and self.open > 0
        return (
            max(self.open, load) >= min(MOST_REQUESTS, room)
            or (burst and self.open + self._selector.waiting >= MOST_REQUESTS)
            or self.unread > MOST_UNREAD
        )

    def refuse(self) -> None:
        """Take in that one was refused for want of room."""
        for engine in self._engines:
            engine.refuse()
        self.application.metrics.count("other", 429, 0.0)

    def learn(self, came: bytes, size: int) -> None:
        """Keep the head of a whole request that was refused for want of room, with a body of this size."""
        end = came.find(END) + len(END)
        if end <= LARGEST_KNOWN and len(came) == end + size:
            if len(self._heads) == MOST_KNOWN:
                self._heads.clear()
            self._heads[came[:end]] = len(came)

    def knows(self, came: bytes) -> bool:
        """Tell whether this is one whole request with a head that the parser has read before.

        What has the same bytes means the same: where nine of ten are refused, nearly all need no parser.
        """
        return self._heads.get(came[: came.find(END) + len(END)]) == len(came)

    def delay(self, connection: Connection) -> None:
        """Let a connection send its refusal somewhat later: one timer for all, in their order."""
        due = self.loop.time() + REFUSAL_SECONDS
        self._delayed.append((due, connection))
        if len(self._delayed) == 1:
            self.loop.call_at(due, self._send_delayed)

    def _send_delayed(self) -> None:
        now, delayed = self.loop.time() + GRAIN, self._delayed
        for _ in range(FULL_SOCKETS):
            if delayed[0][0] > now:
                break
            delayed[0][1].refuse_now()
            delayed.popleft()
            if not delayed:
                return
        self.loop.call_at(max(delayed[0][0], now - GRAIN / 2), self._send_delayed)

    def add(self, connection: Connection) -> bool:
        """Take in a connection; tell whether there was room for it."""
        self._all.add(connection)
        self._empty.clear()
        return len(self._all) <= MOST_CONNECTIONS

    def discard(self, connection: Connection) -> None:
        """Take out a connection that has ended."""
        self._all.discard(connection)
        if not self._all:
            self._empty.set()

    async def finish(self, seconds: float) -> None:
        """End: what runs may take so long."""
        for connection in tuple(self._all):
            connection.finish()
        try:
            async with asyncio.timeout(seconds):
                await self._empty.wait()
        except TimeoutError:
            for connection in tuple(self._all):
                connection.abort()
        self._timer.cancel()

    def _tick(self) -> None:
        now = self.loop.time()
        self.date = formatdate(usegmt=True).encode()
        self.busy_bytes = head_bytes(self.busy, self.date, ends=False) + self.busy.body
        for connection in tuple(self._all):
            connection.check(now)
        self._timer = self.loop.call_later(TICK, self._tick)
