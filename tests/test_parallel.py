"""Several processes that train as one: by torchrun on this machine, one of them killed on the way."""

import json
import os
import signal
import subprocess
import sys
import time
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console

from glassgate.folder.model import read_folder
from glassgate.folder.weights import load_weights
from glassgate.language.options import TrainOptions
from glassgate.language.parallel import Ranks
from glassgate.language.training import train
from test_training import FILES, begun

OPTIONS: dict[str, Any] = {
    "hidden": 8,
    "embedding": 6,
    "dropout": 0.0,
    "epochs": 4,
    "batch": 5,  # parts of 2 and 3 streams
    "unroll": 5,
    "learning_rate": 0.01,
    "average": 0.5,
    "threads": 1,
}


def launch(out: Path, *more: object, processes: int = 2, **changed: object) -> subprocess.Popen[bytes]:
    options = [f"--{name.replace('_', '-')}={value}" for name, value in {**OPTIONS, **changed}.items()]
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += ["--nproc-per-node", str(processes), "-m", "glassgate", "train", *map(str, more)]
    command += ["--out", str(out), "--spectral", *options]
    with (out.parent / "log").open("ab") as log:
        return subprocess.Popen(command, stdout=log, stderr=log)


def process_of_rank(parent: int, rank: int) -> int | None:
    """Return the number of torchrun's child that is of this rank, from /proc."""
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            above = int((folder / "stat").read_text().rsplit(")", 1)[1].split()[1])
            if above == parent and f"RANK={rank}".encode() in (folder / "environ").read_bytes().split(b"\0"):
                return int(folder.name)
        except (OSError, IndexError):  # it has just ended
            continue
    return None


def course(out: Path) -> dict[int, float]:
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return {row["step"]: row["loss"] for row in rows if "loss" in row}


def expect_the_same_training(text: Path, alone: Path, together: Path, options: TrainOptions) -> None:
    assert sorted(path.name for path in together.iterdir()) == sorted(path.name for path in alone.iterdir())
    one, two = course(alone), course(together)
    assert list(one) == list(two)
    config, _ = read_folder(alone)
    assert config == read_folder(together)[0]
    assert config.output == options.output
    shapes = config.tensors()
    a, b = (load_weights(folder / "model.safetensors", shapes) for folder in (alone, together))
    start = begun(text, alone.parent / "start", options).model.arrays()
    moved = np.concatenate([(a[name] - start[name]).ravel() for name in shapes])
    apart = np.concatenate([(a[name] - b[name]).ravel() for name in shapes])
    # Sums in another order leave in each gradient an error of a few eps of float32 of a usual one, below
    # 1e-6. AdamW moves by m / sqrt(v), and v remembers a hundred steps: the movement is off by no more than
    # that share, which 164 steps may carry on tenfold. A sum over half of the streams is off by as much as
    # it moves.
    assert np.sqrt(np.mean(apart**2)) < 1e-5 * np.sqrt(np.mean(moved**2))
    for step, loss in one.items():
        assert abs(loss - two[step]) < 1e-5 * loss  # as above


@pytest.mark.parametrize(("output", "resumed"), [("adaptive", 3), ("full", 2)])
def test_processes_train_as_one_and_go_on_after_one_was_killed(
    text: Path, tmp_path: Path, output: Any, resumed: int
) -> None:
    """Two, and after one was killed as many or another number, from a start that the first computes."""
    alone, together = tmp_path / "alone", tmp_path / "together"
    narrow = (5,) if output == "adaptive" else ()
    more = ["--embedding-cutoffs=5"] if narrow else []
    options = TrainOptions(**OPTIONS, spectral=True, output=output, embedding_cutoffs=narrow)
    train([text], alone, options, console=Console(file=StringIO()))
    running = launch(together, text, "--save-every", 0, *more, output=output)
    try:
        # From the first checkpoint on, which comes after one of some 150 steps.
        while not (together / "training" / "checkpoint.safetensors").exists():
            assert running.poll() is None, (tmp_path / "log").read_text()
            time.sleep(0.01)
        killed = process_of_rank(running.pid, 1)
        assert killed is not None
        os.kill(killed, signal.SIGKILL)
        assert running.wait(100) != 0
        assert (together / "training").exists()
        running = launch(together, "--resume", *more, processes=resumed, output=output)
        assert running.wait(100) == 0, (tmp_path / "log").read_text()
    finally:
        running.terminate()
    expect_the_same_training(text, alone, together, options)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="torch finds no two CUDA devices here")
def test_devices_train_as_one(text: Path, tmp_path: Path) -> None:
    """By nccl, a device for each process, as one device alone."""
    alone, together = tmp_path / "alone", tmp_path / "together"
    options = TrainOptions(**OPTIONS, spectral=True, cell="lstm", output="adaptive")
    train([text], alone, options, device="cuda", console=Console(file=StringIO()))
    running = launch(together, text, "--device", "cuda", cell="lstm", output="adaptive")
    assert running.wait(100) == 0, (tmp_path / "log").read_text()
    expect_the_same_training(text, alone, together, options)


def test_time_ends_all_processes_at_one_step(text: Path, tmp_path: Path) -> None:
    """By the clock of the first: were there two, one would wait for a step that the other leaves out."""
    running = launch(tmp_path / "m", text, minutes=0.005, epochs=1_000_000)
    assert running.wait(100) == 0, (tmp_path / "log").read_text()
    assert {path.name for path in (tmp_path / "m").iterdir()} == FILES
    assert max(course(tmp_path / "m")) >= 1


def test_what_the_first_process_refuses_is_told_once(tmp_path: Path) -> None:
    (tmp_path / "empty.txt").touch()
    running = launch(tmp_path / "m", tmp_path / "empty.txt")
    assert running.wait(100) != 0
    told = [line for line in (tmp_path / "log").read_text().splitlines() if "error: " in line]
    assert told == [f"glassgate: error: {tmp_path / 'empty.txt'}: is empty: expected text"]
    assert not (tmp_path / "m").exists()


def test_the_parts_are_all_streams_once() -> None:
    for count in (1, 2, 3, 7):
        for streams in (7, 8, 20):
            parts = [Ranks(rank, count).part(streams) for rank in range(count)]
            assert [n for part in parts for n in range(streams)[part]] == list(range(streams))
            sizes = {part.stop - part.start for part in parts}
            assert max(sizes) - min(sizes) <= 1
