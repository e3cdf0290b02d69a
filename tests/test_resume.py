"""A training that is killed at any moment and resumed ends with the bits of one that was not."""

import gzip
import json
import os
import random
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import pytest
from safetensors.numpy import load_file, save_file

from program import Ended, Program

TRAININGS: dict[str, list[object]] = {
    "lstm": [],
    "two layers and dropout": ["--layers", 2, "--dropout", 0.4, "--hidden", 24],
    "gru before": ["--cell", "gru", "--dropout", 0.3, "--batch", 5, "--unroll", 7, "--no-bias"],
    "bf16": ["--cell", "gru", "--precision", "bf16", "--dropout", 0.2],
    "gru after": ["--cell", "gru", "--reset", "after", "--untied", "--layers", 2, "--dropout", 0.1],
}
KILLS = 4  # of each training
OFTEN = ("--save-every", 0.02)  # a resumed training is told anew
UNTIMED = ("seconds", "words_per_second")


def options(name: str) -> list[object]:
    return [
        *("--hidden", 12, "--embedding", 8, "--epochs", 24, "--batch", 4, "--unroll", 10),
        *("--threads", 1, "--learning-rate", 0.02, *OFTEN, *TRAININGS[name]),
    ]


def rows(folder: Path) -> list[dict[str, Any]]:
    table = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in row.items() if name not in UNTIMED} for row in table]


def same(found: Path, expected: Path) -> None:
    """Compare all that a training leaves, except for times and the card's own note of them."""
    assert {path.name for path in found.iterdir()} == {path.name for path in expected.iterdir()}
    for name in ("model.safetensors", "config.json", "tokenizer.json"):
        assert (found / name).read_bytes() == (expected / name).read_bytes(), name
    assert rows(found) == rows(expected)
    cards = [(folder / "README.md").read_text().splitlines() for folder in (found, expected)]
    assert [line for line in cards[0] if not line.startswith("| budget")] == [
        line for line in cards[1] if not line.startswith("| budget")
    ]


@pytest.fixture(scope="module")
def whole(
    program: Program, text: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, tuple[Path, float]]:
    """Train each without an interruption; return its folder and how long the process ran."""
    folder = tmp_path_factory.mktemp("whole")
    trainings = {}
    for number, name in enumerate(TRAININGS):
        started = time.monotonic()
        # Saved by the minute, that is never: how often a training saves must not matter either.
        words = [*options(name), "--save-every", 60]
        ended = program.run("train", text, "--out", folder / str(number), *words)
        assert ended.code == 0, ended.err
        trainings[name] = folder / str(number), time.monotonic() - started
    return trainings


def wait_for(program: Program, path: Path, since: int = 0) -> None:
    """Wait until a file is there that was written after a time, in ns; fail where it never comes."""
    until = time.monotonic() + 60
    while not path.exists() or path.stat().st_mtime_ns <= since:
        assert time.monotonic() < until, program.shown()
        time.sleep(0.001)


def saved(out: Path) -> int:
    """Return when the last checkpoint was written, in ns; 0 before the first."""
    checkpoint = out / "training" / "checkpoint.safetensors"
    return checkpoint.stat().st_mtime_ns if checkpoint.exists() else 0


def wait_for_progress(out: Path, since: int) -> None:
    """Wait until a training has saved anew, or is finished: how fast the machine is must not matter."""
    until = time.monotonic() + 60
    while (out / "training").exists() and saved(out) <= since:
        assert time.monotonic() < until
        time.sleep(0.001)


