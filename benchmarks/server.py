"""The server under load: beside FastAPI and torch, at ten times its capacity, with requests of every kind.

    python benchmarks/server.py [DIR] [--full]

DIR is a model folder with an LSTM and a full output, by default the notes' exercise. Short by default;
``--full`` takes the times and numbers by which the server is judged. Servers run in processes of their own,
the load comes from this one: on two cores each has one.
"""

import argparse
import asyncio
import json
import multiprocessing
import random
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from time import perf_counter
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

CONNECTIONS = 32
TEXT = "warm bread for the"


def run_ours(folder: Path, pipe: Connection) -> None:
    from glassgate.cli.common import use_one_thread

    use_one_thread()
    from glassgate.server import Server

    Server(folder, port=0).run(pipe.send)


def run_peer(folder: Path, pipe: Connection) -> None:
    """Give the same answer from torch.nn behind FastAPI, as one would write it with care."""
    import torch
    import uvicorn
    from fastapi import FastAPI
    from pydantic import BaseModel

    from glassgate.folder.model import WEIGHTS, read_folder
    from glassgate.folder.weights import load_weights

    torch.set_num_threads(1)
    model, vocabulary = read_folder(folder)
    arrays = load_weights(folder / WEIGHTS, model.tensors())
    weights = {name: torch.from_numpy(values) for name, values in arrays.items()}
    rnn = torch.nn.LSTM(model.embedding, model.hidden, model.layers, bias=model.bias).eval()
    rnn.load_state_dict(
        {name.removeprefix("rnn."): w for name, w in weights.items() if name.startswith("rnn.")}
    )
    embedding = weights["embedding.weight"]
    V = weights.get("output.weight", embedding)
    c = weights.get("output.bias", torch.zeros(model.vocabulary))
    P = weights.get("projection.weight")

    class Request(BaseModel):
        text: str
        k: int = 5

    async def predict(request: Request) -> dict[str, Any]:
        with torch.inference_mode():
            (numbers,) = vocabulary.encode([request.text])
            if vocabulary.eos is not None:
                numbers = [vocabulary.eos, *numbers]
            h = rnn(embedding[numbers][:, None])[0][-1, 0]
            h = h if P is None else P @ h
            y, best = torch.softmax(V @ h + c, 0).topk(request.k)
            words = zip(best.tolist(), y.tolist(), strict=True)
            return {"words": [{"word": vocabulary.words[n], "probability": p} for n, p in words]}

    app = FastAPI()
    app.post("/predict")(predict)

    server = uvicorn.Server(
        uvicorn.Config(app, port=0, log_level="error", access_log=False, http="httptools")
    )
    startup = server.startup

    async def started(sockets: Any = None) -> None:
        await startup(sockets)
        pipe.send(f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}")

    server.startup = started  # type: ignore[method-assign]
    server.run()


@contextmanager
def process(run: Callable[[Path, Connection], None], folder: Path) -> Iterator[tuple[int, int]]:
    """Run a server in a process of its own; yield its port and its process."""
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    child = context.Process(target=run, args=(folder, there), daemon=True)
    child.start()
    try:
        url = here.recv()
        yield int(url.rpartition(":")[2]), child.pid or 0
    finally:
        child.terminate()
        child.join()


class Client(asyncio.Protocol):  # asyncio calls its methods
    """One kept connection that asks one thing at a time."""

    def __init__(self) -> None:
        self.received = b""
        self.answer: asyncio.Future[tuple[int, bytes]] | None = None
        self.transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.received += data
        head, found, body = self.received.partition(b"\r\n\r\n")
        if not found:
            return
        length = head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0]
        whole = len(body) >= int(length) if length else body.endswith(b"0\r\n\r\n")
        if whole and self.answer is not None and not self.answer.done():
            self.answer.set_result((int(self.received[9:12]), body))

    def connection_lost(self, error: Exception | None) -> None:
        self.transport = None
        if self.answer is not None and not self.answer.done():
            self.answer.set_exception(ConnectionResetError())

    async def ask(self, port: int, request: bytes) -> tuple[int, bytes]:
        loop = asyncio.get_running_loop()
        if self.transport is None:
            await loop.create_connection(lambda: self, "127.0.0.1", port)
        assert self.transport is not None
        self.received, self.answer = b"", loop.create_future()
        self.transport.write(request)
        status, body = await self.answer
        if (
            b"connection: close" in self.received.partition(b"\r\n\r\n")[0].lower()
            and self.transport is not None
        ):
            self.transport.close()
            self.transport = None
        return status, body


