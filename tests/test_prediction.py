"""Predicting and generating against the equations and against the probabilities themselves."""

from math import inf, nan
from typing import Any

import numpy as np
import pytest

from by_hand import drawn_weights, probabilities, runtime_model
from glassgate import GlassgateError
from glassgate.folder.config import ModelConfig
from glassgate.folder.vocabulary import Vocabulary
from glassgate.runtime import Model

TEXT = "the gate opens and the gate closes the baker opens a door"
DRAWS = 3_000


def predictor(
    cell: str = "lstm", output: str = "full", eos: bool = True, closed: bool = False
) -> tuple[Model, ModelConfig, dict[str, Any]]:
    vocabulary = Vocabulary.build([TEXT], tokens="spaces", eos=eos, closed=closed)
    config = ModelConfig(
        cell=cell,  # type: ignore[arg-type]
        vocabulary=len(vocabulary),
        embedding=5,
        hidden=7,
        layers=2,
        output=output,  # type: ignore[arg-type]
        cutoffs=(3, 6) if output == "adaptive" else (),
        eos="line" if eos else "none",
        dropout=0.5,
    )
    weights = drawn_weights(config, 4)
    return runtime_model(config, weights, vocabulary), config, weights


def drawn_shares(share_of_unk: float, words: int) -> Any:
    others = np.random.default_rng(3).dirichlet(np.full(words - 1, 3.0))
    return np.array([share_of_unk, *(1 - share_of_unk) * others])


def loaded_dice(share_of_unk: float = 0.3, y: Any = None) -> tuple[Model, Any]:
    """Return a model whose y is the same at each step, and that y: h = 0, so that y = softmax(c)."""
    vocabulary = Vocabulary.build([TEXT], tokens="spaces", eos=False)
    config = ModelConfig(
        cell="gru", vocabulary=len(vocabulary), embedding=2, hidden=2, eos="none", tied=False
    )
    if y is None:
        y = drawn_shares(share_of_unk, len(vocabulary))
    weights = {name: np.zeros(shape) for name, shape in config.tensors().items()}
    weights["output.bias"] = np.log(y)
    return runtime_model(config, weights, vocabulary), y


def generated(model: Model, words: int, prompt: str = "gate", **options: Any) -> list[str]:
    """Return the words that were written after a prompt of one word."""
    return "".join(model.generate(prompt, words, **options)).split()[1:]


@pytest.mark.parametrize("cell", ["lstm", "gru"])
@pytest.mark.parametrize("output", ["full", "adaptive"])
@pytest.mark.parametrize("eos", [True, False])
def test_predictions_are_those_of_the_equations(cell: str, output: str, eos: bool) -> None:
    model, config, weights = predictor(cell, output, eos)
    numbers = [model.vocabulary.words.index(word) for word in ("the", "gate", "opens")]
    read = [model.vocabulary.eos, *numbers] if eos else numbers
    y = probabilities(config, weights, np.array(read)[:, None])[-1, 0]
    found = model.predict("the gate opens", k=1000)
    assert "<unk>" not in [word for word, _ in found]
    assert [p for _, p in found] == sorted((p for _, p in found), reverse=True)
    expected = {w: p for w, p in zip(model.vocabulary.words, y, strict=True) if w != "<unk>"}
    # The tolerance of test_model.py.
    assert dict(found) == pytest.approx(expected, rel=1e-12)
    # The share of <unk> is not spread over the others.
    assert sum(p for _, p in found) == pytest.approx(1 - y[model.vocabulary.unk], rel=1e-12)
    assert model.predict("the gate opens", k=3) == found[:3]
    assert len(model.predict("the gate opens")) == 5


def test_of_equals_the_more_frequent_word_comes_first() -> None:
    model, config, weights = predictor()
    zeros = {name: np.zeros_like(values) for name, values in weights.items()}
    model = runtime_model(config, zeros, model.vocabulary)
    assert [word for word, _ in model.predict("the", 100)] == model.vocabulary.words[1:]


def test_an_empty_prompt_begins_a_line() -> None:
    model, config, weights = predictor()
    y = probabilities(config, weights, np.array([[model.vocabulary.eos]]))[-1, 0]
    assert dict(model.predict("", 100))["gate"] == pytest.approx(
        y[model.vocabulary.words.index("gate")], rel=1e-12
    )
    without, _, _ = predictor(eos=False)
    with pytest.raises(GlassgateError, match=r"^the text: is empty: this model needs at least one word"):
        without.predict("")
    with pytest.raises(GlassgateError, match=r"^the text: is empty"):
        without.generate("  ", 5)


