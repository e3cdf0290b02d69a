"""The first layer's sums of frequent words, which a step of the runtime keeps: the same bits as without."""

from typing import Any

import numpy as np
import pytest

from by_hand import drawn_weights
from glassgate.folder.compact import Stored, packed
from glassgate.folder.config import ModelConfig
from glassgate.runtime import word_inputs
from glassgate.runtime.network import Network

VOCABULARY = 40
CELLS = [("lstm", "after"), ("gru", "after"), ("gru", "before")]


def network(cell: str, reset: str, dtype: Any, **options: int) -> Network:
    sizes = {"embedding": 20, "hidden": 17, "layers": 2, "tied": False}
    config = ModelConfig(cell=cell, reset=reset, vocabulary=VOCABULARY, **sizes)  # type: ignore[arg-type]
    weights = {name: values.astype(np.float32) for name, values in drawn_weights(config, 3).items()}
    stored = weights if dtype == "fp32" else packed(weights, dtype)
    matrices = {name: Stored(stored[name], stored.get(f"{name}.scales")) for name in weights}
    return Network(config, matrices, **options)


@pytest.mark.parametrize(("dtype", "threads"), [("fp32", 1), ("fp32", 2), ("bf16", 1), ("int8", 1)])
@pytest.mark.parametrize(("cell", "reset"), CELLS)
@pytest.mark.parametrize("kept", [0, 1, 13, VOCABULARY])
def test_kept_or_computed_a_step_is_the_sequence(
    cell: str, reset: str, kept: int, dtype: str, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All words kept, some or none; words that come again; three texts together and one alone."""
    monkeypatch.setattr("glassgate.runtime.network.WORTH", 0)
    plain = network(cell, reset, dtype)
    size = plain.layers[0].input_sums(np.zeros((1, 20), np.float32)).nbytes
    monkeypatch.setattr(word_inputs, "MOST_BYTES", kept * size)
    model = network(cell, reset, dtype, threads=threads)
    words = np.random.default_rng(0).zipf(1.3, (60, 3)) % VOCABULARY
    whole, alone = plain.initial_state(3), model.initial_state(1)
    state = model.initial_state(3)
    for step in words:
        plain.run(step[None], whole)
        model.step(step, state)
        model.step(step[1:2], alone)
        for expected, together, single in zip(whole, state, alone, strict=True):
            np.testing.assert_array_equal(together, expected)
            np.testing.assert_array_equal(single, expected[:, 1:2])
    assert model._inputs is not None
    seen = np.unique(words[words < kept])
    assert np.flatnonzero(model._inputs._known).tolist() == seen.tolist()


def test_small_input_weights_are_read_as_they_are() -> None:
    assert network("lstm", "after", "fp32")._inputs is None
