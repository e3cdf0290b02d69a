"""The embedding a training begins with: factors of the mutual information of words and their neighbours."""

from dataclasses import replace
from io import StringIO
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from rich.console import Console

from glassgate.language import spectral
from glassgate.language.options import TrainOptions
from glassgate.language.spectral import spectral_embedding
from glassgate.language.trainer import Trainer
from glassgate.layers import AdaptiveEmbedding
from test_options import corpus

WORDS = 30
Table = npt.NDArray[np.float64]


def text(length: int, seed: int = 1) -> npt.NDArray[np.uint16]:
    """Return words of falling frequency, of which each even one likes to stand before the next odd one."""
    generator = np.random.default_rng(seed)
    tokens = np.minimum(generator.geometric(0.12, length) - 1, WORDS - 1)
    follows = generator.random(length - 1) < 0.5
    tokens[1:][follows] = tokens[:-1][follows] | 1
    return np.minimum(tokens, WORDS - 1).astype(np.uint16)


def information(blocks: list[npt.NDArray[np.uint16]], rows: int = WORDS, neighbours: int = WORDS) -> Table:
    """Count word by word, and take the logs, as the docstring says; of the most frequent words alone."""
    counts = np.zeros((WORDS, 4, WORDS))
    for block in blocks:
        for place, offset in enumerate((-2, -1, 1, 2)):
            for at in range(len(block)):
                if 0 <= at + offset < len(block):
                    counts[block[at], place, block[at + offset]] += 1
    table = counts[:rows, :, :neighbours].reshape(rows, -1)
    shares = table.sum(0) ** 0.75
    with np.errstate(divide="ignore"):
        M: Table = np.maximum(np.log(table / table.sum(1, keepdims=True) / (shares / shares.sum())), 0)
    return M


def gram(M: Table, width: int) -> Table:
    """Return E E^T = U S U^T of the largest values, which no signs change, E at a size of 0.12."""
    U, S, _ = np.linalg.svd(M)
    E = U[:, :width] * np.sqrt(S[:width])
    product: Table = 0.12**2 * E @ E.T / np.square(E).mean()
    return product


def check(found: torch.Tensor | None, M: Table, width: int) -> None:
    assert found is not None
    E = found.double().numpy()
    assert E.shape == (len(M), width)
    # The iteration spans all of M's at most 30 dimensions, so that float32 alone is between the two: some
    # ten products of up to 120 terms, and vectors of condition S_1 / (S_7 - S_8), below 100 here:
    # 1e3 sqrt(120) 6e-8, times the largest |row|^2, at most 7 x 30 x 0.12^2.
    np.testing.assert_allclose(E @ E.T, gram(M, width), rtol=0, atol=6.6e-4 * 0.12**2 * width * WORDS)


def test_the_rows_are_the_factors_of_the_mutual_information() -> None:
    tokens = text(6_000)
    check(spectral_embedding(tokens, WORDS, 7, seed=1), information([tokens]), 7)


def test_of_a_long_text_evenly_spread_blocks_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spectral, "MOST_TOKENS", 4_000)
    monkeypatch.setattr(spectral, "BLOCKS", 4)
    tokens = text(10_000)
    blocks = [tokens[start : start + 1_000] for start in (0, 3_000, 6_000, 9_000)]
    check(spectral_embedding(tokens, WORDS, 7, seed=1), information(blocks), 7)


def test_rare_words_of_a_large_vocabulary_get_no_row(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spectral, "MOST_ROWS", 20)
    monkeypatch.setattr(spectral, "NEIGHBOURS", 10)
    tokens = text(6_000)
    check(spectral_embedding(tokens, WORDS, 5, seed=1), information([tokens], rows=20, neighbours=10), 5)


def test_the_same_seed_gives_the_same_bits() -> None:
    first, second = (spectral_embedding(text(3_000), WORDS, 5, seed=2) for _ in range(2))
    assert first is not None
    assert second is not None
    assert torch.equal(first, second)


@pytest.mark.parametrize(
    ("tokens", "width"), [(text(3_000), 8), (text(2)[:1], 3), (np.zeros(99, np.uint16), 3)]
)
def test_what_tells_too_little_gives_none(tokens: npt.NDArray[np.uint16], width: int) -> None:
    assert spectral_embedding(tokens, WORDS, width, seed=1) is None


def test_an_adaptive_embedding_begins_as_close_to_it_as_it_can(tmp_path: Path) -> None:
    made = replace(corpus(2_000), train=text(2_000))
    options = TrainOptions(
        hidden=8, embedding=4, spectral=True, output="adaptive", embedding_cutoffs=(5,), threads=1
    )
    trainer = Trainer(tmp_path, options, made, Console(file=StringIO()))
    rows = spectral_embedding(made.train, len(made.vocabulary), 4, options.seed)
    assert rows is not None
    begun = trainer.model.embedding
    assert isinstance(begun, AdaptiveEmbedding)
    found = begun.matrix().detach()
    assert torch.equal(found[:5], rows[:5])
    # One number for each word is left of four: the largest singular value.
    lost = torch.linalg.svdvals(rows[5:].double())[1:].square().sum().sqrt()
    assert float(lost) > 0.01
    # The axis is found in float32, a few eps off; what is lost is least there, so it shows in the square of
    # that. The rows themselves are rounded, by eps of numbers of the size of what is lost.
    torch.testing.assert_close((found - rows)[5:].double().norm(), lost, rtol=1e-5, atol=0)


@pytest.mark.parametrize("wanted", [True, False])
def test_a_training_begins_with_it(tmp_path: Path, wanted: bool) -> None:
    made = replace(corpus(2_000), train=text(2_000))
    options = TrainOptions(hidden=8, embedding=1, spectral=wanted, threads=1)
    trainer = Trainer(tmp_path, options, made, Console(file=StringIO()))
    weight = trainer.model.embedding.weight.detach()
    rows = spectral_embedding(made.train, len(weight), 1, options.seed)
    assert rows is not None
    assert torch.equal(weight, rows) is wanted
    assert trainer.progress.seconds > 0  # what it took is of the budget