def test_an_unknown_word_is_refused_or_read_as_unk() -> None:
    model, config, weights = predictor()
    with pytest.raises(GlassgateError) as raised:
        model.predict("the gaet opens")
    assert str(raised.value) == (
        "the text: the model does not know the word 'gaet'; close to it: gate; "
        "the option unknown reads it as <unk>"
    )
    with pytest.raises(GlassgateError, match=r"^the text: the model does not know the word 'xyzzy'; the op"):
        model.generate("xyzzy", 5)
    read = [model.vocabulary.eos, *(model.vocabulary.words.index(word) for word in ("the", "<unk>"))]
    y = probabilities(config, weights, np.array(read)[:, None])[-1, 0]
    found = dict(model.predict("the gaet", 100, unknown=True))
    assert found["door"] == pytest.approx(y[model.vocabulary.words.index("door")], rel=1e-12)
    assert model.predict("the <unk>", 100) == model.predict("the gaet", 100, unknown=True)
    closed, _, _ = predictor(closed=True)
    with pytest.raises(GlassgateError, match=r"'xyzzy'$"):  # there is no <unk> to read it as
        closed.predict("xyzzy", unknown=True)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"words": 0}, "words: must be at least 1, got 0"),
        ({"temperature": -0.1}, "temperature: must be at least 0, got -0.1"),
        ({"temperature": nan}, "temperature: must be at least 0, got nan"),
        ({"top_k": -1}, "top_k: must be at least 0 (all words), got -1"),
        ({"top_p": 0.0}, "top_p: must be above 0 and at most 1, got 0.0"),
        ({"top_p": 1.01}, "top_p: must be above 0 and at most 1, got 1.01"),
        ({"top_p": nan}, "top_p: must be above 0 and at most 1, got nan"),
        ({"seed": -1}, "seed: must be at least 0 and below 2^31, got -1"),
        ({"seed": 2**31}, f"seed: must be at least 0 and below 2^31, got {2**31}"),
    ],
)
def test_an_option_out_of_bounds_is_refused_before_the_first_piece(
    options: dict[str, Any], message: str
) -> None:
    model, _ = loaded_dice()
    with pytest.raises(GlassgateError) as raised:
        model.generate("gate", **{"words": 5, **options})
    assert str(raised.value) == message


@pytest.mark.parametrize("k", [0, -1])
def test_fewer_than_one_word_is_refused(k: int) -> None:
    model, _ = loaded_dice()
    with pytest.raises(GlassgateError, match=f"^k: must be at least 1, got {k}$"):
        model.predict("gate", k)


def greedy(model: Model, prompt: str, words: int) -> list[str]:
    read, written = [prompt], []
    for _ in range(words):
        written.append(model.predict(" ".join(read), 1)[0][0])
        read.append(written[-1])
    return written


@pytest.mark.parametrize("cell", ["lstm", "gru"])
@pytest.mark.parametrize(
    "options",
    [{"temperature": 0.0}, {"top_k": 1}, {"top_p": 1e-9}, {"temperature": 1e-4}, {"temperature": 1e-310}],
)
def test_every_way_of_being_greedy_takes_the_most_probable_word(cell: str, options: dict[str, Any]) -> None:
    """The state is carried: each word is the best after all before it, as predict says from the start."""
    model, _, _ = predictor(cell, eos=False)
    expected = greedy(model, "gate", 12)
    assert generated(model, 12, **options) == expected
    assert generated(model, 12, **options, seed=77) == expected


def test_the_same_seed_writes_the_same_text() -> None:
    model, _, _ = predictor(eos=False)
    first = list(model.generate("the gate", 40, seed=5))
    assert list(model.generate("the gate", 40, seed=5)) == first
    assert list(model.generate("the gate", 40, seed=6)) != first
    assert "".join(first).startswith("the gate ")
    assert "".join(model.generate("the gate", 20, seed=5)) == "".join(first[:22])  # a beginning of it


def test_an_eos_ends_the_line() -> None:
    model, config, weights = predictor()
    bias = np.full(config.vocabulary, -50.0)
    bias[model.vocabulary.eos] = 50.0
    model = runtime_model(config, weights | {"output.bias": bias}, model.vocabulary)
    assert "".join(model.generate("the gate", 3)) == "the gate\n\n\n"


def quantile(freedom: int) -> float:
    """Return what chi-square exceeds with a chance of 1 in 1,000 (Wilson and Hilferty 1931)."""
    return freedom * (1 - 2 / (9 * freedom) + 3.09 * (2 / (9 * freedom)) ** 0.5) ** 3


@pytest.mark.parametrize(
    ("temperature", "top_k", "top_p"),
    [(1.0, 0, 1.0), (0.5, 0, 1.0), (2.0, 4, 1.0), (1.0, 0, 0.7), (1.5, 6, 0.8), (inf, 0, 1.0)],
)
def test_words_are_drawn_as_their_probabilities_say(temperature: float, top_k: int, top_p: float) -> None:
    """Chi-square over 3,000 independent draws of one seed; the chance to fail was 1 in 1,000, once."""
    model, y = loaded_dice()
    expected = y ** (1 / temperature)
    expected[0] = 0.0  # <unk> is never drawn, likely as it is
    order = np.argsort(-y[1:]) + 1
    if top_k:
        expected[order[top_k:]] = 0.0
    expected /= expected.sum()
    reached = np.cumsum(expected[order])
    needed = 1 + int((reached < top_p).sum())  # the fewest that reach the sum
    if top_p < 1:
        expected[order[needed:]] = 0.0
        expected /= expected.sum()
    words = generated(model, DRAWS, temperature=temperature, top_k=top_k, top_p=top_p, seed=11)
    counts = np.array([words.count(word) for word in model.vocabulary.words])
    assert counts.sum() == DRAWS
    assert counts[expected == 0].sum() == 0
    allowed = expected > 0
    assert allowed.sum() > 1
    # Chi-square needs some five draws expected of each word.
    assert DRAWS * expected[allowed].min() > 5
    statistic = ((counts - DRAWS * expected)[allowed] ** 2 / (DRAWS * expected[allowed])).sum()
    assert statistic < quantile(int(allowed.sum()) - 1)


def test_top_p_takes_the_fewest_words_that_reach_the_sum() -> None:
    shares = [0.2, 0.4, 0.25, 0.2, 0.1]
    size = len(loaded_dice()[0].vocabulary)
    model, _ = loaded_dice(y=np.array([*shares, *[0.05 / (size - 5)] * (size - 5)]))
    best = model.vocabulary.words[1:]
    for top_p, allowed in ((0.1, 1), (0.39, 1), (0.41, 2), (0.64, 2), (0.66, 3), (0.84, 3), (0.86, 4)):
        assert set(generated(model, 400, top_p=top_p)) == set(best[:allowed]), top_p
