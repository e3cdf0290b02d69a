"""Where an adaptive softmax is cut: the model of its cost, and that the least of it is found."""

from itertools import combinations, pairwise
from typing import Any

import numpy as np
import pytest

from glassgate import GlassgateError
from glassgate.layers import AdaptiveSoftmax, cutoffs
from glassgate.layers.cutoffs import choose_cutoffs, rows_per_word


def cost(counts: Any, cuts: tuple[int, ...], width: int, rows: int) -> float:
    """The stated cost, of every word by itself."""
    bounds, total = [*cuts, len(counts)], 0.0
    for word, count in enumerate(counts):
        inside = next((end - start for start, end in pairwise(bounds) if start <= word < end), 0)
        total += count / sum(counts) * (cuts[0] + len(cuts) + inside)
    assert total == pytest.approx(rows_per_word(counts, cuts), rel=1e-12)
    return rows * width * 3 * total + 9_000_000 * len(cuts)


@pytest.mark.parametrize("width", [1, 10_000, 100_000])
@pytest.mark.parametrize("seed", range(4))
def test_it_is_the_least_of_all(monkeypatch: pytest.MonkeyPatch, width: int, seed: int) -> None:
    """By trying all of them, where every place is considered: up to 25 neighbouring ones are."""
    monkeypatch.setattr(cutoffs, "LEAST_HEAD", 2)
    generator = np.random.default_rng(seed)
    counts = np.sort(generator.integers(0, 1_000, 11))[::-1] ** 2
    rows = 5_000
    every = [c for n in range(1, 10) for c in combinations(range(2, 11), n)]
    least = min(cost(counts, cuts, width, rows) for cuts in every)
    chosen = choose_cutoffs(counts, width, rows)
    assert cost(counts, chosen, width, rows) == pytest.approx(least, rel=1e-12)
    assert (len(chosen) == 1) if width == 1 else (len(chosen) > 1)


@pytest.mark.parametrize("words", [2, 3, 4, 999, 1_000, 33_278, 1_000_000])
@pytest.mark.parametrize("law", ["zipf", "flat", "one word"])
def test_what_is_chosen_can_be_built(words: int, law: str) -> None:
    counts = np.ones(words) if law == "flat" else 1 / np.arange(1, words + 1)
    if law == "one word":
        counts[1:] = 0
    chosen = choose_cutoffs(counts, 256, 2_800)
    assert chosen[0] >= min(500, words // 2)
    assert len(chosen) <= (10 if words < 1_000_000 else 61)
    if words == 1_000_000 and law == "zipf":
        # With ten clusters 3 % of all rows are in a product for each word: what makes a million words slow.
        assert rows_per_word(counts, chosen) < 6_000
    if words < 1_000_000:
        assert AdaptiveSoftmax(1, words, chosen).bounds == [0, *chosen, words]


def test_bad_counts_are_one_line() -> None:
    with pytest.raises(
        GlassgateError, match=r"^cutoffs: an adaptive softmax needs at least two words, got 1$"
    ):
        choose_cutoffs([3], 8, 8)
    for counts in ([], [0, 0], [1, -1], [1.0, float("nan")], [[1, 2]]):
        with pytest.raises(
            GlassgateError, match=r"^cutoffs: counts must be numbers from 0 up, not all 0, one"
        ):
            choose_cutoffs(counts, 8, 8)
