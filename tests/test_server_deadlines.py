"""What takes too long: of a client, of a text, and of what still runs when the server ends."""

import json
import socket
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from glassgate.server import completions, connection, guard, running, service
from glassgate.server.pace import Pace
from serving import POST, WHOLE, Client, raw, serving, statuses


def slow(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    step = client.server.engine.network.step

    def slowly(*arguments: Any) -> None:
        time.sleep(0.02)
        step(*arguments)

    monkeypatch.setattr(client.server.engine.network, "step", slowly)


def test_what_would_take_too_long_is_refused_at_once(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the measured time of a step: here one of a second, and each further text as long again."""
    monkeypatch.setattr(Pace, "seconds", lambda self, texts, steps: float(texts * sum(steps.values())))
    for path, body, most, (texts, words) in (
        ("/v1/completions", {"prompt": ["the gate"] * 2, "n": 2, "max_tokens": 3}, 10, (4, 5)),
        ("/v1/completions", {"prompt": "the gate", "max_tokens": 40, "stream": True}, 20, (1, 42)),
        ("/generate", {"text": "the", "words": 40}, 20, (1, 41)),
    ):
        reply = client.post(path, body)
        line = f"{texts} x {words} words would take about {texts * words} s: expected at most {most} s"
        assert (reply.status, reply.error) == (413, f"the request: {line}")
    for n, status in ((2, 200), (3, 413)):  # <eos>, one word read, three steps: 4 s a text
        assert client.post("/v1/completions", {"prompt": "the", "n": n, "max_tokens": 3}).status == status
    assert client.server.engine.load == 0


def test_a_stream_that_comes_to_no_end_in_time_says_so(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow(client, monkeypatch)
    for module in (service, completions):
        monkeypatch.setattr(module, "STREAM_SECONDS", 0.5)
    monkeypatch.setattr(Pace, "seconds", lambda self, texts, steps: 0.0)
    for path, body in (
        ("/generate", {"text": "the", "words": 512}),
        ("/v1/completions", {"prompt": "the", "max_tokens": 512, "n": 2, "stream": True}),
    ):
        reply = client.post(path, body)
        *words, last = [one for one in reply.body.decode().split("\n\n") if one]
        assert (reply.status, 2 < len(words) < 512) == (200, True)
        error = json.loads(last.removeprefix("data: "))["error"]
        assert (error["message"], error["type"]) == ("the server: could not go on", "server_error")


def test_what_takes_too_long_is_told(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service, "REQUEST_SECONDS", -1.0)
    for path in ("/predict", "/trace", "/edit"):
        reply = client.post(path, {"text": "the"})
        line = "the server: did not come to the end of it in time; ask again"
        assert (reply.status, reply.error) == (503, line)
        assert reply.headers["retry-after"] == "1"


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


def test_who_stays_without_a_request_is_let_go(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "KEEP_SECONDS", 0.3)
    with serving(folder) as client:
        start = time.monotonic()
        assert statuses(raw(client, WHOLE)) == [200]  # then the server closes, without a word
        assert 0.3 <= time.monotonic() - start < 5


def unread(client: Client, request: bytes) -> socket.socket:
    """Ask for something, and read nothing of the answer."""
    host, _, port = client.host.rpartition(":")
    asking = socket.socket()
    asking.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    asking.settimeout(30)
    asking.connect((host, int(port)))
    asking.sendall(request)
    return asking


LARGE = b'{"text": "' + b"the " * 4000 + b'"}'  # its trace has 2 MB
TRACE = POST.replace(b"/predict", b"/trace") + b"Content-Length: %d\r\n\r\n" % len(LARGE) + LARGE


def test_an_answer_that_nobody_reads_is_cut(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "WRITE_SECONDS", 0.3)
    with serving(folder) as client, unread(client, TRACE * 8) as asking:
        time.sleep(1.5)
        received = b""
        with suppress(ConnectionResetError):
            while part := asking.recv(65536):
                received += part
        assert len(received) < 8_000_000  # of eight answers, each with nearly 2 MB
        assert client.get("/health").status == 200


GENERATE = (
    POST.replace(b"/predict", b"/generate") + b"Content-Length: 29\r\n\r\n" + b'{"text": "the", "words": 512}'
)


def test_a_stream_has_its_time(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its words come sooner; but who reads them slowly keeps it open, and not for ever."""
    monkeypatch.setattr(connection, "STREAM_SECONDS", 0.5)
    with serving(folder) as client:
        slow(client, monkeypatch)
        received = raw(client, GENERATE.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
        assert 2 < received.count(b"data: ") < 100
        assert (b"[DONE]" in received, received[-5:]) == (False, b"0\r\n\r\n")
        while client.server.engine.load:
            time.sleep(0.001)


def test_the_end_waits_for_what_runs_and_not_for_ever(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(running, "SHUTDOWN_SECONDS", 0.5)
    with serving(folder) as client:
        slow(client, monkeypatch)
        host, _, port = client.host.rpartition(":")
        short = GENERATE.replace(b"512", b" 10")
        address = host, int(port)
        with socket.create_connection(address, 30) as one, socket.create_connection(address, 30) as other:
            one.sendall(short)
            other.sendall(GENERATE)
            assert one.recv(12) == other.recv(12) == b"HTTP/1.1 200"
            start = time.monotonic()
            client.server.stop()
            received = b""
            while part := one.recv(65536):
                received += part
            assert b"data: [DONE]" in received
            cut = b""
            with suppress(ConnectionResetError):
                while part := other.recv(65536):
                    cut += part
            assert b"[DONE]" not in cut
            assert time.monotonic() - start < 5  # of ten seconds for 512 words
