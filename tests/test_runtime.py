"""The runtime against the torch model, against itself in other forms, and without torch."""

import copy
import json
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import glassgate
from by_hand import drawn_weights, runtime_model
from glassgate import GlassgateError
from glassgate.folder.compact import Stored, packed
from glassgate.folder.config import ModelConfig
from glassgate.folder.vocabulary import Vocabulary
from glassgate.folder.weights import save_weights
from glassgate.language.model import NextWordModel
from glassgate.runtime import Model, Session
from glassgate.runtime.matrix import Matrix

WORDS = "the then there gate gates gatehouse open opens a an and door baker bakes loaf of in"

# float32 rounds each of the at most 40 products and sums behind a logit below 20 by 2^-24: their errors
# add up to at most 20 * 40 * 2^-24 = 5e-5 and, being of either sign, to about a tenth of that.
CLOSE = 1e-5


@st.composite
def configs(draw: st.DrawFn, eos: str | None = None) -> ModelConfig:
    words = draw(st.integers(4, 300))
    tied = draw(st.booleans())
    adaptive = draw(st.booleans())
    cutoffs = draw(st.sets(st.integers(1, words - 1), min_size=1, max_size=4)) if adaptive else set()
    hidden = draw(st.integers(1, 24))
    return ModelConfig(
        cell=draw(st.sampled_from(["lstm", "gru"])),
        reset=draw(st.sampled_from(["before", "after"])),
        vocabulary=words,
        embedding=hidden if tied and draw(st.booleans()) else draw(st.integers(1, 24)),
        hidden=hidden,
        layers=draw(st.integers(1, 3)),
        bias=draw(st.booleans()),
        tied=tied,
        output="adaptive" if adaptive else "full",
        cutoffs=tuple(sorted(cutoffs)),
        eos=eos or draw(st.sampled_from(["line", "none"])),
    )


def numbered(words: int, eos: bool) -> Vocabulary:
    special = 1 + eos
    return Vocabulary.build([" ".join(f"w{n:03}" for n in range(words - special))], tokens="spaces", eos=eos)


def float32(weights: dict[str, Any]) -> dict[str, Any]:
    return {name: values.astype(np.float32) for name, values in weights.items()}


def in_torch(config: ModelConfig, weights: dict[str, Any], words: Any) -> Any:
    """Return y [T, N, words] from the torch model in float32."""
    model = NextWordModel(config).eval()
    model.load_arrays(weights)
    with torch.inference_mode():
        features, _ = model(torch.from_numpy(words), model.initial_state(words.shape[1]))
        return model.output.log_probabilities(features).exp().numpy()


@settings(max_examples=150)
@given(configs(), st.integers(0, 2**32 - 1))
def test_probabilities_are_those_of_the_torch_model(config: ModelConfig, seed: int) -> None:
    """Over all words, by single steps, over a sequence at once, and of single words."""
    weights = float32(drawn_weights(config, seed))
    model = runtime_model(config, weights, numbered(config.vocabulary, config.eos == "line"))
    words = np.random.default_rng(seed).integers(config.vocabulary, size=(6, 3))
    expected = in_torch(config, weights, words)
    network = model.network
    state, stepped = network.initial_state(3), network.initial_state(3)
    h = network.run(words, state).reshape(18, -1)
    logs = network.output.log_probabilities(h)
    np.testing.assert_allclose(np.exp(logs), expected.reshape(18, -1), rtol=CLOSE, atol=1e-30)
    targets = words.ravel()[::-1].copy()
    np.testing.assert_allclose(
        network.output.log_probability(h, targets), logs[np.arange(18), targets], rtol=CLOSE, atol=CLOSE
    )
    for t in range(6):
        network.step(words[t], stepped)
    for one, other in zip(state, stepped, strict=True):
        assert np.array_equal(one, other)  # the kernels' promise
    session = model.session(tuple(part[:, 1] for part in state))
    y = expected[-1, 1]
    found = dict(session.predict(config.vocabulary))
    assert len(found) == config.vocabulary - 1
    for number, word in enumerate(model.vocabulary.words):
        if number != model.vocabulary.unk:
            assert found[word] == pytest.approx(y[number], rel=CLOSE, abs=1e-30)


