"""What the server refuses: each with its status and one clear line, and it goes on."""

import re
import time
from pathlib import Path
from typing import Any

import pytest

from glassgate.errors import GlassgateError
from glassgate.server import Server, guard, service
from glassgate.server.engine import BusyError
from glassgate.server.readers import Writer
from serving import Client, serving, write_folder

TOKEN = "0123456789abcdef"


BODIES: list[tuple[str, Any, int, str]] = [
    ("/predict", b"{", 400, "the body: invalid JSON: EOF while parsing an object at line 1 column 1"),
    ("/predict", b'"\xff"', 400, "the body: invalid JSON: invalid unicode code point at line 1 column 2"),
    ("/predict", b'{"text": "\\ud800"}', 400, "the body: invalid JSON: "),
    ("/predict", b"[" * 60_000, 400, "the body: invalid JSON: recursion limit exceeded"),
    ("/predict", [], 422, "the body: input should be an object"),
    ("/predict", {}, 422, "text: is missing"),
    ("/predict", {"text": 1}, 422, "text: input should be a valid string, got 1"),
    ("/predict", {"text": "a" * 16_385}, 422, "text: string should have at most 16384 characters, got 'aaa"),
    ("/predict", {"text": "a", "k": 0}, 422, "k: input should be greater than or equal to 1, got 0"),
    ("/predict", {"text": "a", "k": 10**30}, 422, "k: input should be less than or equal to 1000, got 10000"),
    ("/predict", {"text": "a", "k": "5"}, 422, "k: input should be a valid integer, got '5'"),
    ("/predict", {"text": "a", "k": True}, 422, "k: input should be a valid integer, got True"),
    ("/predict", {"text": "a", "file": "/etc/passwd"}, 422, "'file': is not known here; known are text, k, "),
    (
        "/generate",
        {"text": "a", "words": 513},
        422,
        "words: input should be less than or equal to 512, got 513",
    ),
    ("/generate", b'{"text": "a", "temperature": NaN}', 422, "temperature: "),
    ("/generate", b'{"text": "a", "temperature": 1e999}', 422, "temperature: "),
    (
        "/generate",
        {"text": "a", "temperature": -1},
        422,
        "temperature: input should be greater than or equal to 0",
    ),
    ("/generate", {"text": "a", "top_p": 0}, 422, "top_p: input should be greater than 0, got 0"),
    (
        "/generate",
        {"text": "a", "seed": 2**31},
        422,
        "seed: input should be less than or equal to 2147483647",
    ),
    (
        "/edit",
        {"text": "a", "edits": [{}] * 257},
        422,
        "edits: list should have at most 256 items after validation",
    ),
    (
        "/edit",
        {"text": "a", "edits": [{"gate": "cell"}]},
        422,
        "edits.0: exactly one of set, scale, add, clamp",
    ),
    (
        "/edit",
        {"text": "a", "edits": [{"gate": "cell", "set": 0, "add": 1}]},
        422,
        "edits.0: exactly one of set, scale, add, clamp expected, got set, add",
    ),
    (
        "/edit",
        {"text": "a", "edits": [{"gate": "cell", "set": 1e7}]},
        422,
        "edits.0.set: input should be less",
    ),
    (
        "/edit",
        {"text": "a", "edits": [{"gate": "forgot", "set": 0}]},
        422,
        "edit: the gates and states are input",
    ),
    (
        "/edit",
        {"text": "a", "edits": [{"gate": "update", "set": 0}]},
        422,
        "edit of update: there is input",
    ),
    (
        "/edit",
        {"text": "a", "edits": [{"gate": "cell", "set": 0, "units": [7]}]},
        422,
        "edit of cell: units must be from 0 to 6 in l0, got 7",
    ),
    (
        "/trace",
        {"text": "a", "edits": [{"gate": "cell", "set": 0, "units": [1, 1]}]},
        422,
        "edit of cell: units must be different whole numbers",
    ),
    (
        "/trace",
        {"text": "a", "edits": [{"gate": "cell", "set": 0, "layer": "l9"}]},
        422,
        "edit of cell: the layers are",
    ),
    (
        "/trace",
        {"text": "a", "edits": [{"gate": "cell", "set": 0, "steps": [1.5, 2]}]},
        422,
        "edits.0.steps.0: ",
    ),
    ("/v1/completions", {"model": "other"}, 404, "model: 'drawn' is served here, got 'other'"),
    ("/v1/completions", {"prompt": [99999]}, 422, "prompt: word numbers must be below "),
    (
        "/v1/completions",
        {"prompt": []},
        422,
        "prompt: must be a text, up to 8 texts, word numbers or up to 8 lists",
    ),
    ("/v1/completions", {"prompt": {"url": "http://x"}}, 422, "prompt: must be a text, up to 8 texts"),
    ("/v1/completions", {"n": 9}, 422, "n: input should be less than or equal to 8, got 9"),
    ("/v1/completions", {"best_of": 2}, 422, "best_of: input should be less than or equal to 1, got 2"),
    ("/v1/completions", {"suffix": "."}, 422, "suffix: must be null: nothing is put behind"),
    ("/v1/completions", {"logit_bias": {"5": 1}}, 422, "logit_bias: must be null: probabilities are the"),
    ("/v1/completions", {"tools": []}, 422, "'tools': is not known here; known are model, prompt"),
    (
        "/v1/completions",
        {"presence_penalty": 1},
        422,
        "presence_penalty: input should be less than or equal to 0",
    ),
    ("/v1/completions", {"stop": ["", "a"]}, 422, "stop: must be a text or up to 4 texts, each of 1 to 64"),
    (
        "/v1/completions",
        {"max_tokens": 513},
        422,
        "max_tokens: input should be less than or equal to 512, got 513",
    ),
]


