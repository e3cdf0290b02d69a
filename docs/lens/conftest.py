"""The pages of the lens look into one model: the notes' exercise, trained once for all of them."""

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def exercise(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the model in `exercise` and its text in `text.txt`."""
    from rich.console import Console

    from glassgate.language.exercise import sample_text, train_exercise

    folder = tmp_path_factory.mktemp("lens")
    train_exercise(folder / "exercise", Console(quiet=True))
    (folder / "text.txt").write_text(sample_text())
    return folder


@pytest.fixture(autouse=True)
def _beside_the_model(exercise: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(exercise)
