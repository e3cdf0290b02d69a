"""What a command meets: an output that takes no more, a missing library, a folder that may not be read."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from program import Program
from serving import write_folder


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path_factory.mktemp("model") / "m")


def test_a_reader_that_goes_away_is_no_error(model: Path) -> None:
    command = [sys.executable, "-m", "glassgate", "generate", str(model), "--words", "20000"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as running:
        assert running.stdout is not None
        assert running.stderr is not None
        running.stdout.read(10)
        running.stdout.close()
        assert running.stderr.read() == ""
        assert running.wait(60) == 1


@pytest.mark.parametrize(
    "words",
    [
        ("predict", "m", "the", "-k", "2"),
        ("generate", "m", "--words", "3"),
        ("evaluate", "m", "text.txt", "--json"),
        ("count", "m"),
        ("--help",),
    ],
)
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_full_output_is_one_line(model: Path, words: tuple[str, ...], unbuffered: str) -> None:
    (model.parent / "text.txt").write_text("the gate opens\n")
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "glassgate", *words],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
            cwd=model.parent,
            env=os.environ | {"PYTHONUNBUFFERED": unbuffered},
        )
    line = "glassgate: error: the output: cannot be written: No space left on device\n"
    progress = "reading  99 %  4 tokens  perplexity "  # of `evaluate`, before there is anything to print
    said = [one for one in done.stderr.splitlines(keepends=True) if not one.startswith(progress)]
    assert (done.returncode, said) == (2, [line])


def without(module: str, *words: object) -> subprocess.CompletedProcess[str]:
    """Run a command where a library cannot be imported."""
    code = "import sys; sys.modules[sys.argv[1]] = None; from glassgate.cli import main; main(sys.argv[2:])"
    command = [sys.executable, "-c", code, module, *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_a_missing_library_names_the_extra_that_brings_it(model: Path) -> None:
    for words in (("train", model / "config.json"), ("demo",)):
        done = without("torch", *words)
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr == "glassgate: error: torch is not installed: pip install 'glassgate[train]'\n"


def test_without_rich_a_command_that_prints_with_it_is_one_line(model: Path, tmp_path: Path) -> None:
    """As in an installation without dependencies; the others answer."""
    for words in (
        ("evaluate", model, model / "config.json"),
        ("compress", model, "--out", tmp_path / "o"),
        ("count", model),
        ("look", model, "the gate"),
        ("look", model, "--text", model / "config.json"),
        ("demo",),
    ):
        done = without("rich", *words)
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr == "glassgate: error: rich is not installed: pip install rich\n"
    assert list(tmp_path.iterdir()) == []
    for answered in (("predict", model, "the"), ("count", model, "--json")):
        assert without("rich", *answered).returncode == 0


def test_a_folder_that_may_not_be_read_says_so(program: Program, model: Path, tmp_path: Path) -> None:
    locked = tmp_path / "locked"
    write_folder(locked)
    (tmp_path / "text.txt").write_text("the gate opens\n")
    commands = (
        ("predict", locked, "the"),
        ("evaluate", locked, tmp_path / "text.txt"),
        ("count", locked),
        ("compress", locked, "--out", tmp_path / "o"),
        ("export", locked, tmp_path / "o.onnx"),
    )
    for mode, place in ((0o600, locked), (0o755, locked / "model.safetensors")):
        place.chmod(0 if place != locked else mode)
        named = locked / "config.json" if place == locked else place
        for words in commands:
            assert (
                program.run(*words, privileged=False).error == f"{named}: cannot be read: Permission denied"
            )
        place.chmod(0o700)
    tmp_path.chmod(0)
    assert program.run("predict", locked, "the", privileged=False).error == (
        f"{locked}: cannot be read: Permission denied"
    )
    tmp_path.chmod(0o700)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["locked", "text.txt"]


def test_a_read_only_folder_is_read_and_left_as_it_is(program: Program, tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "m")
    before = {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in folder.iterdir()}
    for path in folder.iterdir():
        path.chmod(0o444)
    folder.chmod(0o555)
    tmp_path.chmod(0o555)
    found = program.run("predict", folder, "the", privileged=False)
    tmp_path.chmod(0o755)
    folder.chmod(0o755)
    assert (found.code, found.err) == (0, "")
    assert found.out == program.run("predict", write_folder(tmp_path / "other"), "the").out
    assert {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in folder.iterdir()} == before
