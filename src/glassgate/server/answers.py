"""What goes back: JSON, text, files, streams of events, and refusals in one clear line."""

import json
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

__all__ = [
    "JSON",
    "Answer",
    "RefusedError",
    "Stream",
    "as_json",
    "end_of_stream",
    "event_bytes",
    "head_bytes",
]

JSON = "application/json"

SECURITY = (
    b"x-content-type-options: nosniff\r\n"
    b"referrer-policy: no-referrer\r\n"
    b"cross-origin-resource-policy: same-origin\r\n"
    b"content-security-policy: default-src 'none'; script-src 'self'; style-src 'self';"
    b" img-src 'self' data: blob:; connect-src 'self'; base-uri 'none'; form-action 'none';"
    b" frame-ancestors 'none'\r\n"
)
"""Headers of every answer. None of them lets another site read it: there is no CORS."""

TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    429: "rate_limit_error",
    500: "server_error",
    503: "server_error",
}


@dataclass(frozen=True)
class Answer:
    """A whole answer."""

    body: bytes
    media: str = JSON
    status: int = 200
    headers: tuple[tuple[bytes, bytes], ...] = ()


@dataclass(frozen=True)
class Stream:
    """Server-sent events: each item is the data of one."""

    events: AsyncGenerator[str, None]
    cancel: Callable[[], None]
    """Gives up what is not yet computed: a generator that was never begun cannot do that itself."""


class RefusedError(Exception):
    """A request that is not granted: its status and one clear line.

    Examples
    --------
    >>> RefusedError(404, "the server: no such path").answer().body
    b'{"error":{"message":"the server: no such path","type":"not_found_error","param":null,"code":null}}'
    """

    def __init__(self, status: int, message: str, **headers: str) -> None:
        super().__init__(message)
        self.status = status
        self.headers = tuple(
            (name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()
        )

    def answer(self) -> Answer:
        """Return the answer that says so, in the form of the OpenAI API."""
        error = {
            "message": str(self),
            "type": TYPES.get(self.status, TYPES[400]),
            "param": None,
            "code": None,
        }
        return Answer(as_json({"error": error}), status=self.status, headers=self.headers)


_ENCODER = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), allow_nan=False)


def as_json(value: Any) -> bytes:
    """Write JSON as compact as it goes, in UTF-8."""
    return _ENCODER.encode(value).encode()


_STATUS = {status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n".encode() for status in HTTPStatus}


def head_bytes(answer: Answer | Stream, date: bytes, ends: bool, chunked: bool = True) -> bytes:
    """Write the head of an answer.

    Parameters
    ----------
    answer
        The answer.
    date
        The time, as the Date header has it.
    ends
        Whether the connection ends with it.
    chunked
        Of a stream: whether its events are framed as chunks; else it goes to the connection's end.
    """
    if isinstance(answer, Answer):
        parts = [
            _STATUS[answer.status],
            b"content-type: %b\r\ncontent-length: %d\r\n" % (answer.media.encode(), len(answer.body)),
        ]
        parts += [b"%b: %b\r\n" % header for header in answer.headers]
        cached = any(name == b"cache-control" for name, _ in answer.headers)
    else:
        parts = [_STATUS[200], b"content-type: text/event-stream; charset=utf-8\r\n"]
        if chunked:
            parts.append(b"transfer-encoding: chunked\r\n")
        cached = False
    parts += [
        SECURITY,
        b"" if cached else b"cache-control: no-store\r\n",
        b"connection: close\r\n" if ends else b"",
        b"date: %b\r\n\r\n" % date,
    ]
    return b"".join(parts)


def event_bytes(event: str, chunked: bool) -> bytes:
    """Write an event of a stream."""
    data = f"data: {event}\n\n".encode()
    return b"%x\r\n%b\r\n" % (len(data), data) if chunked else data


def end_of_stream(chunked: bool) -> bytes:
    """Write what follows the last event."""
    return b"0\r\n\r\n" if chunked else b""
