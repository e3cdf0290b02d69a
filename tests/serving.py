"""A model folder drawn at random, and a server for it in a thread of this process."""

import http.client
import json
import re
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Event, Thread
from typing import Any, NamedTuple

import numpy as np

from by_hand import drawn_weights
from glassgate.folder.config import ModelConfig
from glassgate.folder.vocabulary import Vocabulary
from glassgate.folder.weights import save_weights
from glassgate.server import Server

WORDS = "the then there gate gates opens open closes a an and door baker bakes loaf of in , . ' \" ("
WAIT = 30  # seconds; nothing here takes as long


class Reply(NamedTuple):
    """What came back."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def error(self) -> str:
        """The one clear line of a refusal."""
        found = self.json["error"]
        assert set(found) == {"message", "type", "param", "code"}
        line: str = found["message"]
        assert "\n" not in line
        assert "Traceback" not in line
        return line


def write_folder(
    folder: Path,
    cell: str = "lstm",
    closed: bool = False,
    words: str = WORDS,
    eos: bool = False,
    **sizes: Any,
) -> Path:
    """Write a model folder: two layers, <unk> and <eos>; or closed, without <unk>, and <eos> if asked for."""
    eos = eos or not closed
    vocabulary = Vocabulary.build([words], tokens="words", closed=closed, eos=eos)
    given: dict[str, Any] = {"embedding": 5, "hidden": 7, "layers": 2, "tied": False, **sizes}
    config = ModelConfig(cell=cell, vocabulary=len(vocabulary), eos="line" if eos else "none", **given)  # type: ignore[arg-type]
    folder.mkdir()
    weights = {name: values.astype(np.float32) for name, values in drawn_weights(config, 5).items()}
    (folder / "config.json").write_text(config.to_json())
    vocabulary.save(folder / "tokenizer.json")
    save_weights(folder / "model.safetensors", weights)
    return folder


class Client:
    """Sends requests to one server, each over a connection of its own."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.host = server.url.removeprefix("http://")

    def send(self, method: str, path: str, body: bytes | None = None, **headers: str) -> Reply:
        """Send a request; a header named with None's name is as given."""
        connection = http.client.HTTPConnection(self.host, timeout=WAIT)
        try:
            named = {name.replace("_", "-"): value for name, value in headers.items()}
            connection.request(method, path, body, named)
            answer = connection.getresponse()
            content = answer.read()
            return Reply(answer.status, {k.lower(): v for k, v in answer.getheaders()}, content)
        finally:
            connection.close()

    def get(self, path: str, **headers: str) -> Reply:
        return self.send("GET", path, **headers)

    def post(self, path: str, body: Any, **headers: str) -> Reply:
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        return self.send("POST", path, content, **{"Content-Type": "application/json", **headers})

    def events(self, path: str, body: Any) -> list[Any]:
        """Return the data of server-sent events; the last must be [DONE]."""
        reply = self.post(path, body)
        assert reply.status == 200, reply.body
        assert reply.headers["content-type"].startswith("text/event-stream")
        data = [part.removeprefix("data: ") for part in reply.body.decode().split("\n\n") if part]
        assert data[-1] == "[DONE]"
        return [json.loads(one) for one in data[:-1]]


POST = b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
WHOLE = POST + b"Content-Length: 15\r\n\r\n" + b'{"text": "the"}'
GET = b"GET /health HTTP/1.1\r\nHost: localhost\r\n"


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


def statuses(received: bytes) -> list[int]:
    return [int(found) for found in re.findall(rb"HTTP/1\.1 (\d+) ", received)]


# 413 is a refusal too: a text may be as long as allowed, and its JSON beyond what a body may have.
CHECKS = {
    "negative_data_rejection": {"expected-statuses": ["400", "404", "413", "415", "422"]},
    "positive_data_acceptance": {"expected-statuses": ["200", "413"]},
}
"""What schemathesis takes for granted and for refused."""


def validate(case: Any) -> str:
    """Send a request that schemathesis made, check its answer, and return its address.

    What edits lead to is not to be seen from their numbers: a state scaled at each step may leave float32.
    """
    response = case.call()
    beyond = response.status_code == 422 and "goes beyond float32" in response.text
    assert not beyond or case.body["edits"]
    if not beyond:
        case.validate_response(response)
    url: str = response.request.url
    return url


@contextmanager
def serving(folder: Path, **options: Any) -> Iterator[Client]:
    """Run a server until the block ends."""
    server = Server(folder, port=0, **options)
    up = Event()
    thread = Thread(target=server.run, args=(lambda _: up.set(),))
    thread.start()
    try:
        assert up.wait(WAIT)
        yield Client(server)
    finally:
        server.stop()
        thread.join(WAIT)
        assert not thread.is_alive()
