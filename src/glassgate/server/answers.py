"""What goes back: JSON, text, files, streams of events, and refusals in one clear line."""

import json
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Any

__all__ = ["JSON", "SECURITY", "Answer", "RefusedError", "Stream", "as_json"]

JSON = "application/json"

SECURITY = [
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (
        b"content-security-policy",
        b"default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:;"
        b" connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    ),
]
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


def as_json(value: Any) -> bytes:
    """Write JSON as compact as it goes, in UTF-8."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode()
