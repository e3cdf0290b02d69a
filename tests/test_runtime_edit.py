"""Edits and traces of the runtime: every gate, what follows from it, and the perplexity of a text."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import glassgate
from by_hand import drawn_weights, gates_over, probabilities, runtime_model
from glassgate import Edit, GlassgateError
from glassgate.cli.look_edit import NOTES, forget_experiment, show_experiment
from glassgate.edits import for_layers
from glassgate.folder.config import ModelConfig
from glassgate.folder.vocabulary import Vocabulary
from glassgate.folder.weights import save_weights
from glassgate.language.evaluation import evaluate
from glassgate.runtime import Model

SENTENCE = "the gate opens and the door closes"
CELLS = [("lstm", "after"), ("gru", "after"), ("gru", "before")]


def made(cell: Any, reset: Any, eos: bool = True, **further: Any) -> tuple[Model, dict[str, Any]]:
    vocabulary = Vocabulary.build([SENTENCE], tokens="spaces", eos=eos)
    config = ModelConfig(
        cell=cell,
        reset=reset,
        vocabulary=len(vocabulary),
        embedding=5,
        hidden=6,
        layers=2,
        tied=False,
        eos="line" if eos else "none",
        **further,
    )
    weights = drawn_weights(config, 1)
    return runtime_model(config, weights, vocabulary), weights


@pytest.mark.parametrize("eos", [False, True])
@pytest.mark.parametrize(("cell", "reset"), CELLS)
def test_a_trace_is_the_equations(cell: str, reset: str, eos: bool) -> None:
    model, weights = made(cell, reset, eos)
    traced = model.trace(SENTENCE)
    assert traced.words == (*(["<eos>"] if eos else []), *SENTENCE.split())
    numbers = [model.vocabulary.words.index(word) for word in traced.words]
    letters = {"f": "forget", "i": "input", "o": "output", "C": "cell"}
    letters |= {"r": "reset", "u": "update", "g": "candidate", "h": "hidden"}
    for name, steps in zip(("l0", "l1"), gates_over(model.config, weights, numbers), strict=True):
        for letter, values in steps._asdict().items():
            got = getattr(traced.layers[name], letters[letter])
            # Eight steps of some thirty roundings of numbers of size 1.
            np.testing.assert_allclose(got[:, 0], values, rtol=0, atol=1e-13)
    y = probabilities(model.config, weights, np.array(numbers)[:, None])[:, 0]
    for step in (-1, 0, 3):
        words, found = zip(*traced.best(3, step), strict=True)
        rows = [model.vocabulary.words.index(word) for word in words]
        np.testing.assert_allclose(found, y[step][rows], rtol=1e-12)
        others = np.delete(y[step], [*rows, model.vocabulary.unk])
        assert sorted(found, reverse=True) == list(found)
        assert others.max() <= min(found)
    assert traced.best(3) == model.predict(SENTENCE, 3)


@pytest.mark.parametrize(("cell", "reset"), CELLS)
def test_what_follows_from_an_edit(cell: str, reset: str) -> None:
    model, _ = made(cell, reset)
    before = model.trace(SENTENCE).layers
    edit = Edit("hidden", set=0.5, units=[2], steps=slice(3, 4), layer="l0")
    after = model.trace(SENTENCE, [edit]).layers
    for name in ("l0", "l1"):
        for gate in after[name].names:
            old, new = getattr(before[name], gate), getattr(after[name], gate)
            np.testing.assert_array_equal(new[:3], old[:3])
            assert (new[3] == old[3]).all() == (name == "l0" and gate != "hidden")
            assert not (new[4] == old[4]).any()
    assert after["l0"].hidden[3, 0, 2] == 0.5
    # Putting the values back gives the first run, and the words that follow it.
    patched = model.trace(SENTENCE, [edit, Edit("hidden", replace=before, layer="l0")])
    np.testing.assert_array_equal(patched.layers["l1"].hidden, before["l1"].hidden)


@pytest.mark.parametrize(("cell", "reset"), CELLS)
def test_word_by_word_with_edits_is_the_text_at_once(cell: str, reset: str) -> None:
    network = made(cell, reset)[0].network
    words = np.arange(7)[:, None]
    edits = for_layers(
        [Edit("candidate", scale=0.5, steps=slice(2, None, 2)), Edit("hidden", clamp=(-0.1, 0.2), units=[1])],
        network.targets,
    )
    state = network.initial_state(1)
    whole = network.run(words, state, edits)
    stepped = network.initial_state(1)
    parts = [network.run(words[t : t + 1], stepped, edits, first=t) for t in range(7)]
    np.testing.assert_array_equal(np.concatenate(parts), whole)
    for one, other in zip(stepped, state, strict=True):
        np.testing.assert_array_equal(one, other)


def test_the_three_gates_of_the_notes() -> None:
    """Half of the memory, all of it, nothing of it."""
    model, _ = made("lstm", "after")
    for share in (0.5, 1, 0):
        seen = model.trace(SENTENCE, [Edit("forget", set=share)]).layers["l0"]
        new = seen.input * seen.candidate
        # The kernel adds the two products in one rounding: numbers of size up to 8.
        np.testing.assert_allclose(seen.cell[1:], share * seen.cell[:-1] + new[1:], rtol=0, atol=2e-15)


def test_what_a_trace_refuses() -> None:
    model, _ = made("lstm", "after", eos=False)
    for text, edits, message in (
        ("", (), "the text: is empty"),
        ("the cat", (), "does not know the word 'cat'"),
        ("the", [Edit("reset", set=1)], "there is input, forget, .* in l0, l1"),
        ("the", [Edit("cell", set=1, layer="l2")], "the layers are l0, l1, got 'l2'"),
        ("the", [Edit("cell", function=abs)], "a function is called by torch's layers only"),
        ("the gate", [Edit("cell", replace=np.zeros((1, 6)))], "replace has 1 steps, fewer than the call"),
    ):
        with pytest.raises(GlassgateError, match=message):
            model.trace(text, edits)
    assert model.trace("the cat", unknown=True).words == ("the", "<unk>")
    traced = model.trace("the")
    for step in (1, -2):
        with pytest.raises(GlassgateError, match=f"the text has 1 steps, got {step}"):
            traced.best(step=step)
    with pytest.raises(GlassgateError, match="at least 1"):
        traced.best(0)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    model, weights = made("lstm", "after")
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text(model.config.to_json())
    model.vocabulary.save(folder / "tokenizer.json")
    small = {name: values.astype(np.float32) for name, values in weights.items()}
    save_weights(folder / "model.safetensors", small)
    (tmp_path / "text.txt").write_text(f"{SENTENCE}\n{SENTENCE} and the gate\n" * 30)
    return folder


def test_perplexity_with_an_edit_over_the_blocks_of_a_text(folder: Path) -> None:
    """570 tokens are more than two blocks, and the edit begins and ends inside of blocks."""
    model, text = glassgate.load(folder), folder.parent / "text.txt"
    edit = Edit("forget", scale=0.25, steps=slice(100, 400, 3))
    words = [word for line in text.read_text().splitlines() for word in (*line.split(), "<eos>")]
    numbers = [model.vocabulary.words.index(word) for word in ["<eos>", *words]]
    read = [model.vocabulary.words[n] for n in numbers]
    traced = model.trace(" ".join(read[1:-1]), [edit])
    assert list(traced.words) == read[:-1]
    logs = model.network.output.log_probability(traced.features, np.array(numbers[1:]))
    found = evaluate(model, [text], edits=[edit])
    assert found.tokens == len(words) == 570
    # float32 logits of size 10: each log y to 1e-5, their mean as well.
    assert found.perplexity == pytest.approx(float(np.exp(-logs.mean())), rel=2e-5)
    assert found.perplexity != pytest.approx(evaluate(model, [text]).perplexity, rel=1e-3)
    with pytest.raises(GlassgateError, match="a stream has no end to count from"):
        evaluate(model, [text], edits=[Edit("forget", set=1, steps=slice(-9, None))])


def test_the_notes_experiment(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = folder.parent / "text.txt"
    found = forget_experiment(folder, text)
    assert list(found) == ["as trained", *NOTES]
    model = glassgate.load(folder)
    for share, setting in zip((0.5, 1, 0), NOTES, strict=True):
        assert found[setting] == evaluate(model, [text], edits=[Edit("forget", set=share)])
    assert found["as trained"] == evaluate(model, [text])
    both = forget_experiment(folder, text, ["forget=0 l1.output[0,1]*=0.5"])
    assert both["forget=0 l1.output[0,1]*=0.5"].perplexity != found["forget=0"].perplexity
    show_experiment(folder, text, (), json=False)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["perplexity", "recall@3"]
    assert [line.split()[:-3] for line in lines[1:]] == [["as", "trained"], *([s] for s in NOTES)]
    assert lines[2].split()[1] == f"{found['forget=1/2'].perplexity:,.2f}"
    show_experiment(folder, text, ["forget=1"], json=True)
    assert '"forget=1": {"perplexity"' in capsys.readouterr().out
    with pytest.raises(GlassgateError, match="there is input"):
        forget_experiment(folder, text, ["reset=1"])
    with pytest.raises(GlassgateError, match="--set: expected"):
        forget_experiment(folder, text, ["forget"])
