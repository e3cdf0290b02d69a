"""What a client may do with a connection: say too much, too slowly, or nothing; and how the server ends."""

import re
import selectors
import socket
import time
from pathlib import Path
from typing import Any

import pytest

from glassgate.server import connections
from glassgate.server.bodies import LARGEST_BODY
from serving import GET, POST, WHOLE, Client, raw, serving, statuses


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


NOT_READ = {
    "two lengths": POST + b"Content-Length: 5\r\nContent-Length: 15\r\n\r\n",
    "a length that is none": POST + b"Content-Length: +15\r\n\r\n",
    "a length beyond 64 bits": POST + b"Content-Length: 99999999999999999999999\r\n\r\n",
    "a coding before the chunks": POST + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    "no chunks at the end": POST + b"Transfer-Encoding: chunked, identity\r\n\r\n",
    "chunks in HTTP/1.0": POST.replace(b"1.1", b"1.0") + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "a chunk below 0": POST + b"Transfer-Encoding: chunked\r\n\r\n-1\r\nx",
    "a chunk beyond 64 bits": POST + b"Transfer-Encoding: chunked\r\n\r\n" + b"f" * 17 + b"\r\nx",
    "lines without a return": b"GET /health HTTP/1.1\nHost: localhost\n\n",
    "a folded header": GET + b" more\r\n\r\n",
    "a space before the colon": GET + b"Content-Length : 3\r\n\r\nabc",
    "two hosts": GET + b"Host: evil.example\r\n\r\n",
    "two types": POST + b"Content-Type: text/plain\r\nContent-Length: 0\r\n\r\n",
    "a whole address": b"GET http://localhost/health HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "a tunnel": b"CONNECT localhost:1 HTTP/1.1\r\nHost: localhost\r\n\r\n" + GET + b"\r\n",
    "an upgrade with a body": POST
    + b"Connection: upgrade\r\nUpgrade: h2c\r\nContent-Length: 70\r\n\r\n"
    + GET,
    "trailers without end": POST + b"Transfer-Encoding: chunked\r\n\r\n0\r\n" + (b"X: " + b"a" * 999) * 20,
    "HTTP/0.9": b"GET /health\r\n\r\n",
    "garbage": b"\x00garbage\r\n\r\n",
}


@pytest.mark.parametrize("sent", NOT_READ.values(), ids=NOT_READ)
def test_what_two_programs_could_read_differently_is_not_read(client: Client, sent: bytes) -> None:
    """Alone or behind another request: one 400, and nothing behind it is taken for a request."""
    assert statuses(raw(client, sent + GET + b"\r\n")) == [400]
    assert statuses(raw(client, WHOLE + sent + GET + b"\r\n")) == [200, 400]


def test_what_belongs_to_no_request_changes_none(client: Client) -> None:
    chunked = POST + b"Transfer-Encoding: chunked\r\nConnection: close\r\n\r\nf;a=b\r\n" + b'{"text": "the"}'
    assert statuses(raw(client, chunked + b"\r\n0\r\nHost: evil.example\r\n\r\n")) == [200]
    ending = WHOLE.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")
    assert statuses(raw(client, ending + WHOLE)) == [200]  # nothing follows the last
    upgrade = GET + b"Connection: upgrade\r\nUpgrade: h2c\r\n\r\n"
    assert statuses(raw(client, upgrade + WHOLE)) == [200]
    for framed in (b"1;" + b"a" * 60_000 + b"\r\n \r\n", b"1\r\n \r\n" * 9000):  # little body, much around it
        many = raw(client, POST + b"Transfer-Encoding: chunked\r\n\r\n", *[framed] * 25)
        assert statuses(many) == [413]


def test_requests_before_the_answers(client: Client) -> None:
    """They are answered in their order; of too many at once no more are taken."""
    asked = [b'{"text": "the", "k": %d}' % k for k in range(1, 7)]
    requests = [POST + b"Content-Length: %d\r\n\r\n" % len(body) + body for body in asked]
    ending = GET + b"Connection: close\r\n\r\n"
    received = raw(client, b"".join(requests) + ending)
    assert statuses(received) == [200] * 7
    found = [body.count(b'"word"') for body in received.split(b"HTTP/1.1 ")[1:]]
    assert found == [1, 2, 3, 4, 5, 6, 0]
    byte_by_byte = [bytes([byte]) for byte in requests[2] + ending]
    assert statuses(raw(client, *byte_by_byte)) == [200, 200]
    assert statuses(raw(client, WHOLE * 100)) == [200] * 33 + [400]


def test_other_forms_of_a_request(client: Client) -> None:
    old = POST.replace(b"1.1", b"1.0").replace(b"/predict", b"/generate") + b"Content-Length: 27\r\n\r\n"
    head, _, events = raw(client, old + b'{"text": "the", "words": 2}').partition(b"\r\n\r\n")
    assert b"chunked" not in head  # HTTP/1.0 knows no chunks
    assert re.fullmatch(rb"(data: \{[^\n]*\}\n\n){2}data: \[DONE\]\n\n", events)
    expecting = POST + b"Content-Length: 15\r\nExpect: 100-continue\r\nConnection: close\r\n\r\n"
    assert statuses(raw(client, expecting, b'{"text": "the"}', pause=0.05)) == [100, 200]
    assert statuses(raw(client, expecting.replace(b"/predict", b"/nothing"))) == [404]


