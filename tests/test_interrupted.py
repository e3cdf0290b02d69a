"""Ctrl-C outside the steps of a training, and a second training in one folder: what they are told."""

import os
import signal
import time
from collections.abc import Callable
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from glassgate import GlassgateError
from glassgate.cli import main
from glassgate.language import exercise, training
from glassgate.language.exercise import train_exercise
from glassgate.language.model import NextWordModel
from glassgate.language.options import TrainOptions
from glassgate.language.trainer import Outcome
from glassgate.language.training import train
from program import Program

OPTIONS = TrainOptions(hidden=8, embedding=6, epochs=2, batch=4, unroll=10, threads=1, spectral=True)


def interrupt(*_: Any, **__: Any) -> Any:
    raise KeyboardInterrupt


def weights(out: Path) -> bytes:
    return (out / "model.safetensors").read_bytes()


@pytest.mark.parametrize(
    "place",
    [
        "glassgate.language.trainer.spectral_embedding",  # before the first step
        "glassgate.language.trainer.save_checkpoint",  # as the second Ctrl-C, which stops at once
        "glassgate.language.trainer.draw_loss",  # after the last step
    ],
)
def test_once_the_text_is_read_it_says_how_to_go_on(
    text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    out, shown = tmp_path / "m", StringIO()
    with monkeypatch.context() as patch:
        patch.setattr(place, interrupt)
        outcome = train([text], out, OPTIONS, console=Console(file=shown, width=500))
    assert outcome == Outcome(False, {})
    assert shown.getvalue().endswith(
        f"\ninterrupted; what was saved stays. Go on with:\n  glassgate train --resume --out {out}\n"
    )
    quiet = Console(quiet=True)
    assert train([], out, OPTIONS, resume=True, console=quiet).finished
    train([text], tmp_path / "whole", OPTIONS, console=quiet)
    assert weights(out) == weights(tmp_path / "whole")


def test_while_the_text_is_read_nothing_is_left(program: Program, text: Path, tmp_path: Path) -> None:
    out, pipe = tmp_path / "m", tmp_path / "pipe"
    os.mkfifo(pipe)  # which holds the training at that place
    child = program.start("train", text, "--valid", pipe, "--out", out)
    until = time.monotonic() + 60
    while not (out / "training" / "lock").exists():
        assert time.monotonic() < until, program.shown()
        time.sleep(0.001)
    os.kill(child, signal.SIGINT)
    ended = program.wait()
    assert (ended.code, ended.out) == (130, "")
    assert ended.err.endswith("glassgate: interrupted\n")
    assert "Traceback" not in ended.err
    assert not out.exists()


@pytest.mark.parametrize(
    ("ends", "told"), [(interrupt, "glassgate: interrupted\n"), (lambda *_, **__: Outcome(False, {}), "")]
)
def test_the_command_line_says_it_once(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], ends: Callable[..., Any], told: str
) -> None:
    """A training that ended early has said itself how to go on."""
    monkeypatch.setattr(training, "train", ends)
    with pytest.raises(SystemExit) as ended:
        main(["train", "text.txt"])
    assert ended.value.code == 130
    assert capsys.readouterr() == ("", told)


def test_an_exercise_that_was_interrupted_shows_no_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exercise, "train", lambda *_, **__: Outcome(False, {}))
    with pytest.raises(KeyboardInterrupt):
        train_exercise(tmp_path / "m", Console(quiet=True))


def test_a_second_training_in_one_folder_is_refused(
    text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, program: Program
) -> None:
    """From the first step to the last the folder is one's; with the end of a process it is free."""
    out, quiet, refused = tmp_path / "m", Console(quiet=True), []
    step = NextWordModel.training_loss

    def tried(*arguments: Any, **further: Any) -> Any:
        if len(refused) < 2:
            with pytest.raises(GlassgateError) as raised:
                train([], out, OPTIONS, resume=True, console=quiet)
            refused.append(str(raised.value))
            refused.append(program.run("train", "--resume", "--out", out).error)
        return step(*arguments, **further)

    monkeypatch.setattr(NextWordModel, "training_loss", tried)
    assert train([text], out, OPTIONS, console=quiet).finished
    assert refused == [f"{out}: another process trains there: wait for its end, or stop it"] * 2
    train([text], tmp_path / "whole", OPTIONS, console=quiet)
    assert weights(out) == weights(tmp_path / "whole")


def test_a_lock_on_a_folder_that_was_put_away_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other training ended between the opening of the file and its lock."""
    monkeypatch.setattr("fcntl.flock", lambda *_: (tmp_path / "lock").unlink())
    with pytest.raises(GlassgateError, match="another process trains there"), training._alone(tmp_path):
        raise AssertionError("two would have trained there")