@pytest.mark.parametrize(("path", "body", "status", "line"), BODIES)
def test_bodies(client: Client, path: str, body: Any, status: int, line: str) -> None:
    reply = client.post(path, body)
    assert (reply.status, reply.error[: len(line)]) == (status, line)


JSON = {"Content-Type": "application/json"}
REQUESTS: list[tuple[str, str, dict[str, str], int, str]] = [
    ("GET", "/nothing", {}, 404, "the server: no such path"),
    ("GET", "/../../etc/passwd", {}, 404, "the server: no such path"),
    ("GET", "/%2e%2e%2fserver.py", {}, 404, "the server: no such path"),
    ("GET", "//health", {}, 404, "the server: no such path"),
    ("GET", "/page/index.html", {}, 404, "the server: no such path"),
    ("GET", "/predict", {}, 405, "the method: must be POST"),
    ("OPTIONS", "/predict", {}, 405, "the method: must be POST"),
    ("POST", "/health", JSON, 405, "the method: must be GET or HEAD"),
    ("POST", "/predict", {}, 415, "the Content-Type header: must be application/json, got ''"),
    (
        "POST",
        "/predict",
        {"Content-Type": "text/plain"},
        415,
        "the Content-Type header: must be application/json",
    ),
    (
        "POST",
        "/predict",
        {"Content-Type": "application/json; charset=latin-1"},
        415,
        "the Content-Type header: ",
    ),
    (
        "POST",
        "/predict",
        {**JSON, "Content-Encoding": "gzip"},
        415,
        "the Content-Encoding header: compressed",
    ),
    (
        "GET",
        "/health",
        {"Host": "evil.example"},
        421,
        "the Host header: 'evil.example' is not a name of this",
    ),
    ("GET", "/health", {"Host": "evil.example:8000"}, 421, "the Host header: 'evil.example' is not a name"),
    ("GET", "/health", {"Host": "192.168.1.5"}, 421, "the Host header: '192.168.1.5' is not a name of this"),
    ("GET", "/health", {"Host": "localhost.evil.example"}, 421, "the Host header: 'localhost.evil.example'"),
    ("GET", "/health", {"Host": "[::1"}, 421, "the Host header: '[:"),
    ("GET", "/health", {"Host": "[::1]evil"}, 421, "the Host header: '[::1]evil' is not a name of this"),
    ("GET", "/health", {"Host": "localhost."}, 421, "the Host header: 'localhost.' is not a name of this"),
    ("GET", "/health", {"Host": "localhost@evil"}, 421, "the Host header: 'localhost@evil' is not a name"),
    ("GET", "/health", {"Host": "localhost:evil"}, 421, "the Host header: 'localhost:evil' is not a name"),
    ("GET", "/health", {"Host": "localhost:80:80"}, 421, "the Host header: 'localhost:80' is not a name"),
    ("GET", "/", {"Host": ""}, 421, "the Host header: '' is not a name of this server"),
    (
        "POST",
        "/predict",
        {**JSON, "Origin": "http://evil.example"},
        403,
        "the Origin header: requests from pages",
    ),
    (
        "POST",
        "/predict",
        {**JSON, "Origin": "null"},
        403,
        "the Origin header: requests from pages of other sites",
    ),
    (
        "POST",
        "/predict",
        {**JSON, "Origin": "http://localhost:1"},
        403,
        "the Origin header: requests from pages",
    ),
    (
        "POST",
        "/predict",
        {**JSON, "Sec-Fetch-Site": "cross-site"},
        403,
        "the Sec-Fetch-Site header: requests",
    ),
]


