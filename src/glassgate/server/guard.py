"""Who may ask, and what a request may be: checked before anything is read from it."""

import hmac
import re
from collections.abc import Mapping
from ipaddress import ip_address
from socket import gethostname

from glassgate.errors import GlassgateError
from glassgate.server.answers import JSON, RefusedError
from glassgate.server.bodies import LARGEST_BODY

__all__ = ["BODY_SECONDS", "LARGEST_BODY", "Guard", "is_loopback", "too_large"]

SHORTEST_TOKEN = 16
BODY_SECONDS = 10.0
LOCAL = ("localhost", "127.0.0.1", "[::1]")
ORIGIN = re.compile(r"https?://(?P<name>[a-z0-9](?:[a-z0-9.-]*[a-z0-9])?)(?::\d{1,5})?")


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
    origin
        Where a proxy before this server offers the page: ``https://NAME``, with a port where it has one.

    Raises
    ------
    GlassgateError
        When others could reach the server without a token, the token is short or no ASCII, or the origin is
        none.

    Examples
    --------
    >>> Guard("0.0.0.0", None)
    Traceback (most recent call last):
    glassgate.errors.GlassgateError: --host: 0.0.0.0 is open to others and needs a --token
    """

    def __init__(self, host: str, token: str | None, origin: str | None = None) -> None:
        if token is None and not is_loopback(host):
            raise GlassgateError(f"--host: {host} is open to others and needs a --token")
        proxied = None if origin is None else ORIGIN.fullmatch(origin.lower())
        if origin is not None and proxied is None:
            raise GlassgateError(f"--origin: must be https://NAME or http://NAME, got {origin!r}")
        if token is None and proxied is not None:
            raise GlassgateError(f"--origin: {origin} is open to others and needs a --token")
        if token is not None and not (
            len(token) >= SHORTEST_TOKEN and token.isascii() and token.isprintable()
        ):
            raise GlassgateError(f"--token: must be at least {SHORTEST_TOKEN} printable ASCII characters")
        host = host.lower()  # as the names in requests are
        self._names = {*LOCAL, host, f"[{host}]"} | (set() if is_loopback(host) else {gethostname().lower()})
        self._names |= {proxied["name"]} if proxied else set()
        self._origin = proxied[0] if proxied else None
        self._any_address = not is_loopback(host)
        self._expected = None if token is None else f"Bearer {token}".encode()

    def check_site(self, headers: Mapping[bytes, bytes], method: str) -> None:
        """Refuse another site's name as Host, and another site's page as Origin."""
        host = headers.get(b"host", b"").decode("latin-1").lower()
        name, colon, port = host.rpartition(":")
        if host.endswith("]") or not colon:
            name, port = host, "80"
        if not port.isdecimal():
            raise RefusedError(421, f"the Host header: {host[:60]!r} is not a name of this server")
        if name not in self._names and not (self._any_address and _is_address(name)):
            raise RefusedError(421, f"the Host header: {name[:60]!r} is not a name of this server")
        origin = headers.get(b"origin")
        if origin is not None and origin.decode("latin-1").lower() not in (
            f"http://{host}",
            f"https://{host}",
            self._origin,
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

    def check_body(self, headers: Mapping[bytes, bytes]) -> None:
        """Refuse a body that is no JSON, or says that it is too large."""
        media = headers.get(b"content-type", b"")
        if media != b"application/json":  # the common way to say it; there are others
            kind, _, rest = media.decode("latin-1").lower().partition(";")
            if kind.strip() != JSON or rest.strip() not in ("", "charset=utf-8", 'charset="utf-8"'):
                came = media.decode("latin-1")[:60]
                raise RefusedError(415, f"the Content-Type header: must be {JSON}, got {came!r}")
        if headers.get(b"content-encoding", b"identity").lower() != b"identity":
            raise RefusedError(415, "the Content-Encoding header: compressed bodies are not read")
        if int(headers.get(b"content-length", b"0")[:20]) > LARGEST_BODY:  # digits: the parser saw to that
            raise too_large()


def _is_address(name: str) -> bool:
    try:
        ip_address(name.removeprefix("[").removesuffix("]"))
    except ValueError:
        return False
    return True


def too_large() -> RefusedError:
    """Return the refusal of a body that is too large."""
    return RefusedError(413, f"the body: must be at most {LARGEST_BODY} bytes")