@pytest.mark.parametrize("name", TRAININGS)
def test_killed_at_random_moments_it_ends_with_the_same_bits(
    program: Program, text: Path, tmp_path: Path, whole: dict[str, tuple[Path, float]], name: str
) -> None:
    expected, _ = whole[name]
    moments = random.Random(name)
    out, kills = tmp_path / "m", 0
    for attempt in range(KILLS):
        since = saved(out)
        command = ["train", "--resume", "--out", out, *OFTEN]
        child = program.start(*(["train", text, "--out", out, *options(name)] if attempt == 0 else command))
        if attempt == 0:  # before there are tokens a resumed training needs its text: another test
            wait_for(program, out / "training" / "options.json")
        wait_for_progress(out, since)
        time.sleep(moments.uniform(0, 0.1))
        os.kill(child, signal.SIGKILL)
        ended = program.wait()
        if ended.code == 0:
            break  # it was faster than the kill
        assert ended.code == -signal.SIGKILL
        kills += 1
    assert kills > 1
    goes_on = saved(out) > 0
    ended = program.run("train", "--resume", "--out", out)
    assert ended.code == 0, ended.err
    assert ("going on at step " in ended.err) == goes_on  # to begin anew would give the same bits
    same(out, expected)


def test_killed_between_any_two_files_it_ends_with_the_same_bits(
    program: Program, text: Path, tmp_path: Path, whole: dict[str, tuple[Path, float]]
) -> None:
    """Killed as soon as each file of the folder appears, one after the other: the edges of a training."""
    expected, _ = whole["lstm"]
    out = tmp_path / "m"
    appearing = [
        *("training/options.json", "config.json", "metrics.jsonl", "training/checkpoint.safetensors"),
        *("model.safetensors", "README.md", "loss.png"),
    ]
    for number, name in enumerate(appearing):
        command = ["train", "--resume", "--out", out, *OFTEN]
        child = program.start(*(["train", text, "--out", out, *options("lstm")] if number == 0 else command))
        wait_for(program, out / name)
        os.kill(child, signal.SIGKILL)
        assert program.wait().code == -signal.SIGKILL, name
    ended = program.run("train", "--resume", "--out", out)
    assert ended.code == 0, ended.err
    same(out, expected)


def test_interrupted_it_saves_says_how_to_go_on_and_ends_with_the_same_bits(
    program: Program, text: Path, tmp_path: Path, whole: dict[str, tuple[Path, float]]
) -> None:
    expected, _ = whole["two layers and dropout"]
    out = tmp_path / "m"
    child = program.start("train", text, "--out", out, *options("two layers and dropout"))
    checkpoint, since = out / "training" / "checkpoint.safetensors", 0
    for number in (signal.SIGINT, signal.SIGTERM):
        wait_for(program, checkpoint, since)
        os.kill(child, number)
        ended = program.wait()
        assert ended.code == 130, ended.err
        told = ended.err.splitlines()[-2:]
        assert told[0].startswith("interrupted at step ")
        assert told[1] == f"  glassgate train --resume --out {out}"
        assert "Traceback" not in ended.err
        for file in ("model.safetensors", "README.md", "loss.png", "training/checkpoint.safetensors"):
            assert (out / file).exists(), file
        # What was saved already predicts.
        assert program.run("predict", out, "w1 w4").code == 0
        since = checkpoint.stat().st_mtime_ns
        child = program.start("train", "--resume", "--out", out, *OFTEN)
    ended = program.wait()
    assert ended.code == 0, ended.err
    step = int(told[0].split()[3].rstrip(";").replace(",", ""))
    assert f"going on at step {step:,}; " in ended.err
    same(out, expected)


def test_interrupted_before_the_first_step_it_goes_on_too(
    program: Program, text: Path, tmp_path: Path, whole: dict[str, tuple[Path, float]]
) -> None:
    """At the moment of the first checkpoint of a training that saves after every step, or before."""
    out = tmp_path / "m"
    child = program.start("train", text, "--out", out, *options("lstm"))
    wait_for(program, out / "config.json")
    os.kill(child, signal.SIGINT)
    assert program.wait().code == 130
    ended = program.run("train", "--resume", "--out", out, text)  # the same text may be named
    assert ended.code == 0, ended.err
    same(out, whole["lstm"][0])


