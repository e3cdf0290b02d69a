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


@pytest.fixture
def sizes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return a list of how many logits were held at once, each time."""
    found: list[int] = []
    native = fused._native.softmax_loss

    def watched(twice: bool, rows: int, entries: int, *rest: Any) -> None:
        found.append(rows * entries)
        native(twice, rows, entries, *rest)

    monkeypatch.setattr(fused, "_native", type("N", (), {"softmax_loss": staticmethod(watched)}))
    return found


@pytest.mark.parametrize("cutoffs", [(), CUTOFFS])
def test_a_validation_holds_few_logits(sizes: list[int], cutoffs: tuple[int, ...]) -> None:
    """Also of rare words alone, each of which takes part in the softmax over the largest cluster."""
    model = network(cutoffs).eval()
    tokens = np.random.default_rng(0).integers(CUTOFFS[-1], WORDS, 101).astype(np.uint16)
    expected = 0.0
    state = model.initial_state(1)
    with torch.no_grad():
        for word, following in pairwise([0, *tokens.tolist()]):
            h, state = model(torch.tensor([[word]]), state)
            expected -= float(model.output.log_probabilities(h)[0, 0, following])
    sizes.clear()
    model.output.layout = model.output.layout._replace(chunk=2 * WORDS)
    # Sums of 101 float32 logs of about 10, each off by 1e-6 at most: so is their mean.
    assert held_out.perplexity(model, tokens, 0) == pytest.approx(np.exp(expected / 101), rel=1e-5)
    assert max(sizes) <= 2 * WORDS
    assert sum(sizes) >= 101 * (WORDS - CUTOFFS[-1])


def test_a_step_holds_few_logits(sizes: list[int]) -> None:
    """Of the largest cluster too the logits of a few rows stand in memory, whatever the batch."""
    model = network()
    model.output.layout = model.output.layout._replace(chunk=2 * WORDS)
    track(model.embedding.weight)
    words = torch.randint(CUTOFFS[-1], WORDS, (9, 10))
    loss, _, _ = model.training_loss(words[:-1], words[1:], model.initial_state(10))
    loss.backward()  # type: ignore[no-untyped-call]
    assert max(sizes) <= 2 * WORDS
    assert sum(sizes) >= 80 * (WORDS - CUTOFFS[-1])


def test_without_the_kernels_a_validation_runs_few_tokens_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    model = network(()).eval()
    tokens = np.random.default_rng(0).integers(0, WORDS, 101).astype(np.uint16)
    expected = held_out.perplexity(model, tokens, 0, 2)
    monkeypatch.setattr(held_out, "has_kernels", lambda device: False)
    monkeypatch.setattr(held_out, "LOGITS", 6 * WORDS)
    run: list[int] = []
    model.rnn.register_forward_hook(lambda module, given, result: run.append(given[0].shape[:2].numel()))
    assert held_out.perplexity(model, tokens, 0, 2) == pytest.approx(expected, rel=1e-6)
    assert max(run) <= 6
    assert sum(run) == 102


def test_many_words_come_back_from_disk(tmp_path: Path) -> None:
    words = {f"w{n:x}": 1 + n % 7 for n in range(200_000)}
    vocabulary = Vocabulary.from_counts(words, tokens="spaces")
    vocabulary.save(tmp_path / "tokenizer.json")
    again = Vocabulary.load(tmp_path / "tokenizer.json")
    assert again.words == vocabulary.words
    text = " ".join(list(words)[::-1])
    assert again.encode([text]) == vocabulary.encode([text])
