"""Streaming one word at a time: ours beside the same model in torch and in ONNX Runtime.

Each program runs in a process of its own, bound to one core, and reads the same words of a text. A step is:
read a word, give the five most probable next ones. First all must find the same five; then each step is timed
by itself, and the median and the 99th percentile of the steps are told. Beside that: 64 sessions stepped
together, on the same core and on two, the time from the start of ``glassgate predict`` to its end, and the
memory it takes.

Where the folder was written by ``glassgate compress``, the others run on what its weights say in float32: the
exported graph holds them unpacked, and so does the torch model. All must find the same words as well.

    python benchmarks/runtime.py MODEL_FOLDER TEXT [--steps 1000] [--core 0] [--json]

The model should be a trained one and the text like what it was trained on: under an adaptive output it
depends on the text how many clusters have to be computed.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

K, TOGETHER, WARM, STARTS = 5, 64, 50, 7
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")

Best = list[tuple[int, float]]
"""Word numbers and probabilities, the best first."""
Step = Callable[[int], Best]
Together = Callable[[list[int]], dict[str, float]]


def ours(folder: Path) -> tuple[Step, Together | None]:
    """Step through a session of the runtime."""
    import glassgate

    model = glassgate.load(folder)
    session, number = model.session(), {word: n for n, word in enumerate(model.vocabulary.words)}
    words = model.vocabulary.words

    def step(word: int) -> Best:
        session.feed(words[word])
        return [(number[found], y) for found, y in session.predict(K)]

    def many(text: list[int]) -> dict[str, float]:
        found = {"64 together, words/s": together(model, text)}
        if (os.cpu_count() or 1) > 1:
            os.sched_setaffinity(0, range(2))
            found["the same, two cores"] = together(glassgate.load(folder, threads=2), text)
        return found

    return step, many


def together(model: Any, text: list[int]) -> float:
    """Return words a second of 64 sessions that step together, each at its own place of the text."""
    spelling = [model.vocabulary.words[word] for word in text]
    sessions = [model.session() for _ in range(TOGETHER)]
    times = []
    for turn in range(60):
        words = [spelling[(place * 17 + turn) % len(spelling)] for place in range(TOGETHER)]
        started = time.perf_counter()
        model.feed_together(sessions, words)
        model.predict_together(sessions, K)
        times.append(time.perf_counter() - started)
    return TOGETHER / statistics.mean(times[20:])  # before that sketches are still made


def in_torch(folder: Path) -> tuple[Step, Together | None]:
    """Step the torch model, as its layers are meant to be used."""
    import torch

    from glassgate.folder.model import WEIGHTS, read_folder
    from glassgate.folder.weights import load_weights
    from glassgate.language.model import NextWordModel

    torch.set_num_threads(1)
    config, vocabulary = read_folder(folder)
    model = NextWordModel(config).eval()
    model.load_arrays(load_weights(folder / WEIGHTS, config.tensors()))
    state = model.initial_state(1)
    unk = vocabulary.unk

    def step(word: int) -> Best:
        nonlocal state
        with torch.inference_mode():
            features, state = model(torch.tensor([[word]]), state)
            logs = model.output.log_probabilities(features[0, 0])
            if unk is not None:
                logs[unk] = -torch.inf
            values, numbers = logs.topk(K)
            return list(zip(numbers.tolist(), values.exp().tolist(), strict=True))

    if vocabulary.eos is not None:
        step(vocabulary.eos)
    return step, None


def in_onnx(folder: Path) -> tuple[Step, Together | None]:
    """Step the exported graph in ONNX Runtime."""
    from importlib import import_module

    from glassgate.exchange.to_onnx import export_onnx
    from glassgate.folder.model import read_folder

    runtime = import_module("onnxruntime")
    config, vocabulary = read_folder(folder)
    options = runtime.SessionOptions()
    options.intra_op_num_threads = 1
    with tempfile.TemporaryDirectory() as name:
        export_onnx(folder, Path(name) / "model.onnx")
        session = runtime.InferenceSession(
            str(Path(name) / "model.onnx"), options, providers=["CPUExecutionProvider"]
        )
    names = ["h", "c"] if config.cell == "lstm" else ["h"]
    state = {part: np.zeros((config.layers, 1, config.hidden), np.float32) for part in names}
    unk = vocabulary.unk

    def step(word: int) -> Best:
        nonlocal state
        logs, *after = session.run(None, {"words": np.array([[word]]), **state})
        state = dict(zip(names, after, strict=True))
        row = logs[0, 0]
        if unk is not None:
            row[unk] = -np.inf
        best = np.argpartition(row, -K)[-K:]
        best = best[np.argsort(-row[best])]
        return list(zip(best.tolist(), np.exp(row[best]).tolist(), strict=True))

    if vocabulary.eos is not None:
        step(vocabulary.eos)
    return step, None


PROGRAMS = {"glassgate": ours, "torch": in_torch, "ONNX Runtime": in_onnx}


def memory() -> dict[str, int]:
    """Return the megabytes that this process holds, and those of them that are its own."""
    lines = Path("/proc/self/status").read_text().splitlines()
    found = {line.split(":")[0]: int(line.split()[1]) // 1024 for line in lines if line.startswith("Rss")}
    return {"resident": sum(found.values()), "own": found["RssAnon"]}


def measure(program: str, folder: Path, text: list[int], core: int) -> dict[str, Any]:
    """Step through a text in this process, which has one core."""
    os.sched_setaffinity(0, {core})
    step, many = PROGRAMS[program](folder)
    found, times = [], []
    for word in text:
        started = time.perf_counter()
        found.append(step(word))
        times.append(1e3 * (time.perf_counter() - started))
    times = sorted(times[WARM:])
    result: dict[str, Any] = {
        "p50 ms": statistics.median(times),
        "p99 ms": times[int(0.99 * len(times))],
        "steps/s": 1e3 * len(times) / sum(times),
        "resident MB": memory()["resident"],
        "own MB": memory()["own"],
        "found": found[:WARM],
    }
    if many is not None:
        result |= many(text)
    return result


def in_a_process(program: str, arguments: argparse.Namespace, text: list[int]) -> dict[str, Any]:
    words = [
        sys.executable,
        __file__,
        str(arguments.folder),
        "--program",
        program,
        "--core",
        str(arguments.core),
    ]
    done = subprocess.run(
        words, input=json.dumps(text), capture_output=True, text=True, env={**os.environ, **ONE_THREAD}
    )
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"ended with code {done.returncode}"]
        return {"failed": lines[-1]}
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def cold_start(folder: Path, prompt: str) -> float:
    """Return the median of some starts of ``glassgate predict``, to their ends, in seconds."""
    words = [sys.executable, "-m", "glassgate", "predict", str(folder), prompt, "--unknown"]
    times = []
    for _ in range(STARTS):
        started = time.perf_counter()
        subprocess.run(words, check=True, capture_output=True)
        times.append(time.perf_counter() - started)
    return statistics.median(times)


def check(results: dict[str, dict[str, Any]]) -> None:
    """End with an error where a program finds other words than ours, or other probabilities."""
    for name, result in results.items():
        for step, (own, other) in enumerate(zip(results["glassgate"]["found"], result["found"], strict=True)):
            y, other_y = (np.array([p for _, p in best]) for best in (own, other))
            if not np.allclose(y, other_y, rtol=1e-4) or own[0][0] != other[0][0]:
                sys.exit(f"{name} differs from glassgate at step {step}: {other} instead of {own}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("folder", type=Path, metavar="MODEL_FOLDER")
    parser.add_argument("text", type=Path, nargs="?", metavar="TEXT")
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--core", type=int, default=0)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--program", choices=PROGRAMS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.program:
        print(json.dumps(measure(arguments.program, arguments.folder, json.load(sys.stdin), arguments.core)))
        return
    if arguments.text is None:
        parser.error("TEXT is missing")

    from glassgate.folder.model import WEIGHTS, read_folder

    _, vocabulary = read_folder(arguments.folder)
    words = vocabulary.cut(arguments.text.read_text(encoding="utf-8")[: 20 * arguments.steps])
    numbers = {word: number for number, word in enumerate(vocabulary.words)}
    text = [numbers.get(word, vocabulary.unk) for word in words][: arguments.steps]
    if vocabulary.unk is None and None in text:
        parser.error("TEXT holds words that the model does not know")
    results = {name: in_a_process(name, arguments, text) for name in PROGRAMS}  # type: ignore[arg-type]
    failed = {name: result.pop("failed") for name, result in list(results.items()) if "failed" in result}
    whole = {name: result for name, result in results.items() if name not in failed}
    check(whole)
    for result in whole.values():
        del result["found"]
    start = cold_start(arguments.folder, " ".join(words[:5]))
    size = (arguments.folder / WEIGHTS).stat().st_size / 2**20
    if arguments.json:
        figures = {"cold start s": start, "weights MB": size, **whole, "failed": failed}
        print(json.dumps(figures))
        return
    columns = list(next(iter(whole.values())))
    print(f"{'':14}" + "".join(f"{column:>22}" for column in columns))
    for name, result in whole.items():
        cells = (f"{result[column]:,.3f}" if column in result else "" for column in columns)
        print(f"{name:<14}" + "".join(f"{cell:>22}" for cell in cells))
    for name, reason in failed.items():
        print(f"{name:<14}not measured: {reason}")
    print(f"glassgate predict, from start to end: {start:.2f} s; weights: {size:.1f} MB")


if __name__ == "__main__":
    main()
