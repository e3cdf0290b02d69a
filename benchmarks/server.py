"""The server under load: beside FastAPI and torch, at ten times its capacity, with requests of every kind.

    python benchmarks/server.py [DIR] [--full] [--only overload] [--seconds 60]

DIR is a model folder with an LSTM and a full output, by default the notes' exercise. Short by default;
``--full`` takes the times and numbers by which the server is judged, in about six minutes; ``--only overload
--seconds 60`` takes the overload alone, in under four. Servers run in processes of their own, the load comes
from this one: on two cores each has one. All times are the client's, from when a request was sent.
"""

import argparse
import asyncio
import json
import multiprocessing
import os
import platform
import random
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median
from time import process_time
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

import glassgate
from glassgate.folder.model import WEIGHTS, read_folder
from http_load import Load, closed, opened

CONNECTIONS = (1, 8, 32)
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

    server.startup = started  # type: ignore[method-assign, unused-ignore]
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


async def every_kind(port: int, count: int) -> tuple[Counter[int], int]:
    """Return how often each status came, and how many connections broke."""
    statuses: Counter[int] = Counter()
    generator, left, dropped = random.Random(1), iter(range(count)), 0

    async def one() -> None:
        nonlocal dropped
        client = Client()
        for _ in left:
            try:
                status, _ = await asyncio.wait_for(client.ask(port, drawn(generator)), 60)
                statuses[status] += 1
            except OSError:
                dropped += 1
                client = Client()

    await asyncio.gather(*(one() for _ in range(16)))
    return statuses, dropped


def memory(pid: int) -> float:
    """Resident memory in MB."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    return 0.0


def cpu_seconds(pid: int) -> float:
    """Processor time that a process has taken."""
    times = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(times[11]) + int(times[12])) / os.sysconf("SC_CLK_TCK")


def judge(name: str, bound: str, came: str, met: bool) -> None:
    print(f"  {'met    ' if met else 'NOT MET'}  {name}: {came} (bound: {bound})", flush=True)


def compare(folder: Path, seconds: float, rounds: int) -> None:
    """Ask both in turns; the one that is not asked is idle."""
    request = post("/predict", {"text": TEXT, "k": 5})
    ratios = {}
    with process(run_ours, folder) as ours, process(run_peer, folder) as peer:
        for connections in CONNECTIONS:
            rates: dict[str, list[float]] = {"glassgate": [], "FastAPI + torch": []}
            for _ in range(rounds):
                for name, (port, pid) in zip(rates, (ours, peer), strict=True):
                    before = cpu_seconds(pid)
                    load = closed(port, request, connections, seconds)
                    assert set(load.statuses) == {200}, load.statuses
                    rates[name].append(load.rate)
                    each = 1e6 * (cpu_seconds(pid) - before) / load.statuses[200]
                    print(
                        f"  {connections:3} connections  {name:<16}{load.rate:7,.0f} requests/s"
                        f"   p50 {load.quantile(200, 0.5):7.2f} ms   p99 {load.quantile(200, 0.99):7.2f} ms"
                        f"   {each:5.0f} us of the server's processor each",
                        flush=True,
                    )
            ratios[connections] = [one / other for one, other in zip(*rates.values(), strict=True)]
    for connections, found in ratios.items():
        listed = f"{median(found):.2f} times the peer's ({', '.join(f'{ratio:.2f}' for ratio in found)})"
        if connections > 1:
            judge(f"requests/s at {connections} connections", "3 times", listed, median(found) >= 3)
        else:
            print(f"          requests/s at 1 connection: {listed}; most of it is waiting for one another")


def watched(port: int, pid: int, request: bytes, rate: float, seconds: float) -> tuple[Load, list[float]]:
    """Offer a load, and note the server's memory every second."""
    held: list[float] = []
    load = opened(port, request, rate, seconds, each_second=lambda: held.append(memory(pid)))
    return load, held


