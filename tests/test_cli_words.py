"""What `predict` and `generate` print, and what they import for it."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from glassgate.cli.common import printable
from glassgate.folder.config import ModelConfig
from glassgate.folder.vocabulary import Vocabulary
from glassgate.folder.weights import save_weights
from program import Program

# A word that would clear the screen, one that turns the writing around, one of Persian with its joiner.
WORDS = ["gate", "x\x1b[2J", "ev\u202eil", "می\u200cخواهم", "c1\x9b"]
SHOWN = ["gate", "x\\x1b[2J", "ev\\u202eil", "می\u200cخواهم", "c1\\x9b"]


@pytest.fixture
def foreign(tmp_path: Path) -> Path:
    """Return a folder that knows such words, the first the most probable, the others falling."""
    folder = tmp_path / "foreign"
    folder.mkdir()
    vocabulary = Vocabulary.build([" ".join(WORDS)], tokens="spaces")
    config = ModelConfig(cell="gru", vocabulary=len(vocabulary), embedding=2, hidden=2)
    weights = {name: np.zeros(shape, np.float32) for name, shape in config.tensors().items()}
    for place, word in enumerate(WORDS):
        weights["output.bias"][vocabulary.words.index(word)] = 9 - place
    (folder / "config.json").write_text(config.to_json())
    vocabulary.save(folder / "tokenizer.json")
    save_weights(folder / "model.safetensors", weights)
    return folder


def test_control_characters_are_shown_and_do_nothing(program: Program, foreign: Path) -> None:
    lines = program.run("predict", foreign, "gate").out.splitlines()
    assert [line.split("  ")[0] for line in lines] == SHOWN
    assert len(set(map(len, lines))) == 1  # the columns stand
    exact = json.loads(program.run("predict", foreign, "gate", "--json").out)
    assert [row["word"] for row in exact["words"]] == WORDS


def test_a_text_that_is_written_shows_them_too(program: Program, foreign: Path) -> None:
    options = ("--words", 200, "--temperature", 3)
    written = program.run("generate", foreign, "--prompt", "gate x\x1b[2J", *options).out
    assert set(SHOWN) <= set(written.split())
    assert not set("\x1b\u202e\x9b") & set(written)
    assert written.count("\n") > 1  # those of <eos>, and the last


def test_words_close_to_an_unknown_one_are_shown_so(program: Program, foreign: Path) -> None:
    refused = program.run("predict", foreign, "evil")
    assert "does not know the word 'evil'; close to it: 'ev\\u202eil'; the option unknown" in refused.error


def test_what_is_printable_stays() -> None:
    for text in ("the gate", "größer", "日本語", "\u05d0\u05d1", "👩\u200d💻", "a\u00a0b"):
        assert printable(text) == text
    assert printable("\r\n\t\x00\x7f\u2028\u2066") == "\\r\\n\\t\\x00\\x7f\\u2028\\u2066"


def test_a_prediction_imports_what_the_smallest_installation_has(foreign: Path) -> None:
    """No other package: docs/deploy.md names them, and each more would lengthen every start."""
    code = (
        "import sys\n"
        "before = set(sys.modules)\n"
        "from glassgate.cli import main\n"
        "try:\n"
        "    main(sys.argv[1:])\n"
        "except SystemExit:\n"
        "    packages = {name.split('.')[0] for name in set(sys.modules) - before}\n"
        "    slow = {'asyncio', 'email', 'importlib.metadata'} & set(sys.modules)\n"
        "    print(*sorted(packages - sys.stdlib_module_names | slow), file=sys.stderr)\n"
    )
    words = [sys.executable, "-c", code, "predict", str(foreign), "gate"]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    smallest = {"annotated_doc", "glassgate", "numpy", "safetensors", "shellingham", "tokenizers", "typer"}
    assert {"glassgate", "numpy"} <= set(done.stderr.split()) <= smallest
    assert done.stdout.startswith("gate ")
