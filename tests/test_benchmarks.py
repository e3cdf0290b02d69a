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
