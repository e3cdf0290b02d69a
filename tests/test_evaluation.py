"""Perplexity, recall and keystroke savings against their definitions, computed the slow way."""

import json
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from by_hand import drawn_weights, model_in_float64, probabilities, runtime_model
from glassgate import GlassgateError
from glassgate.folder.config import ModelConfig
from glassgate.folder.vocabulary import EOS, UNK, Vocabulary
from glassgate.language import evaluation, held_out
from glassgate.language.evaluation import Evaluation, evaluate
from glassgate.language.held_out import perplexity
from glassgate.language.keyboard import Keyboard, Keys, Latency, Percentiles
from glassgate.runtime.prefixes import Prefixes

TEXT = """the gate opens and the gate closes
the baker opens the door

a door <unk> the baker <eos> closes
and the stranger opens
"""
WORDS = "the gate opens and closes baker door a"


class Table:
    """A model whose y depends on the word before alone: a table of log y, [words, words]."""

    def __init__(self, logs: Any, vocabulary: Vocabulary, eos: str) -> None:
        self.vocabulary, self.prefixes = vocabulary, Prefixes(vocabulary)
        self.config = SimpleNamespace(eos=eos)
        self.network = SimpleNamespace(
            initial_state=lambda sequences: (),
            run=lambda words, state: words[:, :, None],
            output=SimpleNamespace(log_probabilities=lambda h: logs[h[:, 0]].copy()),
        )


def tokens_of(text: str, vocabulary: Vocabulary, eos: str) -> list[tuple[int, str]]:
    """Return each token's number and spelling, in the simplest way."""
    numbers = {word: number for number, word in enumerate(vocabulary.words)}
    found = []
    for line in text.splitlines():
        found += [(numbers.get(word, vocabulary.unk), word) for word in line.split()]
        if eos == "line":
            found.append((numbers[EOS], EOS))
    return found  # type: ignore[return-value]


def suggestions(y: Any, allowed: list[int], count: int) -> list[int]:
    return sorted(allowed, key=lambda n: (-y[n], n))[:count]


def by_definition(
    logs: Any, vocabulary: Vocabulary, text: str, eos: str, shown: int
) -> tuple[Evaluation, list[Keys]]:
    """Evaluate a table of log y: straight from the docstrings of `Evaluation`, `evaluate` and `Keyboard`."""
    tokens = tokens_of(text, vocabulary, eos)
    if vocabulary.eos is not None:
        tokens = [(vocabulary.eos, EOS), *tokens]
    nll, unknown, keys, letter_by_letter, words = 0.0, 0, 0, 0, 0
    hits = {1: 0, 3: 0, 10: 0}
    typed_keys = [] if vocabulary.eos is not None else [Keys(tokens[0][0], "")]
    for (before, _), (target, spelling) in pairwise(tokens):
        y = logs[before]
        nll -= float(y[target])
        unknown += target == vocabulary.unk
        known = [n for n in range(len(vocabulary)) if n != vocabulary.unk]
        for k in hits:
            hits[k] += target in suggestions(y, known, k)
        if spelling in (UNK, EOS):
            typed_keys.append(Keys(target, ""))
            continue
        words += 1
        letter_by_letter += len(spelling) + 1
        pressed = len(spelling) + 1
        if target != vocabulary.unk:
            for typed in range(len(spelling) + 1):
                fitting = [
                    n
                    for n in known
                    if n != vocabulary.eos and vocabulary.words[n].startswith(spelling[:typed])
                ]
                if target in suggestions(y, fitting, shown):
                    pressed = typed + 1
                    break
        keys += min(pressed, len(spelling) + 1)
        typed_keys.append(Keys(target, spelling[: pressed - 1]))
    count = len(tokens) - 1
    found = Evaluation(
        perplexity=float(np.exp(nll / count)),
        tokens=count,
        unk_rate=unknown / count,
        recall={k: hit / count for k, hit in hits.items()},
        recall_in_vocabulary={k: hit / max(count - unknown, 1) for k, hit in hits.items()},
        keystroke_savings=1 - keys / max(letter_by_letter, 1),
        keystroke_ceiling=1 - words / max(letter_by_letter, 1),
        suggestions=shown,
    )
    return found, typed_keys


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("texts") / "text.txt"


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_every_figure_is_its_definition(scratch: Path, data: st.DataObject) -> None:
    """On drawn vocabularies and tables, with ties, unknown words, <unk> and <eos> in the text."""
    spellings = st.text("ab", min_size=1, max_size=4)
    words = data.draw(st.lists(spellings, min_size=1, max_size=14, unique=True))
    eos = data.draw(st.sampled_from(["line", "none"]))
    vocabulary = Vocabulary.build([" ".join(words)], tokens="spaces", eos=eos == "line")
    size = len(vocabulary)
    # Few levels, so that words tie often.
    levels = data.draw(st.lists(st.integers(0, 3), min_size=size * size, max_size=size * size))
    logits = np.array(levels, np.float32).reshape(size, size)
    logs = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    word = st.one_of(st.sampled_from(words), spellings, st.sampled_from([UNK, EOS, "zebra"]))
    lines = data.draw(st.lists(st.lists(word, max_size=6), min_size=1, max_size=5))
    text = "\n".join(map(" ".join, lines)) + "\n"
    if len(tokens_of(text, vocabulary, eos)) + (eos == "line") < 2:
        text = f"{words[0]} {text}{words[0]}\n"
    scratch.write_text(text)
    block, shown = data.draw(st.sampled_from([1, 2, 5, 256])), data.draw(st.integers(1, 4))
    kept = data.draw(st.sampled_from([0, 3, 100]))
    table = Table(logs, vocabulary, eos)
    keyboard = Keyboard(vocabulary, table.prefixes, shown, kept)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(evaluation, "BLOCK", block)
        found = evaluate(table, [scratch], keyboard=keyboard)  # type: ignore[arg-type]
    expected, keys = by_definition(logs, vocabulary, text, eos, shown)
    # Sums of at most 40 float32 numbers in float64, in another order: 40 eps of the sum.
    assert found.perplexity == pytest.approx(expected.perplexity, rel=1e-12)
    for name in ("tokens", "unk_rate", "recall", "recall_in_vocabulary", "suggestions"):
        assert getattr(found, name) == getattr(expected, name), name
    assert found.keystroke_savings == expected.keystroke_savings
    assert found.keystroke_ceiling == expected.keystroke_ceiling
    assert keyboard.kept == keys[:kept]


