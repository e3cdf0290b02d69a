"""Axes along which half of a row's numbers say nearly all of a logit."""

from typing import Any

import numpy as np
import pytest

from glassgate.folder.compact import Stored
from glassgate.runtime import _rows
from glassgate.runtime.matrix import Matrix
from glassgate.runtime.turning import find_turn
from test_runtime_best import LAYOUT, ONE


@pytest.mark.parametrize("projected", [True, False])
def test_a_turn_shortens_rows_and_h_alike(projected: bool) -> None:
    """Beyond the first half of their numbers both are as short as the singular values of V P say."""
    generator = np.random.default_rng(4)
    lengths = 0.95 ** np.arange(80)
    V = generator.normal(size=(3_000, 80)) * lengths
    P = generator.normal(size=(80, 200)) * lengths[::-1, None] if projected else np.eye(80)
    turn = find_turn(Matrix(Stored(V.astype(np.float32))), P.astype(np.float32) if projected else None)
    assert turn is not None
    assert turn.kept == 40
    np.testing.assert_allclose(turn.T @ turn.inverse, np.eye(80), atol=1e-3)
    h = P @ generator.normal(size=(P.shape[1], 500))
    rows, turned = V @ turn.T, turn.inverse @ h
    np.testing.assert_allclose(rows @ turned, V @ h, atol=1e-3)
    singular = np.linalg.svd(V @ P, compute_uv=False)
    # Each side has the square roots of the singular values as its root mean squares, up to a scale; 500 drawn
    # h differ from their mean by a few in a hundred.
    scale = np.sqrt(len(V))
    assert (turned[40:] ** 2).sum(0).mean() * scale == pytest.approx(singular[40:].sum(), rel=0.1)
    assert (rows[:, 40:] ** 2).sum(1).mean() * scale == pytest.approx(singular[40:].sum(), rel=0.1)


@pytest.mark.parametrize(
    "V",
    [np.ones((100, 63)), np.ones((63, 64)), np.ones((100, 64)), np.full((100, 64), np.nan)],
    ids=["narrow", "few", "of one direction", "no numbers"],
)
def test_rows_without_a_turn(V: Any) -> None:
    assert find_turn(Matrix(Stored(V.astype(np.float32))), None) is None


@pytest.mark.parametrize(
    "changed",
    [{"piece": 2}, {"piece": -1}, {"kept": 0}, {"kept": 5}, {"T": ONE}, {"inverse": ONE}],
    ids=str,
)
def test_a_turn_of_another_size_is_refused(changed: dict[str, Any]) -> None:
    axes = np.eye(4, dtype=np.float32)
    call: dict[str, Any] = {"piece": 0, "kept": 2, "T": axes, "inverse": axes}
    output = _rows.Output(**LAYOUT)
    output.turn(**call)
    output.turn(**call)  # the first stays
    with pytest.raises(ValueError, match=r"needs|out of bounds"):
        output.turn(**call | changed)