def test_killed_while_it_reads_the_text_it_starts_anew(
    program: Program, text: Path, tmp_path: Path, whole: dict[str, tuple[Path, float]]
) -> None:
    """Until options.json is there nothing is ready; a pipe as text holds the training at that place."""
    out, pipe, packed = tmp_path / "m", tmp_path / "pipe", tmp_path / "text.txt.gz"
    os.mkfifo(pipe)
    packed.write_bytes(gzip.compress(text.read_bytes()))
    child = program.start("train", packed, "--valid", pipe, "--out", out, *options("lstm"))
    wait_for(program, out / "training" / "train-0.text")
    os.kill(child, signal.SIGKILL)
    assert program.wait().code == -signal.SIGKILL
    assert not (out / "training" / "options.json").exists()
    refused = program.run("train", "--resume", "--out", out)
    assert refused.error == f"{out}: holds no training to resume, and no text was given to start one"
    refused = program.run("train", text, "--out", out, *options("lstm"))
    assert refused.error == (
        f"{out}: is not empty: give another folder, or --resume to go on with a training"
    )
    ended = program.run("train", "--resume", text, "--out", out, *options("lstm"))
    assert ended.code == 0, ended.err
    same(out, whole["lstm"][0])


@pytest.fixture(scope="module")
def interrupted(program: Program, text: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Ended]:
    out = tmp_path_factory.mktemp("interrupted") / "m"
    child = program.start("train", text, "--out", out, *options("lstm"))
    wait_for(program, out / "training" / "checkpoint.safetensors")
    os.kill(child, signal.SIGKILL)
    return out, program.wait()


@pytest.mark.parametrize(
    ("option", "message"),
    [
        (["--hidden", 13], "--hidden: a resumed training keeps its options: expected 12, got 13"),
        (["--learning-rate", 0.01], "--learning-rate: a resumed training keeps its options: expected 0.02"),
        (["--untied"], "--tied: a resumed training keeps its options: expected True, got False"),
        (["--seed", 2], "--seed: a resumed training keeps its options: expected 1, got 2"),
        (["--epochs", 10], "--epochs: a resumed training keeps its options: expected 24, got 10"),
        (["--minutes", 1], "--minutes: a resumed training keeps its options: expected None, got 1.0"),
        (["--hidden", -3], "--hidden: must be at least 1, got -3"),
    ],
)
def test_a_changed_option_is_one_line_and_changes_nothing(
    program: Program, interrupted: tuple[Path, Ended], option: list[object], message: str
) -> None:
    out, _ = interrupted
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    assert program.run("train", "--resume", "--out", out, *option).error.startswith(message)
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before


def test_another_text_is_one_line(
    program: Program, interrupted: tuple[Path, Ended], tmp_path: Path, text: Path
) -> None:
    out, _ = interrupted
    other = tmp_path / "other.txt"
    other.write_text("w1 w4\n")
    refused = program.run("train", "--resume", other, "--out", out)
    assert refused.error == f"{out}: a resumed training keeps its texts: expected {text}"


def test_a_damaged_training_is_one_line(
    program: Program, interrupted: tuple[Path, Ended], tmp_path: Path
) -> None:
    out, _ = interrupted
    files = {path.relative_to(out): path.read_bytes() for path in out.rglob("*") if path.is_file()}

    def damaged(name: str, content: bytes) -> str:
        folder = tmp_path / name.replace("/", "-") / str(len(content))
        for path, kept in files.items():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_bytes(content if str(path) == name else kept)
        message = program.run("train", "--resume", "--out", folder).error
        assert message.startswith(f"{folder / name}: "), message
        for path, kept in files.items():  # what is there stays, for whoever may mend it
            if path.parts[0] == "training":
                assert (folder / path).read_bytes() == (content if str(path) == name else kept)
        return message

    checkpoint = files[Path("training/checkpoint.safetensors")]
    for content in (b"", checkpoint[:-4], b"\x00" * 100, checkpoint[:100]):
        assert "damaged" in damaged("training/checkpoint.safetensors", content)
    other = tmp_path / "other.safetensors"
    arrays = load_file(out / "training/checkpoint.safetensors")
    for missing in ("model.rnn.weight_hh_l0", "state.1"):
        save_file({name: a for name, a in arrays.items() if name != missing}, other, {"progress": "{}"})
        assert "is damaged or of another training" in damaged(
            "training/checkpoint.safetensors", other.read_bytes()
        )
    save_file(arrays, other)
    assert "is damaged or of another training" in damaged(
        "training/checkpoint.safetensors", other.read_bytes()
    )
    for content in (b"", b"{}", b"[1]", b'{"options": {"hidden": "x"}, "texts": []}', b"\xff"):
        assert "is damaged" in damaged("training/options.json", content)