@pytest.mark.parametrize(("method", "path", "headers", "status", "line"), REQUESTS)
def test_requests(
    client: Client, method: str, path: str, headers: dict[str, str], status: int, line: str
) -> None:
    reply = client.send(method, path, b'{"text": "the"}' if method == "POST" else None, **headers)
    assert (reply.status, reply.error[: len(line)]) == (status, line)
    assert not [name for name in reply.headers if name.startswith("access-control")]


def test_own_pages_and_own_names_are_let_in(client: Client) -> None:
    port = client.host.rpartition(":")[2]
    for name in ("localhost", "127.0.0.1", "[::1]"):
        host = f"{name}:{port}"
        assert client.get("/health", Host=host).status == 200
        for scheme in ("http", "https"):
            reply = client.post("/predict", {"text": "the"}, Host=host, Origin=f"{scheme}://{host}")
            assert reply.status == 200
    assert client.get("/health", Host="localhost").status == 200


def test_the_page_comes_with_its_policy_and_nothing_else(client: Client) -> None:
    reply = client.get("/")
    assert reply.status == 200
    assert reply.headers["content-type"] == "text/html; charset=utf-8"
    policy = reply.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "script-src 'self';" in policy
    assert "unsafe" not in policy
    assert reply.headers["x-content-type-options"] == "nosniff"
    assert not [name for name in reply.headers if name.startswith("access-control")]
    head = client.send("HEAD", "/")
    assert (head.status, head.body) == (200, b"")
    assert head.headers["content-length"] == str(len(reply.body))


def test_the_token(folder: Path) -> None:
    with serving(folder, token=TOKEN) as client:
        assert client.get("/health").json["token"] is True
        assert client.get("/").status == 200
        for headers in ({}, {"Authorization": f"Bearer {TOKEN[:-1]}x"}, {"Authorization": TOKEN}):
            for reply in (client.get("/model", **headers), client.post("/predict", {"text": ""}, **headers)):
                assert reply.status == 401
                assert reply.error == "the Authorization header: 'Bearer' and the server's token expected"
                assert reply.headers["www-authenticate"] == "Bearer"
        assert client.get("/model", Authorization=f"Bearer {TOKEN}").status == 200
        assert client.post("/predict", {"text": ""}, Authorization=f"Bearer {TOKEN}").status == 200
        described = client.get("/openapi.json", Authorization=f"Bearer {TOKEN}").json
        assert described["security"] == [{"token": []}]


def test_other_addresses_need_a_token(folder: Path) -> None:
    for host in ("0.0.0.0", "::", "192.168.1.5", "example.org"):
        with pytest.raises(
            GlassgateError, match=rf"^--host: {re.escape(host)} is open to others and needs a --token$"
        ):
            Server(folder, host=host)
    for token in ("short", "0123456789abcde\n", "0123456789abcdeé"):
        with pytest.raises(
            GlassgateError, match=r"^--token: must be at least 16 printable ASCII characters$"
        ):
            Server(folder, token=token)
    checked = guard.Guard("0.0.0.0", TOKEN)
    checked.check_site({b"host": b"192.168.1.5:8000"}, "GET")  # an address is nobody's name to rebind
    for name in (b"MyBox.Local:8000", b"mybox.local"):  # names have no case
        guard.Guard("MyBox.Local", TOKEN).check_site({b"host": name}, "GET")


