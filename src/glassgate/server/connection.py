"""HTTP/1.1 on a connection, on httptools' parser, with bounds on what a slow or greedy client may take."""

import asyncio
from collections import deque
from dataclasses import dataclass
from math import inf
from typing import Any, cast
from urllib.parse import unquote_to_bytes

import httptools

from glassgate.server import guard
from glassgate.server.answers import Answer, RefusedError, Stream, end_of_stream, event_bytes, head_bytes
from glassgate.server.application import Request, Route
from glassgate.server.connections import Connections

__all__ = ["Connection"]

LARGEST_HEAD = 16 << 10  # bytes of request line and headers
HEAD_SECONDS = 5.0
KEEP_SECONDS = 5.0  # that a connection may stay without a request
DRAIN_SECONDS = 1.0  # a client that still sends does not hear the refusal: so long it is listened to
MOST_DRAINED = 1 << 20  # bytes of a body, with what frames it, that are read and dropped
WRITE_SECONDS = 20.0  # that a client may leave an answer unread
STREAM_SECONDS = 90.0  # for a stream: its words come sooner, but a client may read them slowly
MOST_PIPELINED = 32  # requests sent before the answer to the first has come
ONCE = frozenset(
    (b"host", b"origin", b"authorization", b"content-type", b"content-encoding", b"sec-fetch-site")
)
"""Headers that decide something: of two of a kind, one program would take the first, another the last."""


@dataclass
class Exchange:
    """A request whose body is still coming or has come, and what is known of its answer."""

    request: Request
    last: bool = False  #: whether the connection ends with it
    chunked: bool = True  #: whether the client knows chunks
    route: Route | None = None  #: None: it is refused
    refusal: Answer | None = None
    busy: bool = False  #: whether it is refused for want of room