def test_of_equally_probable_words_only_three_are_shown(tmp_path: Path) -> None:
    """A model without an opinion saves what the fixed order of its vocabulary saves, no more."""
    vocabulary = Vocabulary.build(["a a a a ab ab ab abc abc abcd"], tokens="spaces", eos=False)
    assert vocabulary.words == [UNK, "a", "ab", "abc", "abcd"]
    text = tmp_path / "text.txt"
    text.write_text("a abcd\n")
    logs = np.full((5, 5), -np.log(5), np.float32)
    found = evaluate(Table(logs, vocabulary, "none"), [text])  # type: ignore[arg-type]
    # abcd is the fourth of all, of those with a, with ab not: ab, abc, abcd. Three keys instead of five.
    assert found.keystroke_savings == 1 - 3 / 5
    assert found.recall == {1: 0.0, 3: 0.0, 10: 1.0}


def example(cell: str, output: str = "full", eos: bool = True) -> tuple[Any, dict[str, Any], Vocabulary]:
    vocabulary = Vocabulary.build([WORDS], tokens="spaces", eos=eos)
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
    return config, drawn_weights(config, 4), vocabulary


@pytest.mark.parametrize("cell", ["lstm", "gru"])
@pytest.mark.parametrize("output", ["full", "adaptive"])
@pytest.mark.parametrize("eos", [True, False])
def test_perplexity_by_the_equations_over_one_stream(
    tmp_path: Path, cell: str, output: str, eos: bool
) -> None:
    """exp(NLL / tokens), the state carried from the first word to the last, every token counted."""
    config, weights, vocabulary = example(cell, output, eos)
    text = tmp_path / "text.txt"
    text.write_text(TEXT)
    numbers = np.array([n for n, _ in tokens_of(TEXT, vocabulary, config.eos)])
    whole = np.concatenate([[vocabulary.eos], numbers]) if eos else numbers
    y = probabilities(config, weights, whole[:-1, None])[:, 0]
    count = len(whole) - 1
    expected = float(np.exp(-np.log(y[np.arange(count), whole[1:]]).sum() / count))
    found = evaluate(runtime_model(config, weights, vocabulary), [text])
    # The tolerance of test_model.py, of a mean.
    assert found.perplexity == pytest.approx(expected, rel=1e-12)
    assert found.tokens == count == (28 if eos else 22)
    assert found.unk_rate == (whole[1:] == vocabulary.unk).sum() / count
    assert found.unk_rate > 0
    alone = perplexity(model_in_float64(config, weights), numbers.astype(np.uint16), vocabulary.eos)
    assert alone == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("streams", [2, 3, 7, 18])