@settings(max_examples=200)
@given(st.integers(1, 9), st.integers(1, 150), st.integers(0, 2**32 - 1), st.booleans())
def test_a_product_is_that_of_the_matrix_unpacked(rows: int, width: int, seed: int, biased: bool) -> None:
    """In every form, of one row or several; each row of V the same bits in any part of it."""
    generator = np.random.default_rng(seed)
    V, h = generator.uniform(-1, 1, (rows, width)), generator.uniform(-1, 1, (2, width))
    c = generator.uniform(-1, 1, rows) if biased else None
    V32 = V.astype(np.float32)
    forms = {"float64": Stored(V), "float32": Stored(V32)}
    forms["bf16"] = Stored(packed({"V": V32}, "bf16")["V"])
    forms["int8"] = Stored(*packed({"V": V32}, "int8").values())
    for name, stored in forms.items():
        matrix, exact = Matrix(stored), stored.unpacked().astype(np.float64)
        dtype = matrix.dtype
        x, bias = h.astype(dtype), None if c is None else c.astype(dtype)
        expected = x.astype(np.float64) @ exact.T + (0 if bias is None else bias)
        # Sums of at most 151 products below 1: each rounding is at most half an ulp of 151.
        close = 151 * 151 * np.finfo(dtype).eps
        for found in (matrix.product(x, bias), matrix.product(x[:1], bias)):
            assert found.dtype == dtype
            np.testing.assert_allclose(found, expected[: len(found)], rtol=0, atol=close, err_msg=name)
        whole = matrix.product(x[:1], bias)[0]
        for start in range(rows):
            part = matrix.part(start, rows).product(x[:1], None if bias is None else bias[start:])
            assert np.array_equal(part[0], whole[start:]), name
        numbers = generator.integers(rows, size=(2, 3))
        assert np.array_equal(matrix.rows(numbers), stored.unpacked()[numbers])


def test_a_large_matrix_is_read_as_one_stream_to_the_same_bits() -> None:
    V = np.random.default_rng(1).uniform(-1, 1, (5_000, 256)).astype(np.float32)
    h = np.ones((1, 256), np.float32)
    whole = Matrix(Stored(V)).product(h, None)[0]
    assert np.array_equal(Matrix(Stored(V)).part(100, 200).product(h, None)[0], whole[100:200])


def example(cell: str = "lstm", dtype: type = np.float32, eos: bool = True) -> Model:
    vocabulary = Vocabulary.build([WORDS], tokens="spaces", eos=eos)
    config = ModelConfig(
        cell=cell,  # type: ignore[arg-type]
        vocabulary=len(vocabulary),
        embedding=6,
        hidden=9,
        layers=2,
        output="adaptive",
        cutoffs=(5, 11),
        eos="line" if eos else "none",
    )
    weights = {name: values.astype(dtype) for name, values in drawn_weights(config, 5).items()}
    return runtime_model(config, weights, vocabulary)


@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_a_session_is_a_prediction_word_by_word(cell: str) -> None:
    model = example(cell)
    session, read = model.session(), []
    assert session.predict(4) == model.predict("", 4)
    for word in ["the", "gate", "opens", "and", "the", "baker", "bakes", "a", "loaf"]:
        session.feed(word)
        read.append(word)
        assert session.predict(4) == model.predict(" ".join(read), 4)
    at_once = model.session()
    at_once.feed(" ".join(read))
    assert at_once.predict(9) == session.predict(9)
    assert session.model is model


@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_a_fork_goes_its_own_way_and_a_state_can_be_kept(cell: str) -> None:
    model = example(cell)
    session = model.session()
    session.feed("the gate")
    kept, again, expected = session.state, session.state, session.predict(9)
    assert [part.shape for part in kept] == [(2, 9)] * (2 if cell == "lstm" else 1)
    fork = session.fork()
    assert fork.predict(9) == expected
    fork.feed("opens")
    assert session.predict(9) == expected != fork.predict(9)
    session.feed("and")
    assert model.session(kept).predict(9) == expected
    continued = model.session(kept)
    for part in (*kept, *again):  # copies, and the caller's own, on the way out and on the way in
        part[:] = 0.5
    assert continued.predict(9) == expected != model.session(kept).predict(9)
    session.feed("the")
    again = session.state
    for part in again:
        part[:] = 0.5
    assert session.predict(9) == model.predict("the gate and the", 9)
    assert fork.predict(9) == model.predict("the gate opens", 9)
    with pytest.raises(GlassgateError, match=r"^the state: must be \d of \(2, 9\), got"):
        model.session((kept[0][:1],))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda h: h[:1], "must be 1 of (2, 9), got [(1, 9)]"),
        (lambda h: h * np.nan, "must be finite in float32, got nan"),
        (lambda h: h.astype(np.float64) + 1e300, "must be finite in float32, got 1e+300"),
        (lambda h: h + 1j, "must be real numbers, got complex64"),
        (lambda h: h.astype(str), "must be real numbers, got <U32"),
        (lambda h: [[0.0] * 9, [0.0] * 8], "must be 1 of (2, 9), got no arrays: "),
    ],
)
def test_a_state_that_is_none_is_one_line(change: Any, message: str) -> None:
    model = example("gru")
    (h,) = model.session().state
    with pytest.raises(GlassgateError) as raised:
        model.session((change(h),))
    assert str(raised.value).startswith(f"the state: {message}")
    with pytest.raises(GlassgateError, match=r"^the state: must be 1 of \(2, 9\), got no arrays"):
        model.session(3)  # type: ignore[arg-type]