class Connection(asyncio.BufferedProtocol):
    """One connection: its heads must come soon and be small, its bodies too, and its answers must be read.

    What is refused by its head alone is refused there: its body is dropped while it comes. The same is done
    where there is no room for another request: at ten times the capacity nine of ten are refused, and what
    that takes is taken from the tenth.

    Parameters
    ----------
    shared
        What the connections of a server have in common.
    """

    def __init__(self, shared: Connections) -> None:
        self.shared = shared
        self.due = inf  # when `check` ends it, a time of the event loop
        self._parser: Any = httptools.HttpRequestParser(self)
        self._transport = cast("asyncio.Transport", None)
        self._url = b""
        self._headers: dict[bytes, bytes] = {}
        self._fields = 0  # bytes of the request line and headers that were taken from the parser
        self._raw = 0  # bytes of this head, or of this body with what frames it
        self._size = 0  # bytes of the body
        self._parts: list[bytes] = []
        self._heading = True  # whether a head is awaited or coming
        self._begun = True  # whether a first byte of it is awaited no more; at the start it must come soon
        self._now: Exchange | None = None  # whose body is coming
        self._queue: deque[Exchange] = deque()  # complete requests that wait for the answers before them
        self._task: asyncio.Task[None] | None = None
        self._delayed: Exchange | None = None  # a refusal that is not out yet
        self._deaf = False  # whether nothing more is read
        self._waiting = False  # whether reading is paused until answers are out
        self._unread = 0  # bytes that wait for a client that does not read
        self._stuck = inf
        self._drained = asyncio.Event()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin; where there are too many already, end."""
        self._transport = cast("asyncio.Transport", transport)
        self.due = self.shared.loop.time() + HEAD_SECONDS
        if not self.shared.add(self):
            self._deaf = True
            many = RefusedError(429, "the server: has too many connections", retry_after="1").answer()
            self._transport.write(head_bytes(many, self.shared.date, ends=True) + many.body)
            self._transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        """End: what is being computed for it is given up."""
        self._deaf = True
        self._queue.clear()
        self._read_up()
        if self._task is not None:
            self._task.cancel()
        self._delayed = None
        self.shared.discard(self)

    def check(self, now: float) -> None:
        """End what takes too long."""
        if now > self._stuck:
            self._transport.abort()
        elif now > self.due:
            self.due = inf
            if self._now is not None and self._now.refusal is not None:  # it would not stop sending
                self._complete_last()
            elif self._now is not None:
                line = f"the body: must come within {guard.BODY_SECONDS:g} seconds"
                self._close_with(RefusedError(408, line))
            elif self._begun and not self._deaf:
                self._close_with(RefusedError(408, f"the head: must come within {HEAD_SECONDS:g} seconds"))
            else:
                self._transport.close()

    def finish(self) -> None:
        """Take no more requests; end when those that are complete are answered."""
        self._deaf = True
        if not self._answering:
            self._transport.close()

    def abort(self) -> None:
        """End at once: what is being computed is given up."""
        self._transport.abort()

    @property
    def _answering(self) -> bool:
        return bool(self._task or self._delayed or self._queue)

    # What comes

    def get_buffer(self, sizehint: int) -> memoryview:
        """Lend the memory that all connections read into: what is read is used up at once."""
        return self.shared.buffer

    def buffer_updated(self, nbytes: int) -> None:
        """Take bytes; count them."""
        if self._deaf:
            self._raw += nbytes
            if self._raw > MOST_DRAINED:
                self._transport.abort()
            return
        came = None
        if self._heading and not self._raw and not self._answering and self.shared.full:
            came = bytes(self.shared.buffer[:nbytes])
            if self.shared.knows(came):
                self._begun, self.due = False, inf
                exchange = Exchange(Request("POST", "", {}))
                self._refuse_busy(exchange)
                self._queue.append(exchange)
                self._next()
                return
        if self._heading and not self._begun:
            self._begun = True
            self.due = self.shared.loop.time() + HEAD_SECONDS
        self._raw += nbytes
        try:
            self._parser.feed_data(self.shared.buffer[:nbytes])
        except httptools.HttpParserUpgrade:  # answered as it stands, without another protocol
            self._deaf = True
        except httptools.HttpParserError:
            if not self._deaf:  # else it came behind a request that said it was the last
                self._close_with(RefusedError(400, "the request: is not HTTP/1.1"))
            return
        if came is not None and self._delayed is not None and not (self._queue or self._deaf):
            self.shared.learn(came, int(self._headers.get(b"content-length", b"-1")))
        if self._heading:
            if self._raw > LARGEST_HEAD:
                self._close_with(RefusedError(431, f"the head: must be at most {LARGEST_HEAD} bytes"))
        elif self._now is not None:
            if self._raw > MOST_DRAINED:
                self._now.refusal = self._now.refusal or guard.too_large().answer()
                self._complete_last()
            elif self.due == inf:
                self.due = self.shared.loop.time() + self._patience

    @property
    def _patience(self) -> float:
        refused = self._now is not None and self._now.refusal is not None
        return DRAIN_SECONDS if refused else guard.BODY_SECONDS

    def eof_received(self) -> None:
        """Let the connection end: who sends no more is taken to be gone."""

    def on_message_begin(self) -> None:
        """Begin a head."""
        self._url, self._headers, self._parts = b"", {}, []
        self._fields = self._size = 0

    def on_url(self, url: bytes) -> None:
        """Take a part of the request's target."""
        self._count(len(url))
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a header; of those behind a body, none."""
        self._count(len(name) + len(value) + 4)
        if self._heading:
            name = name.lower()
            if name in ONCE and name in self._headers:
                raise ValueError("a header stands there twice")  # which the parser turns into its own error
            self._headers[name] = value

    def _count(self, size: int) -> None:
        self._fields += size
        if self._fields > LARGEST_HEAD:
            raise ValueError("the head is too large")

    def on_headers_complete(self) -> None:
        """Look at a head; go on to the body."""
        parser, headers = self._parser, self._headers
        version = parser.get_http_version()
        coding = headers.get(b"transfer-encoding")
        if (
            self._deaf
            or len(self._queue) >= MOST_PIPELINED
            or not self._url.startswith(b"/")
            or version not in ("1.1", "1.0")
            or (coding is not None and (version == "1.0" or coding.lower() != b"chunked"))
        ):
            raise ValueError("no request for this server")
        target = self._url.partition(b"?")[0]
        path = (unquote_to_bytes(target) if b"%" in target else target).decode("utf-8", "replace")
        request = Request(parser.get_method().decode("ascii"), path, headers)
        upgrade = parser.should_upgrade()
        last = upgrade or version == "1.0" or not parser.should_keep_alive()
        self._heading, self._raw, self.due = False, 0, inf
        self._now = now = Exchange(request, last, version != "1.0")
        if request.method == "POST" and not self._answering and self.shared.full:
            self._refuse_busy(now)
            return
        try:
            if upgrade and (coding is not None or headers.get(b"content-length", b"0") != b"0"):
                raise RefusedError(400, "the Upgrade header: no other protocol is spoken here")
            now.route = self.shared.application.route(request)
        except RefusedError as refusal:
            now.refusal = refusal.answer()
        expecting = headers.get(b"expect", b"").lower() == b"100-continue"
        if now.refusal is not None:
            if expecting or now.refusal.status == 413:  # the body will not come, or shall not
                self._complete_last()
        elif expecting and not self._answering:
            self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def on_body(self, body: bytes) -> None:
        """Take a part of the body."""
        if self._now is None or self._now.refusal is not None:
            return
        self._size += len(body)
        self._parts.append(body)
        if self._size > guard.LARGEST_BODY:
            self._now.refusal = guard.too_large().answer()
            self._complete_last()

    def on_message_complete(self) -> None:
        """Go on to the next head."""
        if self._now is not None:
            self._complete()

    # What goes

    def _complete(self) -> None:
        """Put what has come in the row of those that are answered."""
        exchange, self._now = self._now, None
        assert exchange is not None
        exchange.request.body = b"".join(self._parts)
        self._parts = []
        self._heading, self._begun, self._raw, self.due = True, False, 0, inf
        self._deaf = self._deaf or exchange.last
        self._queue.append(exchange)
        self._next()

    def _complete_last(self) -> None:
        """Do so with a request behind which nothing is read."""
        assert self._now is not None
        self._now.last = True
        self._complete()

    def _next(self) -> None:
        """Answer the next request, if there is one and nothing is in its way."""
        if self._task or self._delayed or self._unread or self._transport.is_closing():
            return
        if not self._queue:
            if self._waiting:
                self._waiting = False
                self._transport.resume_reading()
            if self._heading and not self._begun:
                self.due = self.shared.loop.time() + KEEP_SECONDS
            return
        exchange = self._queue.popleft()
        if self._queue and not self._waiting and not self._deaf:
            self._waiting = True
            self._transport.pause_reading()
        if exchange.route is not None and exchange.route.body is not None and self.shared.full:
            self._refuse_busy(exchange)
        if exchange.refusal is None:
            self.shared.open += 1
            self._task = self.shared.loop.create_task(self._answer(exchange))
        elif exchange.busy:
            self._delayed = exchange
            self.shared.delay(self)
        else:
            self._refuse(exchange)

    def refuse_now(self) -> None:
        """Send the refusal that was delayed."""
        exchange, self._delayed = self._delayed, None
        if exchange is not None and not self._transport.is_closing():
            self._refuse(exchange)

    def _refuse_busy(self, exchange: Exchange) -> None:
        exchange.route, exchange.refusal, exchange.busy = None, self.shared.busy, True
        self.shared.refuse()

    def _refuse(self, exchange: Exchange) -> None:
        """Send a refusal that needs no task."""
        assert exchange.refusal is not None
        if not exchange.busy:
            self.shared.application.count(exchange.request, exchange.refusal.status)
        self._send(exchange, exchange.refusal)
        self._next()

    async def _answer(self, exchange: Exchange) -> None:
        """Send what the application answers."""
        assert exchange.route is not None
        try:
            answer = await self.shared.application.answer(exchange.route, exchange.request)
            if isinstance(answer, Stream):
                await self._stream(exchange, answer)
            else:
                self._send(exchange, answer)
        finally:
            self.shared.open -= 1
            self._task = None
            self._next()

    def _send(self, exchange: Exchange, answer: Answer) -> None:
        """Send a whole answer in one piece: head and body apart would be two packets."""
        ends = self._ends(exchange)
        if exchange.busy and not ends:
            self._transport.write(self.shared.busy_bytes)
            return
        head = head_bytes(answer, self.shared.date, ends)
        self._transport.write(head if exchange.request.method == "HEAD" else head + answer.body)
        if ends and exchange.refusal is not None:  # closed at once, what still comes would undo the answer
            self._transport.write_eof()
            self.due = self.shared.loop.time() + DRAIN_SECONDS
        elif ends:
            self._transport.close()

    async def _stream(self, exchange: Exchange, stream: Stream) -> None:
        """Send events until there are no more, or time is over; a client that goes away ends the task."""
        write, chunked = self._transport.write, exchange.chunked
        ends = self._ends(exchange)
        write(head_bytes(stream, self.shared.date, ends, chunked))
        try:
            async with asyncio.timeout(STREAM_SECONDS):
                async for event in stream.events:
                    write(event_bytes(event, chunked))
                    while self._unread:
                        self._drained.clear()
                        await self._drained.wait()
        except TimeoutError:
            pass
        except Exception:
            self.shared.application.log_failure(exchange.request)
        finally:
            stream.cancel()
            await stream.events.aclose()
        write(end_of_stream(chunked))
        if ends or self._ends(exchange):  # the server's end may have come meanwhile
            self._transport.close()

    def _ends(self, exchange: Exchange) -> bool:
        """Tell whether the connection ends with this answer."""
        return exchange.last or (self._deaf and not self._queue)

    def _close_with(self, refusal: RefusedError) -> None:
        """End, saying why, when the answers before it are out."""
        if self._now is None:
            self._now = Exchange(Request("", "", {}))
        self._now.route, self._now.refusal = None, refusal.answer()
        self._complete_last()

    def pause_writing(self) -> None:
        """Wait for a client that does not read, but not for ever."""
        self._unread = self._transport.get_write_buffer_size()
        self.shared.unread += self._unread
        self._stuck = self.shared.loop.time() + WRITE_SECONDS

    def resume_writing(self) -> None:
        """Go on: the client has read."""
        self._read_up()
        self._drained.set()
        self._next()

    def _read_up(self) -> None:
        self.shared.unread -= self._unread
        self._unread, self._stuck = 0, inf