def post(path: str, body: Any) -> bytes:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    return f"{head}Content-Length: {len(content)}\r\n\r\n".encode() + content


@dataclass
class Load:
    """What came of some load."""

    seconds: float = 0.0
    statuses: Counter[int] = field(default_factory=Counter)
    times: dict[int, list[float]] = field(default_factory=dict)  # by status
    dropped: int = 0
    unsent: int = 0

    def add(self, status: int, seconds: float) -> None:
        self.statuses[status] += 1
        self.times.setdefault(status, []).append(seconds)

    @property
    def rate(self) -> float:
        return self.statuses[200] / self.seconds

    def quantile(self, status: int, share: float) -> float:
        """Milliseconds."""
        times = sorted(self.times.get(status, [0.0]))
        return 1e3 * times[min(int(share * len(times)), len(times) - 1)]


async def closed(port: int, request: bytes, connections: int, seconds: float) -> Load:
    """Each connection asks again as soon as it is answered."""
    load, end = Load(), perf_counter() + seconds

    async def one() -> None:
        client = Client()
        while (start := perf_counter()) < end:
            status, _ = await client.ask(port, request)
            load.add(status, perf_counter() - start)

    start = perf_counter()
    await asyncio.gather(*(one() for _ in range(connections)))
    load.seconds = perf_counter() - start
    return load


async def opened(port: int, request: bytes, rate: float, seconds: float, connections: int = 256) -> Load:
    """Send at a rate, whatever becomes of those before; what finds no free connection is unsent."""
    load, idle, tasks = Load(), [Client() for _ in range(connections)], set()

    async def one(client: Client, due: float) -> None:
        try:
            status, _ = await client.ask(port, request)
            load.add(status, perf_counter() - due)
        except OSError:
            load.dropped += 1
        idle.append(client)

    start, sent = perf_counter(), 0
    while (now := perf_counter() - start) < seconds:
        while sent < now * rate:
            sent += 1
            if not idle:
                load.unsent += 1
                continue
            task = asyncio.create_task(one(idle.pop(), perf_counter()))
            tasks.add(task)
            task.add_done_callback(tasks.discard)
        await asyncio.sleep(0.001)
    await asyncio.gather(*tasks)
    load.seconds = perf_counter() - start
    return load


def drawn(generator: random.Random) -> bytes:
    """Draw a request: right ones, wrong ones, and no requests at all."""
    pick, words = generator.choice, ["the", "warm", "bread", "zebra", ",", "\0", "<unk>", "é", "\U0001f600"]

    def text() -> Any:
        return pick([" ".join(generator.choices(words, k=generator.randrange(40))), "a " * 9000, 1, None])

    def number() -> Any:
        return pick([0, 1, 5, 20, -1, 10**9, 10**400, 1.5, 0.5, 1e-300, "5", None, True, []])

    def edit() -> Any:
        gate = pick(["input", "forget", "cell", "hidden", "update", "nothing", 1])
        change = {pick(["set", "scale", "add", "clamp", "units"]): pick([number(), [number(), number()]])}
        where = {pick(["units", "steps", "layer"]): pick([[0, 3], [number()], [None, number()], "l0", "x"])}
        return {"gate": gate, **change, **(where if generator.random() < 0.5 else {})}

    bodies: list[tuple[str, Any]] = [
        ("/predict", {"text": text(), "k": number(), "complete": pick([True, False, 1])}),
        ("/predict", {"text": text()}),
        ("/generate", {"text": text(), "words": number(), "temperature": number(), "top_p": number()}),
        ("/generate", {"text": text(), "top_k": number(), "seed": number()}),
        ("/trace", {"text": text(), "k": number(), "edits": [edit() for _ in range(generator.randrange(4))]}),
        ("/edit", {"text": text(), "edits": [edit()]}),
        ("/v1/completions", {"prompt": pick([text(), [text(), text()], [number()]]), "n": number()}),
        ("/v1/completions", {"prompt": text(), "echo": True, "logprobs": number(), "stop": pick(words)}),
        ("/v1/completions", {"prompt": text(), "stream": True, "max_tokens": number()}),
        (pick(["/predict", "/trace", "/edit"]), generator.randbytes(generator.randrange(200))),
        (pick(["/predict", "/edit"]), b"[" * generator.randrange(1, 70_000)),
        ("/" + generator.randbytes(6).hex(), {}),
    ]
    if generator.random() < 0.05:
        path = pick(["/health", "/model", "/metrics", "/openapi.json", "/"])
        return f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()
    return post(*pick(bodies))


