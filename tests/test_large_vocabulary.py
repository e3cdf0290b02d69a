"""What a vocabulary of a million words must not do, at a size that a test can hold."""

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from glassgate.folder.config import ModelConfig
from glassgate.folder.vocabulary import Vocabulary
from glassgate.language import held_out
from glassgate.language.model import NextWordModel
from glassgate.layers import fused, track
from glassgate.layers.cutoffs import choose_cutoffs

WORDS = 20_000
CUTOFFS = (100, 2_000, 6_000)  # the last cluster is by far the largest


def network(cutoffs: tuple[int, ...] = CUTOFFS) -> NextWordModel:
    torch.manual_seed(1)
    config = ModelConfig(
        cell="lstm",
        vocabulary=WORDS,
        embedding=4,
        hidden=8,
        output="adaptive" if cutoffs else "full",
        cutoffs=cutoffs,
    )
    return NextWordModel(config)


@pytest.mark.parametrize("cutoffs", [(), CUTOFFS])
def test_a_validation_holds_few_logits(monkeypatch: pytest.MonkeyPatch, cutoffs: tuple[int, ...]) -> None:
    """Also of rare words alone, each of which takes part in the softmax over the largest cluster."""
    model = network(cutoffs).eval()
    tokens = np.random.default_rng(0).integers(CUTOFFS[-1], WORDS, 101).astype(np.uint16)
    expected = held_out.perplexity(model, tokens, 0, 2)
    monkeypatch.setattr(held_out, "LOGITS", 6 * WORDS)
    widest = max(b - a for a, b in pairwise((0, *cutoffs, WORDS)))
    held = []
    loss = model.loss
    monkeypatch.setattr(
        model, "loss", lambda words, *rest: held.append(words.numel() * widest) or loss(words, *rest)
    )
    # Two ways to cut one sum: some 100 roundings of float32 logs, each below 1e-6 of about ln 20,000.
    assert held_out.perplexity(model, tokens, 0, 2) == pytest.approx(expected, rel=1e-5)
    assert len(held) > 101 / 2 / 6
    assert max(held) <= 6 * WORDS


def test_a_step_holds_few_logits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the largest cluster too the logits of a few rows stand in memory, whatever the batch."""
    model = network()
    model.output.layout = model.output.layout._replace(chunk=2 * WORDS)
    track(model.embedding.weight)
    sizes: list[int] = []
    native = fused._native.softmax_loss

    def watched(twice: bool, rows: int, entries: int, *rest: Any) -> None:
        sizes.append(rows * entries)
        native(twice, rows, entries, *rest)

    monkeypatch.setattr(fused, "_native", type("N", (), {"softmax_loss": staticmethod(watched)}))
    words = torch.randint(CUTOFFS[-1], WORDS, (9, 10))
    loss, _, _ = model.training_loss(words[:-1], words[1:], model.initial_state(10))
    loss.backward()  # type: ignore[no-untyped-call]
    assert max(sizes) <= 2 * WORDS
    assert sum(sizes) >= 80 * (WORDS - CUTOFFS[-1])


def test_cutoffs_of_a_million_words_are_found() -> None:
    cutoffs = choose_cutoffs(1e9 / np.arange(1, 1_000_001), 256, 1400)
    assert list(cutoffs) == sorted(set(cutoffs))
    assert 0 < cutoffs[0] < cutoffs[-1] < 1_000_000


def test_many_words_come_back_from_disk(tmp_path: Path) -> None:
    words = {f"w{n:x}": 1 + n % 7 for n in range(200_000)}
    vocabulary = Vocabulary.from_counts(words, tokens="spaces")
    vocabulary.save(tmp_path / "tokenizer.json")
    again = Vocabulary.load(tmp_path / "tokenizer.json")
    assert again.words == vocabulary.words
    text = " ".join(list(words)[::-1])
    assert again.encode([text]) == vocabulary.encode([text])