def test_rows_that_were_lost_are_no_obstacle(
    program: Program, interrupted: tuple[Path, Ended], tmp_path: Path, whole: dict[str, Any]
) -> None:
    """Without metrics.jsonl the training goes on; its course before is unknown, its end is the same."""
    out, folder = interrupted[0], tmp_path / "m"
    for path in out.rglob("*"):
        if path.is_file() and path.name != "metrics.jsonl":
            (folder / path.relative_to(out)).parent.mkdir(parents=True, exist_ok=True)
            (folder / path.relative_to(out)).write_bytes(path.read_bytes())
    ended = program.run("train", "--resume", "--out", folder)
    assert ended.code == 0, ended.err
    expected = whole["lstm"][0]
    assert (folder / "model.safetensors").read_bytes() == (expected / "model.safetensors").read_bytes()
    assert rows(folder) == rows(expected)[-len(rows(folder)) :]


def test_what_a_kill_left_half_written_goes_when_the_training_ends(
    program: Program, interrupted: tuple[Path, Ended], tmp_path: Path, whole: dict[str, Any]
) -> None:
    folder = tmp_path / "m"
    shutil.copytree(interrupted[0], folder)
    for name in ("model.safetensors", "README.md", "loss.png", "config.json", "tokenizer.json"):
        (folder / f".{name}.0123456789abcdef.tmp").write_bytes(b"half")
    (folder / ".tmpG3YDK2").write_bytes(b"half")  # safetensors' own
    (folder / ".notes.tmp").write_text("mine")
    ended = program.run("train", "--resume", "--out", folder)
    assert ended.code == 0, ended.err
    assert (folder / ".notes.tmp").read_text() == "mine"
    (folder / ".notes.tmp").unlink()
    same(folder, whole["lstm"][0])


def test_a_finished_training_stays_as_it_is(program: Program, whole: dict[str, tuple[Path, float]]) -> None:
    out, _ = whole["gru before"]
    before = {path: path.read_bytes() for path in out.iterdir()}
    ended = program.run("train", "--resume", "--out", out)
    assert (ended.code, ended.out) == (0, "")
    assert ended.err.splitlines()[0] == f"{out}: the training is finished, there is nothing to resume"
    assert {path: path.read_bytes() for path in out.iterdir()} == before


def test_a_finished_training_keeps_its_options(
    program: Program, text: Path, whole: dict[str, tuple[Path, float]]
) -> None:
    """The same command may be given again; of an option that the folder does not tell a line says so."""
    out, _ = whole["gru before"]
    finished = f"{out}: the training is finished, there is nothing to resume"
    refused = program.run("train", "--resume", "--out", out, "--hidden", 99, "--epochs", 7)
    assert refused.error == "--hidden: a resumed training keeps its options: expected 12, got 99"
    assert program.run("train", "--resume", "--out", out, "--bias").code == 2
    same = ["--hidden", 12, "--cell", "gru", "--output", "auto"]
    assert program.run("train", text, "--resume", "--out", out, *same).err.splitlines()[0] == finished
    ended = program.run("train", "--resume", "--out", out, *same, "--epochs", 7, "--learning-rate", 1)
    assert ended.code == 0
    assert ended.err.splitlines()[0] == f"{finished}; without effect: --epochs, --learning-rate"


def test_there_is_nothing_to_resume(program: Program, tmp_path: Path, text: Path) -> None:
    out = tmp_path / "m"
    refused = program.run("train", "--resume", "--out", out)
    assert refused.error == f"{out}: holds no training to resume, and no text was given to start one"
    assert not out.exists()
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "thesis.txt").write_text("mine")
    refused = program.run("train", "--resume", text, "--out", tmp_path / "foreign")
    assert refused.error.startswith(f"{tmp_path / 'foreign'}: is not empty")
    assert [path.name for path in (tmp_path / "foreign").iterdir()] == ["thesis.txt"]