async def every_kind(port: int, count: int) -> Load:
    load, generator = Load(), random.Random(1)
    left = iter(range(count))

    async def one() -> None:
        client = Client()
        for _ in left:
            start = perf_counter()
            try:
                status, _ = await asyncio.wait_for(client.ask(port, drawn(generator)), 60)
                load.add(status, perf_counter() - start)
            except OSError:
                load.dropped += 1
                client = Client()

    await asyncio.gather(*(one() for _ in range(16)))
    return load


def memory(pid: int) -> float:
    """Resident memory in MB."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    return 0.0


def compare(folder: Path, seconds: float, rounds: int) -> None:
    request = post("/predict", {"text": TEXT, "k": 5})
    rates: dict[str, list[float]] = {"glassgate": [], "FastAPI + torch": []}
    with process(run_ours, folder) as (ours, _), process(run_peer, folder) as (peer, _):
        for _ in range(rounds):
            for (name, found), port in zip(rates.items(), (ours, peer), strict=True):
                load = asyncio.run(closed(port, request, CONNECTIONS, seconds))
                assert set(load.statuses) == {200}, load.statuses
                found.append(load.rate)
                print(
                    f"  {name:<16} {load.rate:8,.0f} requests/s   p50 {load.quantile(200, 0.5):6.2f} ms"
                    f"   p99 {load.quantile(200, 0.99):6.2f} ms"
                )
    ratios = [one / other for one, other in zip(*rates.values(), strict=True)]
    print(f"  ratios, round by round: {', '.join(f'{ratio:.2f}' for ratio in ratios)}")


def overload(folder: Path, seconds: float) -> None:
    with process(run_ours, folder) as (port, pid):
        for path, body in (
            ("/predict", {"text": TEXT, "k": 5}),
            ("/v1/completions", {"prompt": TEXT, "max_tokens": 100, "seed": 1}),
        ):
            request = post(path, body)
            alone = asyncio.run(closed(port, request, 1, 2.0))
            full = asyncio.run(closed(port, request, CONNECTIONS, 2.0))
            before = memory(pid)
            load = asyncio.run(opened(port, request, 10 * full.rate, seconds))
            after = memory(pid)
            offered = (sum(load.statuses.values()) + load.unsent + load.dropped) / load.seconds
            print(
                f"  {path}: capacity {full.rate:,.0f} requests/s, offered {offered:,.0f} for {seconds:.0f} s"
            )
            others = sum(number for status, number in load.statuses.items() if status not in (200, 429))
            print(
                f"    answered {load.statuses[200]:,}, refused {load.statuses[429]:,}, others {others:,},"
                f" dropped {load.dropped:,}, not sent for want of one of 256 connections {load.unsent:,}"
            )
            for name, one, status in (("alone", alone, 200), ("accepted", load, 200), ("refused", load, 429)):
                p50, p99 = one.quantile(status, 0.5), one.quantile(status, 0.99)
                print(f"    {name:<8} p50 {p50:7.2f} ms   p99 {p99:7.2f} ms")
            print(f"    memory {before:.1f} -> {after:.1f} MB")


def kinds(folder: Path, count: int) -> None:
    with process(run_ours, folder) as (port, pid):
        asyncio.run(every_kind(port, 200))
        before = memory(pid)
        load = asyncio.run(every_kind(port, count))
        failed = sum(number for status, number in load.statuses.items() if status >= 500)
        statuses = ", ".join(f"{status}: {number:,}" for status, number in sorted(load.statuses.items()))
        print(f"  {count:,} requests: {statuses}; dropped {load.dropped}; 5xx {failed}")
        print(f"  memory {before:.1f} -> {memory(pid):.1f} MB")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", nargs="?", type=Path)
    parser.add_argument("--full", action="store_true", help="60 s of overload, 20,000 requests of every kind")
    parser.add_argument("--only", choices=["compare", "overload", "kinds"])
    given = parser.parse_args()
    folder = given.folder
    if folder is None:
        from glassgate.server.exercise import exercise_folder

        folder = exercise_folder(print)
    if given.only in (None, "compare"):
        print(f"Predictions over {CONNECTIONS} connections, in turns")
        with suppress(ImportError):
            import fastapi  # noqa: F401

            compare(folder, 10 if given.full else 3, 3)
    if given.only in (None, "overload"):
        print("At ten times the capacity")
        overload(folder, 60 if given.full else 5)
    if given.only in (None, "kinds"):
        print("Requests of every kind, right and wrong")
        kinds(folder, 20_000 if given.full else 2_000)


if __name__ == "__main__":
    main()
