"""A disk that is full: one line, nothing half-written, and what was saved before stays."""

import errno
import os
from pathlib import Path

import pytest
from rich.console import Console

from glassgate import GlassgateError
from glassgate.language.options import TrainOptions
from glassgate.language.training import train
from program import Program

TINY = ["--hidden", 8, "--embedding", 8, "--epochs", 2, "--batch", 4, "--unroll", 10, "--threads", 1]


@pytest.mark.parametrize(
    ("limit", "file"),
    [
        (600, "training/train.tokens"),
        (1_300, "training/train.tokens"),
        (2_050, "metrics.jsonl"),
        (3_000, "metrics.jsonl"),
    ],
)
def test_a_full_disk_is_one_line_and_leaves_nothing(
    program: Program, text: Path, tmp_path: Path, limit: int, file: str
) -> None:
    """No file may grow beyond the limit: tokens (2 bytes for each of 1,019), then rows do not fit."""
    refused = program.run("train", text, "--out", tmp_path / "m", *TINY, largest_file=limit)
    assert refused.error == f"{tmp_path / 'm' / file}: cannot be written: File too large"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "file", ["tokenizer.json", "config.json", "training/options.json", "model.safetensors"]
)
def test_a_full_disk_at_any_file_leaves_nothing(
    text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file: str
) -> None:
    """The system call that renames a file to its place fails, for each of them."""
    out = tmp_path / "m"
    place = Path.replace

    def full(self: Path, target: Path) -> Path:
        if Path(target) == out / file:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return place(self, target)

    monkeypatch.setattr(Path, "replace", full)
    options = TrainOptions(hidden=8, embedding=8, epochs=2, batch=4, threads=1)
    with pytest.raises(GlassgateError) as raised:
        train([text], out, options, console=Console(quiet=True))
    assert str(raised.value) == f"{out / file}: cannot be written: No space left on device"
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_fills_up_while_training_keeps_what_was_saved(
    program: Program, text: Path, tmp_path: Path
) -> None:
    """Weights and rows fit, a checkpoint does not; with room again the training ends with the same bits."""
    sizes = [*TINY, "--epochs", 6, "--hidden", 48, "--embedding", 32]
    assert program.run("train", text, "--out", tmp_path / "whole", *sizes).code == 0
    files = {path.name: path.stat().st_size for path in (tmp_path / "whole").iterdir()}
    limit = 2 * files["model.safetensors"]  # a checkpoint holds them three times
    assert limit > max(files["metrics.jsonl"], files["tokenizer.json"])
    out = tmp_path / "m"
    refused = program.run("train", text, "--out", out, *sizes, largest_file=limit)
    checkpoint = out / "training" / "checkpoint.safetensors"
    assert refused.error.startswith(f"{checkpoint}: cannot be written: ")
    assert "File too large" in refused.error
    assert program.run("predict", out, "w1").code == 0
    assert not list(out.rglob("*.tmp"))
    ended = program.run("train", "--resume", "--out", out)
    assert ended.code == 0, ended.err
    assert (out / "model.safetensors").read_bytes() == (tmp_path / "whole/model.safetensors").read_bytes()