def overload(folder: Path, seconds: float) -> None:
    """Find the capacity, then offer ten times as much, at a fixed rate, whatever becomes of it."""
    for path, body in (
        ("/v1/completions", {"prompt": TEXT, "max_tokens": 100, "seed": 1}),
        ("/generate", {"text": TEXT, "words": 20}),
        ("/predict", {"text": TEXT, "k": 5}),
    ):
        with process(run_ours, folder) as (port, pid):
            request = post(path, body)
            closed(port, request, 1, 0.5)
            alone = closed(port, request, 1, 5.0)  # the 99th percentile of at least a hundred texts
            full = closed(port, request, 32, 3.0)
            before, own = cpu_seconds(pid), process_time()
            load, held = watched(port, pid, request, 10 * full.rate, seconds)
            busy, own = (cpu_seconds(pid) - before) / load.seconds, (process_time() - own) / load.seconds
            print(
                f"  {path}: capacity {full.rate:,.0f} requests/s at 32 connections; offered"
                f" {load.offered / load.seconds:,.0f} for {seconds:.0f} s over 256 connections, of which"
                f" {load.statuses.total() / load.seconds:,.0f} were sent"
            )
            others = load.statuses.total() - load.statuses[200] - load.statuses[429]
            print(
                f"    answered {load.statuses[200]:,}, refused {load.statuses[429]:,}, others {others:,},"
                f" dropped {load.dropped:,}, not sent for want of a free connection {load.unsent:,}"
            )
            print(f"    of a processor the server had {busy:.0%}, this client {own:.0%}")
            for name, one, status in (("alone", alone, 200), ("accepted", load, 200), ("refused", load, 429)):
                listed = "   ".join(
                    f"p{100 * q:g} {one.quantile(status, q):7.2f} ms" for q in (0.5, 0.9, 0.99)
                )
                print(f"    {name:<8} {listed}")
        accepted, unloaded = load.quantile(200, 0.99), alone.quantile(200, 0.99)
        judge(
            f"{path}, accepted p99", f"{2 * unloaded:.1f} ms", f"{accepted:.1f} ms", accepted <= 2 * unloaded
        )
        refused = load.quantile(429, 0.99)
        judge(f"{path}, refused p99", "50 ms", f"{refused:.1f} ms", refused <= 50)
        good = load.rate / full.rate
        judge(
            f"{path}, goodput",
            "70% of the capacity",
            f"{load.rate:,.0f} of {full.rate:,.0f} requests/s, {good:.0%}",
            good >= 0.7,
        )
        half = len(held) // 2
        grown = max(held[half:]) - max(held[:half])
        came = f"at most {max(held[:half]):.1f} MB, then {max(held[half:]):.1f}"
        judge(f"{path}, memory", "1 MB more in the second half", came, grown <= 1.0)
        judge(
            f"{path}, stays up",
            "every request that was sent is answered",
            f"{load.dropped} not",
            not load.dropped and not others,
        )


def kinds(folder: Path, count: int) -> None:
    with process(run_ours, folder) as (port, pid):
        asyncio.run(every_kind(port, 200))
        before = memory(pid)
        counted, dropped = asyncio.run(every_kind(port, count))
        failed = sum(number for status, number in counted.items() if status >= 500)
        statuses = ", ".join(f"{status}: {number:,}" for status, number in sorted(counted.items()))
        print(f"  {statuses}; dropped {dropped}; memory {before:.1f} -> {memory(pid):.1f} MB")
        judge(f"{count:,} requests of every kind", "no 5xx", f"{failed}", not failed and not dropped)


def machine() -> None:
    """Print what was measured on."""
    found = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    processor = found[0].partition(": ")[2] if found else platform.machine()
    cores, loads = len(os.sched_getaffinity(0)), ", ".join(f"{one:.1f}" for one in os.getloadavg())
    print(f"{processor}, {cores} cores; load before (1, 5, 15 minutes): {loads}")
    versions = [f"Python {platform.python_version()}"]
    for name in ("numpy", "httptools", "pydantic", "fastapi", "uvicorn", "torch"):
        with suppress(PackageNotFoundError):
            versions.append(f"{name} {version(name)}")
    print(f"one thread for each server's kernels; {', '.join(versions)}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", nargs="?", type=Path)
    parser.add_argument("--full", action="store_true", help="60 s of overload, 20,000 requests of every kind")
    parser.add_argument("--only", choices=["compare", "overload", "kinds"])
    parser.add_argument("--seconds", type=float, help="of overload for each path (4; with --full 60)")
    given = parser.parse_args()
    folder = given.folder
    if folder is None:
        from glassgate.server.exercise import exercise_folder

        folder = exercise_folder(print)
    try:
        glassgate.load(folder).predict(TEXT)
    except glassgate.GlassgateError as error:
        sys.exit(f"{folder}: a model is needed that reads {TEXT!r}: {error}")
    machine()
    if given.only in (None, "compare"):
        print("Predictions beside FastAPI + torch, in turns")
        if find_spec("fastapi") is None or find_spec("uvicorn") is None:
            print("  skipped: fastapi and uvicorn are not both installed")
        elif (config := read_folder(folder)[0]).cell != "lstm" or config.output != "full":
            print("  skipped: the peer is written for an LSTM with a full output")
        else:
            compare(folder, 3 if given.full else 1, 3 if given.full else 2)
    if given.only in (None, "overload"):
        print("At ten times the capacity")
        overload(folder, given.seconds or (60 if given.full else 4))
    if given.only in (None, "kinds"):
        print("Requests of every kind, right and wrong")
        kinds(folder, 20_000 if given.full else 1_000)


if __name__ == "__main__":
    main()
