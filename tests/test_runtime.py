"""The runtime against the torch model and against itself in other forms; begun and unknown words, scores."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from by_hand import drawn_weights, runtime_model
from glassgate import GlassgateError
from glassgate.folder.compact import SCALES, Stored, packed
from glassgate.folder.config import ModelConfig
from glassgate.folder.vocabulary import Vocabulary
from glassgate.language.model import NextWordModel
from glassgate.runtime import Model
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
    embedding = hidden if tied and draw(st.booleans()) else draw(st.integers(1, 24))
    narrow = draw(st.sets(st.sampled_from(sorted(cutoffs)), max_size=2)) if adaptive and tied else set()
    if embedding < 4 ** len(narrow):
        narrow = set()
    return ModelConfig(
        cell=draw(st.sampled_from(["lstm", "gru"])),
        reset=draw(st.sampled_from(["before", "after"])),
        vocabulary=words,
        embedding=embedding,
        hidden=hidden,
        layers=draw(st.integers(1, 3)),
        bias=draw(st.booleans()),
        tied=tied,
        output="adaptive" if adaptive else "full",
        cutoffs=tuple(sorted(cutoffs)),
        embedding_cutoffs=tuple(sorted(narrow)),
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
@given(configs(), st.sampled_from(["float32", "bf16", "int8"]), st.integers(0, 2**32 - 1))
def test_probabilities_are_those_of_the_torch_model(config: ModelConfig, form: Any, seed: int) -> None:
    """Over all words, by single steps, over a sequence at once, and of single words; in any form."""
    weights = float32(drawn_weights(config, seed))
    arrays = weights if form == "float32" else packed(weights, form)
    stored = {name: Stored(arrays[name], arrays.get(name + SCALES)) for name in weights}
    weights = {name: tensor.unpacked() for name, tensor in stored.items()}
    model = Model(config, numbered(config.vocabulary, config.eos == "line"), stored)
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
    assert model.score("the gate\nopens\n") == model.score("the gate opens")  # no <eos> where a line ends
    assert [word for word, _ in model.score("the stone opens", unknown=True)][-2:] == ["stone", "opens"]
    with pytest.raises(GlassgateError, match="does not know the word 'stone'"):
        model.score("the stone")
