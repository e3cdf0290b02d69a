"""What the benchmarks of training compare: one network, whatever the recipes say, and whole texts."""

import gzip
import importlib.util
import sys
from dataclasses import asdict
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from glassgate.folder.vocabulary import Vocabulary
from glassgate.language import options, recipes
from glassgate.language.corpus import Corpus
from glassgate.language.recipes import Recipe


def script(name: str) -> ModuleType:
    path = Path(__file__).parents[1] / "benchmarks" / f"{name}.py"
    if str(path.parent) not in sys.path:  # as when it is run
        sys.path.append(str(path.parent))
    spec = importlib.util.spec_from_file_location(f"benchmarks_{name}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def corpus() -> Corpus:
    vocabulary = Vocabulary.build([" ".join(f"w{n}" for n in range(60))], tokens="spaces")
    tokens = np.random.default_rng(1).integers(len(vocabulary), size=20 * 35 * 8 + 1).astype(np.uint16)
    return Corpus(vocabulary, "line", tokens, tokens[:500], None, "drawn")


OTHER = Recipe(
    cell="gru",
    reset="after",
    hidden=300,
    layers=3,
    embedding=20,
    dropout=0.7,
    weight_decay=3.0,
    weight_drop=0.5,
    activation_penalty=1.0,
    slowness_penalty=1.0,
    average=0.5,
    random_unroll=True,
    spectral=True,
)


def test_no_recipe_has_a_say_in_what_is_compared(
    corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    language = script("language")
    plan = language.our_trainer(corpus, tmp_path, "full").plan
    config = plan.config
    assert language.our_trainer(corpus, tmp_path, "full, bf16").plan.precision == "bf16"
    assert (config.cell, config.hidden, config.embedding, config.layers) == ("lstm", 200, 200, 2)
    assert (config.tied, config.dropout, plan.batch, plan.unroll) == (False, 0.2, 20, 35)
    assert (plan.spectral, plan.average, plan.precision) == (False, 0.0, "fp32")
    monkeypatch.setattr(options, "RECIPES", {"quick": OTHER, "quality": OTHER})
    monkeypatch.setattr(recipes, "isa", lambda: "amx")
    again = asdict(language.our_trainer(corpus, tmp_path, "full").plan)
    # A form that an LSTM has not.
    assert again | {"config": again["config"] | {"reset": config.reset}} == asdict(plan)


def test_the_seconds_to_the_peers_perplexity(
    corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a peer that ends at 100, and ours that falls by 10 a look: from 130 to below it at the fourth."""
    language = script("language")
    values = iter([100.0, *(130.0 - 10 * look for look in range(8)), *([101.0] * 8)])
    monkeypatch.setattr(language, "perplexity", lambda *_: next(values))
    now = iter(range(10_000))  # each look at the clock is a second after the last: a piece takes one
    monkeypatch.setattr(language.time, "perf_counter", lambda: float(next(now)))
    monkeypatch.setattr(language, "kinds", lambda: language.KINDS)
    monkeypatch.setattr(language, "loop", quick_loop(language))
    found = language.compare(tmp_path, corpus, 20 * 35 * 8)
    assert found["words read"] == "5,600"
    assert (found["peer, perplexity after them"], found["peer, seconds for them"]) == (100.0, 1.0)
    assert (found["full, perplexity after them"], found["full, seconds for them"]) == (60.0, 8.0)
    assert found["full, seconds to the peer's"] == 4.0
    assert (found["adaptive, perplexity after them"], found["adaptive, seconds to the peer's"]) == (
        101.0,
        "never",
    )
    assert next(values, None) is None  # eight steps are eight looks, not twenty


@pytest.mark.parametrize("kind", ["peer", "full", "adaptive"])
def test_the_parts_of_a_step_are_the_step(
    kind: str, corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a clock that goes on by one at each look: each part has what passed since the mark before."""
    language = script("language")
    parts = language.Parts()
    _, step = language.loop(kind, corpus, tmp_path, parts)
    looks = iter(range(1, 10_000))
    now = 0.0

    def tick() -> float:
        nonlocal now
        now = float(next(looks))
        return now

    monkeypatch.setattr(sys.modules["language_peer"].time, "perf_counter", tick)
    parts.last = tick()
    begun = now
    step()
    assert set(parts.seconds) == {"data", "embedding", "recurrence", "output", "optimiser"}
    assert min(parts.seconds.values()) >= 1
    assert sum(parts.seconds.values()) == parts.last - begun


def test_the_same_weights_give_the_same_loss_and_others_do_not(corpus: Corpus, tmp_path: Path) -> None:
    language = script("language")
    peer = language.new_peer(len(corpus.vocabulary))
    ours = language.our_trainer(corpus, tmp_path, "full")
    before = ours.model.arrays()
    # A loss of about log 60 = 4.1, a mean of 700 of them in float32 on either side.
    assert language.check_same_loss(peer, ours, corpus.train) < 1e-5
    for name, values in ours.model.arrays().items():
        np.testing.assert_array_equal(values, before[name])
    arrays = peer.arrays()
    name, values = next(iter(arrays.items()))
    peer.arrays = lambda: {**arrays, name: values + 0.1 * np.arange(values.shape[-1], dtype=np.float32)}
    assert language.check_same_loss(peer, ours, corpus.train) > 1e-3


def test_figures_are_held_to_their_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    language = script("language")
    monkeypatch.setattr(language, "kinds", lambda: (*language.KINDS, "full, bf16"))
    measured = {
        "full, ratio to peer": 2.4, "adaptive, ratio to peer": 8.0, "full, bf16, ratio to peer": 2.5,
        "peer, peak memory, MB": 300.0, "full, peak memory, MB": 100.0, "full, bf16, peak memory, MB": 101.0,
        "peer, perplexity after them": 200.0, "adaptive, perplexity after them": 206.1,
    }  # fmt: skip
    assert language.bounds(measured, epoch=True) == {
        "bound: words/s, full": "at least 2.50, got 2.40: NOT MET",
        "bound: memory of a step, full": "at most 0.33, got 0.33: met",
        "bound: words/s, adaptive": "at least 8.00, got 8.00: met",
        "bound: perplexity, adaptive": "at most 1.03, got 1.03: NOT MET",
        "bound: words/s, full, bf16": "at least 2.50, got 2.50: met",
        "bound: memory of a step, full, bf16": "at most 0.33, got 0.34: NOT MET",
    }
    assert not any("perplexity" in name for name in language.bounds(measured, epoch=False))


def quick_loop(language: Any) -> Any:
    """Return a ``loop`` whose steps do nothing."""
    whole = language.loop
    return lambda *given, **further: (whole(*given, **further)[0], lambda: None)


@pytest.mark.parametrize("ended", [True, False])
@pytest.mark.parametrize("packed", [True, False])
def test_a_text_is_repeated_up_to_its_size(tmp_path: Path, ended: bool, packed: bool) -> None:
    scale = script("scale")
    body = " ".join(f"wörd{n}" for n in range(150)) + "\nanother line" + "\n" * ended
    text, large = tmp_path / "text", tmp_path / "large"
    text.write_bytes(gzip.compress(body.encode()) if packed else body.encode())
    scale.enlarge(text, large, 20_000)
    made = large.read_bytes().decode()
    assert 20_000 - 20 < len(made.encode()) <= 20_000  # less than a word is missing
    assert made.startswith(body.rstrip("\n") + "\nwörd0")
    words = body.split()
    numbered = 0
    for place, word in enumerate(made.split()):
        plain = words[place % len(words)]
        assert word == plain or (word.startswith(plain) and word.removeprefix(plain).isdigit()), word
        numbered += word != plain
    repeats = len(made.split()) // len(words)
    assert 0 < numbered <= repeats  # one in a hundred of 152, from the second time on
    scale.enlarge(text, large, 20_000, suffixes=2)
    found = set(large.read_text(encoding="utf-8").split()) - set(words)
    assert {word[-1] for word in found} == {"0", "1"}


def test_a_text_longer_than_its_size_is_cut(tmp_path: Path) -> None:
    scale = script("scale")
    (tmp_path / "text").write_text("one two three\nfour")
    scale.enlarge(tmp_path / "text", tmp_path / "large", 10)
    assert (tmp_path / "large").read_text() == "one two "
