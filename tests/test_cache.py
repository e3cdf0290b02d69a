"""The neural cache against its equations, computed in a loop over the whole past."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from by_hand import drawn_weights, runtime_model
from glassgate import GlassgateError
from glassgate.folder.config import ModelConfig
from glassgate.folder.vocabulary import Vocabulary
from glassgate.language import evaluation
from glassgate.language.cache import Cache, CacheOptions
from glassgate.language.evaluation import evaluate

WORDS = 6
TEXT = "the gate opens and the gate closes\nthe baker opens the door\na door and the stranger\n" * 3


def by_definition(h: Any, targets: Any, logs: Any, options: CacheOptions) -> Any:
    """Return log p by the docstring's equations, a word at a time, in float64."""
    mixed = []
    for t, target in enumerate(targets):
        past = range(max(0, t - options.window), t)
        theta = options.theta
        if theta is None:
            theta = 9 / np.mean([np.dot(h[i], h[i]) for i in range(t + 1)])
        weights = {i: np.exp(theta * np.dot(h[t], h[i])) for i in past}
        if not weights:
            mixed.append(logs[t])
            continue
        cached = sum(weights[i] for i in past if targets[i] == target) / sum(weights.values())
        mixed.append(np.log((1 - options.share) * np.exp(logs[t]) + options.share * cached))
    return np.array(mixed)


def drawn(length: int, seed: int = 2) -> tuple[Any, Any, Any]:
    """Return states, words, and for each step the log-probabilities of all words."""
    generator = np.random.default_rng(seed)
    logits = generator.normal(size=(length, WORDS))
    y = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    return generator.normal(size=(length, 4)), generator.integers(WORDS, size=length), y


@pytest.mark.parametrize("window", [1, 3, 10, 100])
@pytest.mark.parametrize("theta", [0.0, 0.7, None])
@pytest.mark.parametrize("block", [1, 4, 40])
def test_the_equations_in_blocks(window: int, theta: float | None, block: int) -> None:
    h, words, y = drawn(40)
    logs = y[np.arange(40), words]
    options = CacheOptions(window=window, theta=theta, share=0.3)
    cache = Cache(options)
    pieces = [slice(start, start + block) for start in range(0, 40, block)]
    found = np.concatenate([cache.read(h[piece], words[piece], logs[piece]) for piece in pieces])
    # Exponents of at most 50 carry 50 eps into a weight of the softmax, sums of at most 40 terms 40 eps more.
    np.testing.assert_allclose(found, by_definition(h, words, logs, options), rtol=0, atol=100 * 2.3e-16)


def test_all_words_together_have_probability_one() -> None:
    """Were the last word another: the probabilities of all that it could be sum to one."""
    h, words, y = drawn(30)
    total = 0.0
    for word in range(WORDS):
        ended = np.append(words[:-1], word)
        logs = y[np.arange(30), ended]
        total += float(np.exp(Cache(CacheOptions(share=0.4)).read(h, ended, logs)[-1]))
    assert total == pytest.approx(1, abs=1e-14)  # six terms, each to about 20 eps


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("theta", [1e4, 1e38, 1e40, 1e308])
def test_the_sharpest_cache_has_the_word_of_the_most_alike_state(dtype: Any, theta: float) -> None:
    """However large theta is, beyond the largest float32 too."""
    h, words, y = drawn(30)
    logs = y[np.arange(30), words]
    found = Cache(CacheOptions(theta=theta, share=0.3)).read(h.astype(dtype), words, logs)
    assert found[0] == logs[0]
    for t in range(1, 30):
        scores = h[:t] @ h[t]
        last, best = np.argsort(scores)[-2:] if t > 1 else (0, 0)
        # Of the word that is next the share is below 30 exp(-1e4 x 3e-3) = 3e-12.
        assert t == 1 or scores[best] - scores[last] > 3e-3
        expected = np.log(0.7 * np.exp(logs[t]) + 0.3 * (words[best] == words[t]))
        assert found[t] == pytest.approx(expected, abs=1e-10)