def test_the_state_before_the_first_word_is_nothing_to_go_on_from() -> None:
    model = example(eos=False)
    session = model.session(model.session().state)
    with pytest.raises(GlassgateError, match=r"^the text: is empty"):
        session.predict(1)
    session.feed("the")
    assert session.predict(9) == model.session(session.state).predict(9) == model.predict("the", 9)


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, pickle.dumps])
def test_neither_a_model_nor_a_session_is_copied_or_pickled(copied: Any) -> None:
    model = example()
    with pytest.raises(GlassgateError, match=r"^the model: is not copied or pickled: share it, or load"):
        copied(model)
    with pytest.raises(GlassgateError, match=r"^the session: is not copied or pickled: fork copies it"):
        copied(model.session())


@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_sessions_together_are_sessions_alone(cell: str) -> None:
    """In float64, whose rounding lies far below what is compared."""
    model = example(cell, np.float64)
    texts = ["", "the", "the gate", "a door", "and then the baker"]
    together, alone = [model.session() for _ in texts], [model.session() for _ in texts]
    for one, other, text in zip(together, alone, texts, strict=True):
        one.feed(text)
        other.feed(text)
    for words in (["gate", "an", "opens", "of", "bakes"], ["in", "the", "gates", "a", "loaf"]):
        model.feed_together(together, words)
        for session, word in zip(alone, words, strict=True):
            session.feed(word)
        for session, found in zip(alone, model.predict_together(together, 6), strict=True):
            assert dict(found) == pytest.approx(dict(session.predict(6)), rel=1e-12)
    begun = ["g", "", "the", "g", "o"]
    for session, letters, found in zip(alone, begun, model.predict_together(together, 3, begun), strict=True):
        assert dict(found) == pytest.approx(dict(session.predict(3, letters)), rel=1e-12)
    assert model.predict_together([], 3) == []
    model.feed_together([], [])


def test_sessions_together_say_what_is_wrong() -> None:
    model, other = example(), example()
    sessions = [model.session(), model.session()]
    before = [session.predict(9) for session in sessions]
    wrong: list[tuple[list[Session], list[str], str]] = [
        (sessions, ["the"], "words: one for each of 2 sessions expected, got 1"),
        (sessions, ["the", "stone"], "the text: the model does not know the word 'stone'; close to it"),
        (sessions, ["the", "a gate"], "words: one for each session expected, got 'a gate'"),
        (sessions, ["the", ""], "words: one for each session expected, got ''"),
        ([sessions[0], sessions[0]], ["the", "a"], "sessions: each must stand there once"),
        ([sessions[0], other.session()], ["the", "a"], "sessions: must be of this model"),
    ]
    for several, words, message in wrong:
        with pytest.raises(GlassgateError) as raised:
            model.feed_together(several, words)
        assert str(raised.value).startswith(message.split(";")[0])
    with pytest.raises(GlassgateError, match=r"^begun: one for each of 1 sessions expected, got 2$"):
        model.predict_together(sessions[:1], 3, ["a", "b"])
    assert [session.predict(9) for session in sessions] == before  # nothing was read
    model.feed_together(sessions, ["the", "stone"], unknown=True)
    assert sessions[1].predict(9) == model.predict("<unk>", 9)
    empty = example(eos=False).session()
    with pytest.raises(GlassgateError, match=r"^the text: is empty"):
        empty.predict()


def test_a_begun_word_is_completed() -> None:
    model = example()
    everything = dict(model.predict("the", 1000))
    for text, begun in (("the gate", "gate"), ("the t", "t"), ("the opens", "opens"), ("the gateh", "gateh")):
        found = model.predict(text, 1000, complete=True)
        assert found == [(w, y) for w, y in everything.items() if w.startswith(begun)]
        assert len(found) >= 1
    assert model.predict("the zebra", complete=True) == []
    assert model.predict("the <e", complete=True) == []  # nobody types <eos>
    assert model.predict("the ", 1000, complete=True) == list(everything.items())
    assert model.predict("", 1000, complete=True) == model.predict("", 1000)
    assert model.predict("the gate", 2, complete=True) == model.predict("the gate", 99, complete=True)[:2]
    with pytest.raises(GlassgateError, match="does not know the word 'stone'"):
        model.predict("stone ga", complete=True)


