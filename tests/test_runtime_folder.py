"""A model that is loaded from its folder: mapped, checked, and used where there is no torch."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import glassgate
from by_hand import drawn_weights, runtime_model
from glassgate import GlassgateError
from glassgate.folder.weights import save_weights
from glassgate.language.evaluation import evaluate
from glassgate.runtime import Model
from glassgate.runtime import network as module
from test_runtime import example, float32


def write(folder: Path, weights: dict[str, Any], model: Model) -> Path:
    folder.mkdir()
    (folder / "config.json").write_text(model.config.to_json())
    model.vocabulary.save(folder / "tokenizer.json")
    save_weights(folder / "model.safetensors", weights)
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    model = example()
    return write(tmp_path / "m", float32(drawn_weights(model.config, 5)), model)


def test_a_loaded_model_predicts_as_the_one_that_was_saved(folder: Path) -> None:
    model = glassgate.load(str(folder))
    assert model.predict("the gate", 9) == example().predict("the gate", 9)
    (folder / "model.safetensors").unlink()
    assert model.predict("a loaf of", 9) == example().predict("a loaf of", 9)


def test_a_loaded_model_lies_in_a_map_that_processes_share(folder: Path) -> None:
    """Its embedding, which is V: in memory that is the file's own, shared and read-only."""
    model = glassgate.load(folder)
    ((_, embedding, _),) = model.network.embedding.pieces
    values = embedding.stored.values
    address, size = values.__array_interface__["data"][0], values.nbytes
    for line in Path("/proc/self/maps").read_text().splitlines():
        place, permissions, *_, name = line.split(maxsplit=5)
        start, stop = (int(end, 16) for end in place.split("-"))
        if start <= address < stop:
            assert (permissions, name.strip()) == ("r--s", str(folder / "model.safetensors"))
            assert address + size <= stop
            break
    else:
        pytest.fail("the embedding lies in no map of memory")
    assert all(np.shares_memory(values, part.V.stored.values) for part in model.network.output.parts)


def test_recurrent_weights_are_packed_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = []

    def pack(*weights: Any, original: Any = module.PackedLSTM) -> Any:
        made.append(weights)
        return original(*weights)

    monkeypatch.setattr(module, "PackedLSTM", pack)
    model = glassgate.load(folder)
    assert len(made) == 2  # layers
    sessions = [model.session(), model.session().fork()]
    model.feed_together(sessions, ["the", "gate"])
    model.predict_together(sessions, 3)
    model.score("the gate opens")
    assert len(made) == 2


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_weight_that_is_no_number_is_refused(folder: Path, value: float) -> None:
    weights = float32(drawn_weights(example().config, 5))
    weights["output.bias"][3] = value
    save_weights(folder / "model.safetensors", weights)
    with pytest.raises(GlassgateError, match=r"output.bias holds a value that is no finite number$"):
        glassgate.load(folder)


def test_probabilities_that_are_no_numbers_are_one_line() -> None:
    """Weights that are finite, and whose products are not."""
    model = example()
    weights = float32(drawn_weights(model.config, 5))
    weights["embedding.weight"][:] *= 3e38
    weights["projection.weight"][:] = 3e38
    broken = runtime_model(model.config, weights, model.vocabulary)
    with pytest.raises(GlassgateError, match=r"^the model: its probabilities are no numbers: it is damaged"):
        broken.predict("the gate")


def test_nothing_of_it_needs_torch(folder: Path) -> None:
    """Import and use, in a process where torch cannot be imported."""
    (folder / "text.txt").write_text("the gate opens\nand the baker bakes\n")
    code = """
import sys
sys.modules["torch"] = None
import json, glassgate
from pathlib import Path
from glassgate.language.evaluation import evaluate
model = glassgate.load("m")
session = model.session()
session.feed("the")
fork = session.fork()
model.feed_together([session, fork], ["gate", "door"])
print(json.dumps([
    session.predict(3),
    "".join(model.generate("the", 5, seed=3)),
    model.score("the gate"),
    evaluate(model, [Path("m/text.txt")]).tokens,
]))
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=folder.parent, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    predicted, written, scores, tokens = json.loads(done.stdout)
    model = example()
    assert [word for word, _ in predicted] == [word for word, _ in model.predict("the gate", 3)]
    assert written == "".join(model.generate("the", 5, seed=3))
    assert dict(scores) == pytest.approx(dict(model.score("the gate")))
    assert tokens == 9


def printed(words: list[tuple[str, float]]) -> str:
    width = max(len(word) for word, _ in words) if words else 0
    return "".join(f"{word:<{width}}  {100 * y:6.2f} %\n" for word, y in words)


def test_the_commands_need_no_torch(folder: Path) -> None:
    """And say what the model itself says."""
    model, text = example(), folder / "text.txt"
    text.write_text("the gate opens\nand the baker bakes\n")
    figures = evaluate(model, [text]).as_dict()
    for words, expected in (
        (("predict", "m", "the gate", "-k", "2"), printed(model.predict("the gate", 2))),
        (("predict", "m", "the ga", "--complete"), printed(model.predict("the ga", complete=True))),
        (("predict", "m", "the zebra", "--complete"), ""),
        (("evaluate", "m", "m/text.txt", "--json"), json.dumps(figures) + "\n"),
        (
            ("generate", "m", "--prompt", "the", "--words", "3", "--temperature", "0"),
            "".join(model.generate("the", 3, temperature=0)) + "\n",
        ),
    ):
        code = "import sys; sys.modules['torch'] = None; from glassgate.cli import main; main(sys.argv[1:])"
        done = subprocess.run(
            [sys.executable, "-c", code, *words],
            capture_output=True,
            text=True,
            cwd=folder.parent,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert done.stdout == expected