@pytest.mark.parametrize("length", [18, 19, 20])
def test_more_streams_count_every_token_once(streams: int, length: int) -> None:
    """By hand: pieces of equal length, each from the initial state, the last as short as it comes."""
    config, weights, vocabulary = example("lstm")
    numbers = np.random.default_rng(5).integers(len(vocabulary), size=length)
    whole = np.concatenate([[vocabulary.eos], numbers])
    piece, nll = -(-length // streams), 0.0
    for start in range(0, length, piece):
        words = whole[start : start + piece + 1]
        y = probabilities(config, weights, words[:-1, None])[:, 0]
        nll -= np.log(y[np.arange(len(words) - 1), words[1:]]).sum()
    found = perplexity(model_in_float64(config, weights), numbers.astype(np.uint16), vocabulary.eos, streams)
    assert found == pytest.approx(float(np.exp(nll / length)), rel=1e-12)


@pytest.mark.parametrize("block", [1, 3, 28, 29])
def test_blocks_change_nothing_but_rounding(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block: int
) -> None:
    config, weights, vocabulary = example("gru")
    model, in_torch = runtime_model(config, weights, vocabulary), model_in_float64(config, weights)
    text = tmp_path / "text.txt"
    text.write_text(TEXT)
    numbers = np.array([n for n, _ in tokens_of(TEXT, vocabulary, "line")], np.uint16)
    reports: list[tuple[int, float]] = []
    whole, by_tokens = evaluate(model, [text]), perplexity(in_torch, numbers, vocabulary.eos, 2)
    monkeypatch.setattr(evaluation, "BLOCK", block)
    monkeypatch.setattr(held_out, "BLOCK", block)
    cut = evaluate(model, [text], lambda count, value: reports.append((count, value)))
    # Products over other numbers of rows may be summed in another order; as above.
    assert cut.perplexity == pytest.approx(whole.perplexity, rel=1e-12)
    assert perplexity(in_torch, numbers, vocabulary.eos, 2) == pytest.approx(by_tokens, rel=1e-12)
    for name in ("tokens", "unk_rate", "recall", "recall_in_vocabulary", "keystroke_savings"):
        assert getattr(cut, name) == getattr(whole, name), name
    assert [count for count, _ in reports] == [*range(block, 28, block), 28]
    assert reports[-1][1] == cut.perplexity


def test_several_files_are_one_stream(tmp_path: Path) -> None:
    config, weights, vocabulary = example("lstm")
    model = runtime_model(config, weights, vocabulary)
    lines = TEXT.splitlines(keepends=True)
    paths = [tmp_path / name for name in ("whole", "first", "second")]
    for path, part in zip(paths, (lines, lines[:2], lines[2:]), strict=True):
        path.write_text("".join(part))
    assert evaluate(model, paths[1:]) == evaluate(model, paths[:1])
    assert evaluate(model, paths[:0:-1]) != evaluate(model, paths[:1])


def test_json_has_the_keys_that_are_promised() -> None:
    figures = Evaluation(9.5, 24, 0.125, {1: 0.1, 3: 0.3, 10: 0.5}, {1: 0.2, 3: 0.4, 10: 0.6}, 0.25, 0.75)
    assert json.loads(json.dumps(figures.as_dict())) == {
        "perplexity": 9.5,
        "tokens": 24,
        "unk_rate": 0.125,
        "recall@1": 0.1,
        "recall@3": 0.3,
        "recall@10": 0.5,
        "keystroke_savings": 0.25,
        "recall@1_in_vocabulary": 0.2,
        "recall@3_in_vocabulary": 0.4,
        "recall@10_in_vocabulary": 0.6,
        "keystroke_savings_ceiling": 0.75,
        "suggestions": 3,
    }
    latency = Latency(Percentiles(2, 1.5, 2.5, 2.5), Percentiles(0, 0.0, 0.0, 0.0))
    assert json.loads(json.dumps(replace(figures, latency=latency).as_dict()))["latency_ms"] == {
        "word": {"keys": 2, "p50": 1.5, "p95": 2.5, "p99": 2.5},
        "letter": {"keys": 0, "p50": 0.0, "p95": 0.0, "p99": 0.0},
    }


def test_nothing_to_predict_is_one_line(tmp_path: Path) -> None:
    config, weights, vocabulary = example("lstm", eos=False)
    text = tmp_path / "text.txt"
    text.write_text("gate\n")
    with pytest.raises(GlassgateError, match=r"^the text: has no word to predict: expected a longer text$"):
        evaluate(runtime_model(config, weights, vocabulary), [text])


@pytest.mark.parametrize("factor", [1e5, 1e300])
def test_a_perplexity_beyond_all_numbers_is_one_line(tmp_path: Path, factor: float) -> None:
    """exp overflows above 709 nats a word; weights larger still give no number at all."""
    config, weights, vocabulary = example("lstm")
    weights["output.bias"] *= factor
    text = tmp_path / "text.txt"
    text.write_text(TEXT)
    with pytest.raises(GlassgateError, match=r"^the model: its perplexity is no finite number"):
        evaluate(runtime_model(config, weights, vocabulary), [text])
    assert perplexity(model_in_float64(config, weights), np.array([3, 4, 5], np.uint16), 1) == np.inf


def test_a_closed_vocabulary_meets_a_word_that_it_does_not_know(tmp_path: Path) -> None:
    vocabulary = Vocabulary.build([WORDS], tokens="spaces", eos=False, closed=True)
    config = ModelConfig(cell="lstm", vocabulary=len(vocabulary), embedding=3, hidden=3, eos="none")
    model = runtime_model(config, drawn_weights(config, 0), vocabulary)
    text = tmp_path / "text.txt"
    text.write_text("the gate opens\n")
    assert evaluate(model, [text]).unk_rate == 0
    text.write_text("the stranger opens\n")
    with pytest.raises(GlassgateError, match=r"'stranger' is not in the closed vocabulary$"):
        evaluate(model, [text])
