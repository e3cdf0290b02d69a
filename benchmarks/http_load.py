"""A load of HTTP requests over kept connections, from one thread that waits for none of them.

asyncio costs a client as much for a request as it costs a server; here it is two system calls and a little.
"""

import select
import socket
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from time import perf_counter

__all__ = ["Load", "closed", "opened"]

WAIT = 30.0  # seconds for the answers that are still out at the end


@dataclass
class Load:
    """What came of some load."""

    seconds: float = 0.0
    statuses: Counter[int] = field(default_factory=Counter)
    times: dict[int, list[float]] = field(default_factory=dict)  # by status, seconds
    offered: int = 0
    dropped: int = 0  # connections that the server closed before it answered
    unsent: int = 0  # requests that were due while no connection was free

    def add(self, status: int, seconds: float) -> None:
        self.statuses[status] += 1
        self.times.setdefault(status, []).append(seconds)

    @property
    def rate(self) -> float:
        return self.statuses[200] / self.seconds

    def quantile(self, status: int, share: float) -> float:
        """Milliseconds."""
        times = sorted(self.times.get(status, [0.0]))
        return 1e3 * times[min(int(share * len(times)), len(times) - 1)]


class _Connections:
    def __init__(self, port: int, count: int, load: Load) -> None:
        self.port, self.load = port, load
        self.poll = select.epoll()
        self.sockets: dict[int, socket.socket] = {}
        self.sent: dict[int, float] = {}
        self.parts: dict[int, bytes] = {}
        self.idle = deque(self.connect() for _ in range(count))

    def connect(self) -> int:
        connected = socket.create_connection(("127.0.0.1", self.port))
        connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connected.setblocking(False)
        number = connected.fileno()
        self.sockets[number] = connected
        self.poll.register(number, select.EPOLLIN)
        return number

    def ask(self, request: bytes) -> None:
        number = self.idle.popleft()
        self.sent[number] = perf_counter()
        try:
            self.sockets[number].send(request)  # far smaller than the socket's buffer
        except OSError:
            self.drop(number)

    def drop(self, number: int) -> None:
        """Put a new connection in the place of one that the server closed, or ended."""
        self.poll.unregister(number)
        self.sockets.pop(number).close()
        self.parts.pop(number, None)
        if self.sent.pop(number, None) is not None:
            self.load.dropped += 1
        if number in self.idle:
            self.idle.remove(number)
        self.idle.append(self.connect())

    def take(self, seconds: float) -> None:
        """Wait so long for answers, and take those that have come."""
        for number, _ in self.poll.poll(seconds):
            try:
                data = self.sockets[number].recv(65536)
            except OSError:
                data = b""
            if not data or number not in self.sent:  # closed, or told that it was silent for too long
                self.drop(number)
                continue
            if number in self.parts:
                data = self.parts.pop(number) + data
            head = data.find(b"\r\n\r\n")
            place = data.find(b"content-length: ", 0, head)
            if place >= 0:
                whole = len(data) >= head + 4 + int(data[place + 16 : data.index(b"\r", place)])
            else:
                whole = data.endswith(b"\r\n0\r\n\r\n")  # of events in chunks
            if not whole:
                self.parts[number] = data
                continue
            self.load.add(int(data[9:12]), perf_counter() - self.sent.pop(number))
            self.idle.append(number)

    def end(self) -> None:
        """Take the answers that are still out, and close."""
        end = perf_counter() + WAIT
        while self.sent and perf_counter() < end:
            self.take(0.1)
        self.load.dropped += len(self.sent)
        self.poll.close()
        for connected in self.sockets.values():
            connected.close()


def closed(port: int, request: bytes, connections: int, seconds: float) -> Load:
    """Each connection asks again as soon as it is answered."""
    load = Load()
    clients = _Connections(port, connections, load)
    start = perf_counter()
    while (now := perf_counter() - start) < seconds:
        while clients.idle:
            clients.ask(request)
        clients.take(0.1)
    load.seconds = now
    load.offered = load.statuses.total()
    clients.end()
    return load


def opened(
    port: int,
    request: bytes,
    rate: float,
    seconds: float,
    connections: int = 256,
    each_second: Callable[[], None] | None = None,
) -> Load:
    """Ask at a rate, whatever becomes of those before; what finds no free connection is not sent."""
    load = Load()
    clients = _Connections(port, connections, load)
    start, told = perf_counter(), 0.0
    while (now := perf_counter() - start) < seconds:
        due = int(now * rate) - load.offered
        sent = min(due, len(clients.idle))
        for _ in range(sent):
            clients.ask(request)
        load.offered += due
        load.unsent += due - sent
        if each_second is not None and now >= told:
            each_second()
            told += 1.0
        clients.take(max((load.offered + 1) / rate - (perf_counter() - start), 0.0))
    load.seconds = now
    clients.end()
    return load