def test_a_client_that_goes_away_frees_the_engine(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(folder) as client:
        engine = client.server.engine
        step = engine.network.step

        def slowly(*arguments: Any) -> None:
            time.sleep(0.002)
            step(*arguments)

        monkeypatch.setattr(engine.network, "step", slowly)
        host, _, port = client.host.rpartition(":")
        for path, body in (
            ("/generate", b'{"text": "the", "words": 512}'),
            ("/v1/completions", b'{"prompt": "the", "max_tokens": 512, "n": 8}'),
            ("/v1/completions", b'{"prompt": "the", "max_tokens": 512, "n": 8, "stream": true}'),
            ("/predict", b'{"text": "' + b"the " * 4000 + b'"}'),
        ):
            head = POST.replace(b"/predict", path.encode()) + b"Content-Length: %d\r\n\r\n" % len(body)
            with socket.create_connection((host, int(port)), timeout=30) as connection:
                connection.sendall(head + body)
                while not engine.load:
                    time.sleep(0.001)
                before = engine.steps
            while engine.load:
                time.sleep(0.001)
            assert engine.steps - before < 400  # of 512 or 4001: it stopped long before the end


def test_few_are_let_in_while_answers_lie_unread(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "MOST_UNREAD", 1000)
    with serving(folder) as client:
        host, _, port = client.host.rpartition(":")
        body = b'{"text": "' + b"the " * 4000 + b'"}'  # its trace has 2 MB
        trace = POST.replace(b"/predict", b"/trace") + b"Content-Length: %d\r\n\r\n" % len(body) + body
        with socket.create_connection((host, int(port)), timeout=30) as connection:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            connection.sendall(trace * 4)
            for _ in range(3000):
                if client.post("/predict", {"text": "the"}).status == 429:
                    break
                time.sleep(0.01)
            else:
                raise AssertionError("never refused")
            assert client.get("/health").status == 200
        for _ in range(3000):
            if client.post("/predict", {"text": "the"}).status == 200:
                break
            time.sleep(0.01)
        else:
            raise AssertionError("never let in again")


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


def test_what_is_known_to_be_refused_is_refused_alike(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second of the same bytes needs no parser: where it begins and ends stays the same."""
    monkeypatch.setattr(connections, "MOST_REQUESTS", 0)
    known = []
    knows = connections.Connections.knows
    monkeypatch.setattr(
        connections.Connections, "knows", lambda self, came: known.append(knows(self, came)) or known[-1]
    )
    with serving(folder) as client:
        host, _, port = client.host.rpartition(":")
        head = POST + b"Content-Length: 15\r\n\r\n"
        bodies = b'{"text": "the"}', b'{"text": "and"}'

        def answers(connection: socket.socket, count: int) -> list[bytes]:
            received = b""
            while received.count(b"}}") < count and (part := connection.recv(65536)):
                received += part
            return re.findall(rb"HTTP/1.1 (\d+) ", received)

        with socket.create_connection((host, int(port)), timeout=30) as connection:
            for body in (*bodies, *bodies):
                connection.sendall(head + body)
                assert answers(connection, 1) == [b"429"]
            assert known == [False, True, True, True]
            connection.sendall((head + bodies[0]) * 3)  # more than one whole request: read by the parser
            assert answers(connection, 3) == [b"429"] * 3
            connection.sendall(head + bodies[0][:5])  # less than one
            time.sleep(0.05)
            connection.sendall(bodies[0][5:])
            assert answers(connection, 1) == [b"429"]
            assert known[4:6] == [False, False]
            monkeypatch.setattr(connections, "MOST_REQUESTS", 32)
            connection.sendall(head + bodies[1])
            assert connection.recv(65536).startswith(b"HTTP/1.1 200 ")
        last = POST + b"Connection: close\r\nContent-Length: 15\r\n\r\n" + bodies[0]
        monkeypatch.setattr(connections, "MOST_REQUESTS", 0)
        for _ in range(2):  # ends, as it was asked to, each time
            assert raw(client, last).startswith(b"HTTP/1.1 429 ")
        metrics = client.get("/metrics").body.decode()
        assert 'glassgate_requests_total{path="other",status="429"} 10' in metrics.splitlines()


def test_a_few_sockets_are_told_of_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """The last first where they are let in, else the first; one that was closed or is not read: none.

    Those that have waited for too long come first, too, and are late.
    """
    for name in ("ASK_SECONDS", "FULL_SECONDS", "LATE_SECONDS"):
        monkeypatch.setattr(connections, name, float("inf"))
    pairs = [socket.socketpair() for _ in range(20)]
    with connections.Selector() as selector:
        selector.register(pairs[10][0], selectors.EVENT_READ, 10)  # the event loop's own: before all others
        for number, (one, _) in enumerate(pairs):
            if number != 10:
                selector.register(one, selectors.EVENT_READ, number)
        for _, other in pairs:
            other.send(b"1")
        assert [key.data for key, _ in selector.select(1.0)] == [10]
        selector.crowded = lambda: True
        told = [key.data for key, _ in selector.select(1.0)]
        assert told == [19, 18, 17, 16, 15, 14, 13, 12]
        assert selector.waiting == 11
        selector.unregister(pairs[5][0])
        selector.modify(pairs[2][0], selectors.EVENT_WRITE, 2)
        selector.full = lambda: True
        assert selector.select(0) == []  # there is time
        assert [key.data for key, _ in selector.select(1.0)] == [0, 1, 3, 4, 6, 7]
        selector.full = lambda: False
        monkeypatch.setattr(connections, "LATE_SECONDS", -1.0)
        monkeypatch.setattr(connections, "FULL_SOCKETS", 1)
        assert not selector.late
        assert [key.data for key, _ in selector.select(1.0)] == [8]
        assert selector.late
        selector.crowded = lambda: False
        assert [key.data for key, _ in selector.select(1.0)] == [9, 11]
        assert not selector.late
        assert selector.waiting == 0
    for pair in pairs:
        for end in pair:
            end.close()
