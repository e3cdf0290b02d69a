"""The notes' exercise as `glassgate demo` runs it."""

import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console

from by_hand import gates_over
from glassgate.folder.counting import count_folder
from glassgate.folder.model import WEIGHTS, read_folder
from glassgate.folder.weights import load_weights
from glassgate.language.exercise import sample_text, train_exercise
from glassgate.language.model import NextWordModel


@pytest.fixture(scope="module")
def exercise(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, float]:
    folder = tmp_path_factory.mktemp("exercise") / "model"
    outcome = train_exercise(folder, Console(quiet=True))
    assert outcome.finished
    return folder, outcome.figures["validation perplexity"]


def test_the_trained_folder_has_the_notes_weights(exercise: tuple[Path, float]) -> None:
    counted = count_folder(exercise[0])
    assert (counted.cell, counted.output, counted.total, counted.embedding) == (2400, 2000, 4400, 1000)


def test_it_learns_more_than_pairs_of_words(exercise: tuple[Path, float]) -> None:
    """On the held-out words it is clearly ahead of pair counts, smoothed as suits these words best."""
    words = sample_text().split()
    counted = list(pairwise(words[:900]))
    perplexities = []
    for k in (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0):  # added to each count of a pair
        logs = []
        for before, after in pairwise(words[899:]):
            follow = [b for a, b in counted if a == before]
            logs.append(np.log((follow.count(after) + k) / (len(follow) + 100 * k)))
        perplexities.append(np.exp(-np.mean(logs)))
    assert exercise[1] < 0.7 * min(perplexities)


def test_gates_by_the_equations_are_those_of_the_layer(exercise: tuple[Path, float]) -> None:
    """The drawn hidden states are what torch's layer computes.

    Both add 30 products of numbers below 10 in float32, in another order, over 25 steps of a
    contracting map: 30 x 10 x 6e-8 x 25, rounded up.
    """
    config, vocabulary = read_folder(exercise[0])
    weights = load_weights(exercise[0] / WEIGHTS, config.tensors())
    (numbers,) = vocabulary.encode([" ".join(sample_text().split()[:25])])
    (steps,) = gates_over(config, weights, numbers)
    model = NextWordModel(config).eval()
    model.load_arrays(weights)
    with torch.inference_mode():
        h, (last, cell) = model(torch.tensor(numbers).unsqueeze(1), model.initial_state(1))
    np.testing.assert_allclose(steps.h, h.squeeze(1).numpy(), atol=5e-4, rtol=0)
    np.testing.assert_allclose(steps._asdict()["C"][-1], cell.squeeze().numpy(), atol=5e-4, rtol=0)
    np.testing.assert_array_equal(h[-1].numpy(), last[0].numpy())


def test_gates_of_every_cell_and_layer(tmp_path: Path) -> None:
    """The same for a stack with biases, of both cells and both resets; tolerance as above, 2 layers."""
    from glassgate.folder.config import ModelConfig

    for cell, reset in (("lstm", "before"), ("gru", "before"), ("gru", "after")):
        config = ModelConfig(cell=cell, reset=reset, vocabulary=30, embedding=6, hidden=9, layers=2)  # type: ignore[arg-type]
        torch.manual_seed(4)
        model = NextWordModel(config).eval()
        numbers = [3, 1, 4, 1, 5, 9, 2, 6]
        layers = gates_over(config, model.arrays(), numbers)
        assert len(layers) == 2
        with torch.inference_mode():
            _, state = model(torch.tensor(numbers).unsqueeze(1), model.initial_state(1))
        for layer, steps in enumerate(layers):
            np.testing.assert_allclose(steps.h[-1], state[0][layer, 0].numpy(), atol=1e-5, rtol=0)


def test_the_demo_shows_all_of_it(tmp_path: Path) -> None:
    run = subprocess.run(
        [sys.executable, "-m", "glassgate", "demo", "--out", str(tmp_path / "kept")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    shown = run.stdout
    for expected in ("4,400", "validation perplexity", "warm bread for the", "forget f", "hidden state h"):
        assert expected in shown
    assert count_folder(tmp_path / "kept").total == 4400
    assert "the next words" in shown or "next words" in shown