def test_a_begun_word_keeps_its_marks() -> None:
    """What is typed of "don't" and "still-born" is "don'" and "still-"; other marks end a word."""
    text = "I don't know , said the still-born don ' ... still"
    vocabulary = Vocabulary.build([text], tokens="words")
    config = ModelConfig(cell="gru", vocabulary=len(vocabulary), embedding=3, hidden=4)
    model = runtime_model(config, drawn_weights(config, 2), vocabulary)
    for before, begun, expected in (
        ("I ", "don", {"don", "don't"}),
        ("I ", "don'", {"don't"}),
        ("I ", "don't", {"don't"}),
        ("the ", "still-", {"still-born"}),
        ("the ", "still-b", {"still-born"}),
        ("I know", ",", {","}),
        ("I know", "'", {"'"}),
        ("I said,", "don'", {"don't"}),
        ("I know ", "..", {"..."}),
        ("I know", "..", {"..."}),
    ):
        found = model.predict(before + begun, 100, complete=True)
        session = model.session()
        session.feed(before)
        assert {word for word, _ in found} == expected
        assert found == session.predict(100, begun)
    with pytest.raises(GlassgateError, match="does not know the word 'zebra'"):
        model.predict("I zebra-", complete=True)


def test_an_unknown_word_is_told_in_a_line_of_bounded_length() -> None:
    words = [f"{first}{n:04}" for first in "abcde" for n in range(2_000)]
    vocabulary = Vocabulary.build([" ".join(words)], tokens="spaces")
    config = ModelConfig(cell="gru", vocabulary=len(vocabulary), embedding=1, hidden=1)
    model = runtime_model(config, drawn_weights(config, 2), vocabulary)
    with pytest.raises(GlassgateError, match="the word 'c10001'; close to it: c1001, c1000, c1500; the opt"):
        model.predict("c10001")
    with pytest.raises(GlassgateError) as raised:
        model.predict("x" * 100_000)
    assert str(raised.value) == (
        f"the text: the model does not know the word '{'x' * 80}' ... (100,000 characters); "
        "the option unknown reads it as <unk>"
    )


@pytest.mark.parametrize("cell", ["lstm", "gru"])
@pytest.mark.parametrize("eos", [True, False])
def test_the_score_of_a_text_is_the_probability_of_each_word(
    cell: str, eos: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = example(cell, np.float64, eos)
    words = ["the", "gate", "opens", "and", "the", "baker", "bakes"]
    found = model.score(" ".join(words))
    assert [word for word, _ in found] == (words if eos else words[1:])
    for place, (word, log) in zip(range(0 if eos else 1, len(words)), found, strict=True):
        assert log == pytest.approx(np.log(dict(model.predict(" ".join(words[:place]), 99))[word]), rel=1e-12)
    monkeypatch.setattr("glassgate.runtime.model.BLOCK", 2)
    assert [log for _, log in model.score(" ".join(words))] == pytest.approx(
        [log for _, log in found], rel=1e-12
    )
    assert model.score("") == []
    assert [word for word, _ in model.score("the stone opens", unknown=True)][-2:] == ["stone", "opens"]
    with pytest.raises(GlassgateError, match="does not know the word 'stone'"):
        model.score("the stone")


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
    assert not model.network.embedding.stored.values.flags.writeable  # the file's own bytes
    (folder / "model.safetensors").unlink()
    assert model.predict("a loaf of", 9) == example().predict("a loaf of", 9)


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


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("predict", "m", "the gate", "-k", "2"), 2),
        (("predict", "m", "the ga", "--complete"), 3),
        (("predict", "m", "the zebra", "--complete"), 0),
        (("evaluate", "m", "m/text.txt"), 7),
        (("generate", "m", "--prompt", "the", "--words", "3", "--temperature", "0"), None),
    ],
)
def test_the_commands_need_no_torch(folder: Path, words: tuple[str, ...], expected: int | None) -> None:
    (folder / "text.txt").write_text("the gate opens\nand the baker bakes\n")
    code = "import sys; sys.modules['torch'] = None; from glassgate.cli import main; main(sys.argv[1:])"
    done = subprocess.run(
        [sys.executable, "-c", code, *words], capture_output=True, text=True, cwd=folder.parent, check=False
    )
    assert done.returncode == 0, done.stderr
    if expected is None:
        assert done.stdout == "".join(example().generate("the", 3, temperature=0)) + "\n"
    else:
        assert len(done.stdout.splitlines()) == expected