@pytest.mark.parametrize("size", [0.0, 1e-25, 1e-19, 1.0, 1e15])
def test_states_of_any_size_have_a_theta_of_their_own(size: float) -> None:
    """float32: squares below the least number there is are states of zeros, which are alike for any theta."""
    h, words, y = drawn(30)
    h = h.astype(np.float32)
    logs = y[np.arange(30), words].astype(np.float32)
    found = Cache(CacheOptions()).read((size * h).astype(np.float32), words, logs)
    assert np.isfinite(found).all()
    if size in (1.0, 1e15):
        # theta h . h is some 9 x 4 at the most, each of its products off by eps of float32.
        np.testing.assert_allclose(found, by_definition(h, words, logs, CacheOptions()), rtol=0, atol=1e-4)
    elif size == 0:
        options = CacheOptions(theta=0)
        np.testing.assert_allclose(found, by_definition(h, words, logs, options), rtol=0, atol=1e-5)


def example() -> tuple[Any, Any]:
    vocabulary = Vocabulary.build([TEXT], tokens="spaces")
    config = ModelConfig(cell="lstm", vocabulary=len(vocabulary), embedding=5, hidden=7)
    return config, runtime_model(config, drawn_weights(config, 4), vocabulary)


def test_a_share_of_nothing_is_the_model_to_the_bit(tmp_path: Path) -> None:
    _, model = example()
    text = tmp_path / "text.txt"
    text.write_text(TEXT)
    found = evaluate(model, [text], cache=CacheOptions(share=0))
    assert found.cache_perplexity == found.perplexity == evaluate(model, [text]).perplexity


@pytest.mark.parametrize("block", [5, 256])
def test_evaluate_reads_one_stream(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block: int) -> None:
    """States and words as the network meets them: <eos>, the first line, <eos>, the second ..."""
    _, model = example()
    text = tmp_path / "text.txt"
    text.write_text(TEXT)
    eos = model.vocabulary.eos
    words = [eos]
    for line in TEXT.splitlines():
        words += [*model.vocabulary.encode([line])[0], eos]
    stream = np.array(words)
    h = model.network.run(stream[:-1, None], model.network.initial_state(1))[:, 0]
    logs = model.network.output.log_probability(h, stream[1:])
    options = CacheOptions(window=9, share=0.3)
    expected = np.exp(-by_definition(h, stream[1:], logs, options).mean())
    monkeypatch.setattr(evaluation, "BLOCK", block)
    found = evaluate(model, [text], cache=options)
    plain = evaluate(model, [text])
    # The tolerance of test_evaluation.py, of a mean, and what the cache adds above.
    assert found.cache_perplexity == pytest.approx(float(expected), rel=1e-12)
    assert found.cache_perplexity != pytest.approx(found.perplexity, rel=1e-3)
    assert plain.cache_perplexity is None
    assert found.as_dict() == plain.as_dict() | {"cache_perplexity": found.cache_perplexity}


def test_a_text_that_repeats_itself_is_remembered(tmp_path: Path) -> None:
    _, model = example()
    text = tmp_path / "text.txt"
    text.write_text("the gate opens and closes\n" * 20)
    found = evaluate(model, [text], cache=CacheOptions())
    assert found.cache_perplexity is not None
    assert found.cache_perplexity < 0.9 * found.perplexity


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"window": 0}, "--cache-window: must be at least 1, got 0"),
        ({"theta": -1.0}, "--cache-theta: must be at least 0, got -1.0"),
        ({"theta": float("nan")}, "--cache-theta: must be at least 0, got nan"),
        ({"share": 1.0}, "--cache-lambda: must be at least 0 and below 1, got 1.0"),
    ],
)
def test_options_out_of_bounds_are_one_line(options: dict[str, Any], line: str) -> None:
    with pytest.raises(GlassgateError) as caught:
        CacheOptions(**options)
    assert str(caught.value) == line
