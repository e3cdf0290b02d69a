"""Who may ask, and what a request may be: checked before anything is read from it."""

import asyncio
import hmac
from collections.abc import Awaitable, Callable, Mapping
from ipaddress import ip_address
from socket import gethostname
from typing import Any

from glassgate.errors import GlassgateError
from glassgate.server.answers import JSON, RefusedError
from glassgate.server.bodies import LARGEST_BODY

__all__ = ["Guard", "is_loopback", "receive_body"]

SHORTEST_TOKEN = 16
BODY_SECONDS = 10.0
DRAIN_SECONDS = 1.0
MOST_DRAINED = 1 << 20  # bytes that are read and dropped: a client that still sends does not hear the refusal
LOCAL = ("localhost", "127.0.0.1", "[::1]")


def is_loopback(host: str) -> bool:
    """Tell whether only this machine reaches an address.

    Examples
    --------
    >>> is_loopback("127.0.0.1"), is_loopback("localhost"), is_loopback("0.0.0.0")
    (True, True, False)
    """
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


class Guard:
    """Refuses what another web site could make a browser send, and who lacks the token.

    A page of another site reaches this server through the user's browser in two ways: by posting to it,
    which the Origin header tells, and by letting its own name point here (DNS rebinding), which the Host
    header tells.

    Parameters
    ----------
    host
        The address that the server listens at.
    token
        What a request must bring; None: nothing, which is for the loopback alone.

    Raises
    ------
    GlassgateError
        When others could reach the server without a token, or the token is short or no ASCII.

    Examples
    --------
    >>> Guard("0.0.0.0", None)
    Traceback (most recent call last):
    glassgate.errors.GlassgateError: --host: 0.0.0.0 is open to others and needs a --token
    """

    def __init__(self, host: str, token: str | None) -> None:
        if token is None and not is_loopback(host):
            raise GlassgateError(f"--host: {host} is open to others and needs a --token")
        if token is not None and not (
            len(token) >= SHORTEST_TOKEN and token.isascii() and token.isprintable()
        ):
            raise GlassgateError(f"--token: must be at least {SHORTEST_TOKEN} printable ASCII characters")
        self._names = {*LOCAL, host, f"[{host}]"} | (set() if is_loopback(host) else {gethostname().lower()})
        self._any_address = not is_loopback(host)
        self._expected = None if token is None else f"Bearer {token}".encode()

    def check_site(self, headers: Mapping[bytes, bytes], method: str) -> None:
        """Refuse another site's name as Host, and another site's page as Origin."""
        host = headers.get(b"host", b"").decode("latin-1").lower()
        name = host.rpartition(":")[0] if not host.endswith("]") and ":" in host else host
        if name not in self._names and not (self._any_address and _is_address(name)):
            raise RefusedError(421, f"the Host header: {name[:60]!r} is not a name of this server")
        origin = headers.get(b"origin")
        if origin is not None and origin.decode("latin-1").lower() not in (
            f"http://{host}",
            f"https://{host}",
        ):
            raise RefusedError(403, "the Origin header: requests from pages of other sites are refused")
        if method == "POST" and headers.get(b"sec-fetch-site") in (b"cross-site", b"same-site"):
            raise RefusedError(
                403, "the Sec-Fetch-Site header: requests from pages of other sites are refused"
            )

    def check_token(self, headers: Mapping[bytes, bytes]) -> None:
        """Refuse a request without the token; how long that takes does not tell how much of it was right."""
        if self._expected is None:
            return
        if not hmac.compare_digest(headers.get(b"authorization", b""), self._expected):
            raise RefusedError(
                401,
                "the Authorization header: 'Bearer' and the server's token expected",
                www_authenticate="Bearer",
            )


def _is_address(name: str) -> bool:
    try:
        ip_address(name.removeprefix("[").removesuffix("]"))
    except ValueError:
        return False
    return True


async def receive_body(
    headers: Mapping[bytes, bytes], receive: Callable[[], Awaitable[Mapping[str, Any]]]
) -> bytes:
    """Read the body of a POST; it is counted while it comes.

    Raises
    ------
    RefusedError
        When it is no JSON, too large, late or broken off.
    """
    media = headers.get(b"content-type", b"").decode("latin-1").lower()
    kind, _, rest = media.partition(";")
    if kind.strip() != JSON or rest.strip() not in ("", "charset=utf-8", 'charset="utf-8"'):
        raise RefusedError(415, f"the Content-Type header: must be {JSON}, got {media[:60]!r}")
    if headers.get(b"content-encoding", b"identity").lower() != b"identity":
        raise RefusedError(415, "the Content-Encoding header: compressed bodies are not read")
    too_large = RefusedError(413, f"the body: must be at most {LARGEST_BODY} bytes", connection="close")
    length = headers.get(b"content-length", b"0")
    if length.isdigit() and int(length[:20]) > MOST_DRAINED:
        raise too_large
    parts, size, more = [], 0, True
    try:
        async with asyncio.timeout(BODY_SECONDS) as deadline:
            while more and size <= MOST_DRAINED:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise RefusedError(400, "the body: broke off")
                part, more = message.get("body", b""), message.get("more_body", False)
                size += len(part)
                if size <= LARGEST_BODY:
                    parts.append(part)
                elif size - len(part) <= LARGEST_BODY:  # the first part too many
                    deadline.reschedule(asyncio.get_running_loop().time() + DRAIN_SECONDS)
    except TimeoutError:
        if size > LARGEST_BODY:
            raise too_large from None
        line = f"the body: must come within {BODY_SECONDS:g} seconds"
        raise RefusedError(408, line, connection="close") from None
    if size > LARGEST_BODY:
        raise too_large
    return b"".join(parts)
