"""HTTP on a connection: uvicorn's protocol, with bounds on what a slow or greedy client may take."""

from asyncio import TimerHandle, Transport
from collections.abc import Callable
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from glassgate.server.answers import RefusedError

__all__ = ["Protocol"]

LARGEST_HEAD = 16 << 10  # bytes of request line and headers
HEAD_SECONDS = 5.0
WRITE_SECONDS = 20.0  # that a client may leave an answer unread
MOST_CONNECTIONS = 512
MOST_REQUESTS = 64  # that are answered at the same time

_REFUSAL = RefusedError(429, "the server: is busy; ask again in a second").answer()
_BUSY = (
    b"HTTP/1.1 429 Too Many Requests\r\nretry-after: 1\r\ncontent-type: application/json\r\n"
    b"x-content-type-options: nosniff\r\ncontent-length: %d\r\n\r\n%b" % (len(_REFUSAL.body), _REFUSAL.body)
)


class Protocol(HttpToolsProtocol):
    """One connection: its headers must come soon and be few, and its answers must be read.

    Where too many requests are being answered already, the next is refused right here: at ten times the
    capacity nine requests of ten are refused, and what that takes is taken from the tenth.
    """

    refused: Callable[[], None] = staticmethod(lambda: None)

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._head = 0  # bytes of the head that came so far
        self._fields = 0  # bytes of the request line and headers in it
        self._heading = True  # whether a head is awaited or coming
        self._refusing = False
        self._late: TimerHandle | None = None
        self._stuck: TimerHandle | None = None

    def connection_made(self, transport: Transport) -> None:  # type: ignore[override]
        """Begin; where there are too many already, end."""
        super().connection_made(transport)
        if len(self.connections) > MOST_CONNECTIONS:
            self._end(b"429 Too Many Requests", b"retry-after: 1\r\n")
        else:
            self._late = self.loop.call_later(HEAD_SECONDS, self._head_is_late)

    def connection_lost(self, exc: Exception | None) -> None:
        """End: no timer may outlive the connection."""
        self._stop_timers()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Take bytes; count them while they are a head."""
        if self.parser is None or self.transport.is_closing():
            return
        if self._heading:
            if self._late is None:
                self._late = self.loop.call_later(HEAD_SECONDS, self._head_is_late)
            self._head += len(data)
        super().data_received(data)
        if self._heading and self._head > LARGEST_HEAD:
            self._end(b"431 Request Header Fields Too Large")

    def on_message_begin(self) -> None:
        """Begin a head: much of it may come in one piece, with the body behind it."""
        super().on_message_begin()
        self._fields = 0

    def on_url(self, url: bytes) -> None:
        """Take a part of the request line."""
        self._count(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a header."""
        self._count(len(name) + len(value) + 4)
        super().on_header(name, value)

    def _count(self, size: int) -> None:
        self._fields += size
        if self._fields > LARGEST_HEAD:
            raise ValueError("the head is too large")  # which the parser turns into a 400

    def on_headers_complete(self) -> None:
        """Go on to the body."""
        self._heading, self._head = False, 0
        if self._late is not None:
            self._late.cancel()
            self._late = None
        before = self.cycle  # of a pipelined request the answer must wait for that before
        self._refusing = len(self.tasks) >= MOST_REQUESTS and (before is None or before.response_complete)
        if not self._refusing:
            super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """Take a part of the body."""
        if not self._refusing:
            super().on_body(body)

    def on_message_complete(self) -> None:
        """Go on to the next head."""
        self._heading = True
        if not self._refusing:
            super().on_message_complete()
            return
        self._refusing = False
        self.refused()
        self.transport.write(_BUSY)
        if not self.parser.should_keep_alive():
            self.transport.close()
        else:
            self._unset_keepalive_if_required()
            handler = self.timeout_keep_alive_handler
            self.timeout_keep_alive_task = self.loop.call_later(self.timeout_keep_alive, handler)

    def pause_writing(self) -> None:
        """Wait for a client that does not read, but not for ever."""
        super().pause_writing()
        self._stuck = self.loop.call_later(WRITE_SECONDS, self.transport.abort)

    def resume_writing(self) -> None:
        """Go on: the client reads again."""
        super().resume_writing()
        if self._stuck is not None:
            self._stuck.cancel()
            self._stuck = None

    def _head_is_late(self) -> None:
        self._late = None
        self._end(b"408 Request Timeout")

    def _end(self, status: bytes, headers: bytes = b"") -> None:
        self._stop_timers()
        self.transport.write(
            b"HTTP/1.1 " + status + b"\r\n" + headers + b"content-length: 0\r\nconnection: close\r\n\r\n"
        )
        self.transport.close()

    def _stop_timers(self) -> None:
        for timer in (self._late, self._stuck):
            if timer is not None:
                timer.cancel()
        self._late = self._stuck = None
