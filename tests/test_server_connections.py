"""What a client may do with a connection: say too much, too slowly, or nothing; and how the server ends."""

import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from glassgate.server import connection, connections, guard
from glassgate.server.bodies import LARGEST_BODY
from serving import Client, serving, write_folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path_factory.mktemp("served") / "drawn")


@pytest.fixture(scope="module")
def client(folder: Path) -> Iterator[Client]:
    with serving(folder) as client:
        yield client


def raw(client: Client, *pieces: bytes, pause: float = 0.0) -> bytes:
    """Send bytes as they are, and return what comes until the server closes."""
    host, _, port = client.host.rpartition(":")
    with socket.create_connection((host, int(port)), timeout=30) as connection:
        try:
            for piece in pieces:
                connection.sendall(piece)
                time.sleep(pause)
        except OSError:
            pass  # the server has closed already; what it said is there to be read
        received = b""
        try:
            while part := connection.recv(65536):
                received += part
        except ConnectionResetError:
            pass
        return received


POST = b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"


def test_large_bodies(client: Client) -> None:
    """Whether their size is told or not: they are counted while they come."""
    line = f"the body: must be at most {LARGEST_BODY} bytes".encode()
    told = raw(client, POST + b"Content-Length: 1000000000\r\n\r\n" + b"a" * 1000)
    chunk = b"4000\r\n" + b"a" * 0x4000 + b"\r\n"
    streamed = raw(client, POST + b"Transfer-Encoding: chunked\r\n\r\n", *[chunk] * 80)
    absurd = raw(client, POST + b"Content-Length: 1" + b"0" * 18 + b"\r\n\r\n")
    # Who sends all of it before listening hears the refusal too.
    drained = raw(client, POST + b"Content-Length: 500000\r\n\r\n", *[b"a" * 50_000] * 10)
    endless = raw(client, POST + b"Transfer-Encoding: chunked\r\n\r\n", *[chunk] * 5)
    for reply in (told, streamed, absurd, drained, endless):
        assert reply.startswith(b"HTTP/1.1 413 ")
        assert line in reply
    whole = b'{"text": "the"}'
    room = b" " * (LARGEST_BODY - len(whole))
    assert client.post("/predict", whole + room).status == 200
    assert client.post("/predict", whole + room + b" ").status == 413


def test_large_heads(client: Client) -> None:
    header = b"X-Padding: " + b"a" * 1000 + b"\r\n"
    assert (
        raw(
            client, b"GET /health HTTP/1.1\r\nHost: localhost\r\n" + header * 5 + b"Connection: close\r\n\r\n"
        )[:12]
        == b"HTTP/1.1 200"
    )
    for many in (
        (b"GET /health HTTP/1.1\r\nHost: localhost\r\n" + header * 30 + b"\r\n",),  # in one piece
        (b"GET /health HTTP/1.1\r\nHost: localhost\r\n", *[header] * 30),
        (b"GET /" + b"a" * 20_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n",),
        (b"GET /health HTTP/1.1\r\nX: ", *[b"a" * 4000] * 8),  # one header without end
    ):
        assert raw(client, *many, pause=0.005)[:12] in (b"HTTP/1.1 400", b"HTTP/1.1 431")


def test_no_http(client: Client) -> None:
    for piece in (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", b"GET / HTTP/9.9\r\n\r\n", b"\x00" * 100):
        assert raw(client, piece).startswith(b"HTTP/1.1 400 ")
    smuggled = POST + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
    assert raw(client, smuggled)[:12] == b"HTTP/1.1 400"


def test_slow_clients_are_cut(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "HEAD_SECONDS", 0.2)
    monkeypatch.setattr(guard, "BODY_SECONDS", 0.2)
    with serving(folder) as client:
        start = time.monotonic()
        assert raw(client, b"GET /health HTTP/1.1\r\nHost:").startswith(b"HTTP/1.1 408 ")
        assert raw(client).startswith(b"HTTP/1.1 408 ")  # connects and says nothing
        assert raw(client, *[b"\r\n"] * 10, pause=0.05).startswith(b"HTTP/1.1 408 ")
        monkeypatch.setattr(
            connection, "HEAD_SECONDS", 30
        )  # the others send theirs in time, however busy it is
        reply = raw(client, POST + b"Content-Length: 100\r\n\r\n{", b" ", b" ", pause=0.05)
        assert reply.startswith(b"HTTP/1.1 408 ")
        assert b"the body: must come within 0.2 seconds" in reply
        assert time.monotonic() - start < 20
        assert client.get("/health").status == 200


def test_too_many_requests_at_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Refused before they are looked at; on a kept connection the next one is answered."""
    monkeypatch.setattr(connections, "MOST_REQUESTS", 0)
    with serving(folder) as client:
        host, _, port = client.host.rpartition(":")
        request = POST + b"Content-Length: 15\r\n\r\n" + b'{"text": "the"}'
        with socket.create_connection((host, int(port)), timeout=30) as connection:
            connection.sendall(request)
            refused = connection.recv(65536)
            monkeypatch.setattr(connections, "MOST_REQUESTS", 1)
            connection.sendall(request)
            answered = connection.recv(65536)
        assert refused.startswith(b"HTTP/1.1 429 ")
        assert b"retry-after: 1" in refused
        assert b"the server: is busy; ask again in a second" in refused
        assert answered.startswith(b"HTTP/1.1 200 ")
        metrics = client.get("/metrics").body.decode()
        assert 'glassgate_requests_total{path="other",status="429"} 1' in metrics.splitlines()


def test_too_many_connections(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "MOST_CONNECTIONS", 1)
    with serving(folder) as client:
        host, _, port = client.host.rpartition(":")
        with socket.create_connection((host, int(port))):
            time.sleep(0.05)
            reply = raw(client, b"")
            assert reply.startswith(b"HTTP/1.1 429 ")
            assert b"retry-after: 1" in reply


def test_what_runs_is_finished_at_the_end(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(folder) as client:
        network = client.server.engine.network
        step = network.step

        def slowly(*arguments: Any) -> None:
            time.sleep(0.001)  # so that the end is asked for long before the last word
            step(*arguments)

        monkeypatch.setattr(network, "step", slowly)
        host, _, port = client.host.rpartition(":")
        body = b'{"text": "the", "words": 512}'
        request = POST.replace(b"/predict", b"/generate") + b"Content-Length: %d\r\n\r\n" % len(body) + body
        with socket.create_connection((host, int(port)), timeout=30) as connection:
            connection.sendall(request)
            received = connection.recv(1000)
            client.server.stop()
            while part := connection.recv(65536):
                received += part
        assert received.count(b"\ndata: ") == 513
        assert b"data: [DONE]" in received