def test_an_address_that_is_taken(folder: Path, client: Client) -> None:
    port = int(client.host.rpartition(":")[2])
    with pytest.raises(
        GlassgateError, match=rf"^--host 127\.0\.0\.1 --port {port}: cannot be used: Address already in use"
    ):
        Server(folder, port=port)
    with pytest.raises(GlassgateError, match=r"^--port: must be from 0 to 65535, got 70000$"):
        Server(folder, port=70000)


def test_a_closed_vocabulary_has_no_unknown_words(tmp_path: Path) -> None:
    with serving(write_folder(tmp_path / "closed", closed=True)) as client:
        reply = client.post("/predict", {"text": "the zebra"})
        assert (reply.status, reply.error) == (422, "the text: the model does not know the word 'zebra'")
        reply = client.post("/predict", {"text": ""})
        line = "the text: is empty: this model needs at least one word to go on from"
        assert (reply.status, reply.error) == (422, line)
        assert client.post("/v1/completions", {"prompt": ""}).error == line
        assert client.post("/predict", {"text": "the"}).status == 200


def test_a_trace_beyond_bounds(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service, "MOST_VALUES", 3 * 2 * 7 * 6)  # <eos> and two words
    assert client.post("/trace", {"text": "the gate"}).status == 200
    for path in ("/trace", "/edit"):
        reply = client.post(path, {"text": "the gate opens"})
        assert (reply.status, reply.error) == (413, "text: its trace has 336 values: expected at most 252")


def test_edits_that_overflow(client: Client) -> None:
    """1e6 to the 12th is infinite in float32, and 0 times that is no number."""
    edits = [{"gate": "forget", "set": 1e6}, {"gate": "cell", "scale": 0, "steps": [12, None]}]
    for path in ("/trace", "/edit"):
        reply = client.post(path, {"text": "the " * 20, "edits": edits})
        line = "edits: what follows from them goes beyond float32: expected smaller changes"
        assert (reply.status, reply.error) == (422, line)


def test_a_busy_server_says_so(folder: Path) -> None:
    with serving(folder) as client:
        engine = client.server.engine
        engine.limit = 2
        reply = client.post("/v1/completions", {"prompt": "the", "n": 3})
        assert (reply.status, reply.error) == (429, "the server: is busy; ask again in a second")
        assert reply.headers["retry-after"] == "1"
        assert engine.load == 0
        assert client.post("/v1/completions", {"prompt": "the", "n": 2}).status == 200


def test_a_stream_that_cannot_begin_is_refused(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    async def refused(self: Writer) -> None:
        raise BusyError

    monkeypatch.setattr(Writer, "begin", refused)
    for path, body in (
        ("/generate", {"text": "the"}),
        ("/v1/completions", {"prompt": "the", "stream": True}),
    ):
        reply = client.post(path, body)
        assert (reply.status, reply.error) == (429, "the server: is busy; ask again in a second")
        while client.server.engine.load:
            time.sleep(0.001)


def test_a_defect_shows_nothing_of_itself(
    client: Client, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: Any) -> None:
        raise RuntimeError("secret")

    monkeypatch.setattr(service.Service, "_best", fail)
    reply = client.post("/edit", {"text": "the"})
    assert (reply.status, reply.error) == (500, "the server: failed; its log tells more")
    assert "secret" in caplog.text


def test_metrics(folder: Path) -> None:
    with serving(folder) as client:
        for body in ({"text": "the gate"}, {"text": "the gate"}, {}):
            client.post("/predict", body)
        client.get("/nothing/1")
        lines = client.get("/metrics").body.decode().splitlines()
    assert 'glassgate_requests_total{path="/predict",status="200"} 2' in lines
    assert 'glassgate_requests_total{path="/predict",status="422"} 1' in lines
    assert 'glassgate_requests_total{path="other",status="404"} 1' in lines
    assert 'glassgate_request_seconds_count{path="/predict"} 2' in lines
    assert 'glassgate_request_seconds_bucket{path="/predict",le="+Inf"} 2' in lines
    assert "glassgate_words_total 6" in lines  # <eos> and two words, twice
    assert "glassgate_in_flight 0" in lines
