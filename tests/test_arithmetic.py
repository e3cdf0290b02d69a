"""The arithmetic of a unit: the recorded numbers, and they give one another."""

from typing import Any

import numpy as np
import pytest
import torch

import glassgate
from by_hand import drawn_weights, runtime_model
from glassgate import Edit, GlassgateError
from glassgate.folder.config import ModelConfig
from glassgate.folder.vocabulary import Vocabulary
from glassgate.lens.arithmetic import arithmetic
from glassgate.trace import Chunk, LayerTrace

LETTERS = {"f": "forget", "i": "input", "g": "candidate", "o": "output", "r": "reset", "u": "update"}


@pytest.mark.parametrize(("cell", "reset"), [("lstm", "after"), ("gru", "after"), ("gru", "before")])
def test_every_number_is_the_recorded_one(cell: Any, reset: Any) -> None:
    vocabulary = Vocabulary.build(["the gate opens and closes"], tokens="spaces")
    config = ModelConfig(
        cell=cell, reset=reset, vocabulary=len(vocabulary), embedding=3, hidden=4, layers=2, tied=False
    )
    weights = {name: w.astype(np.float32) for name, w in drawn_weights(config, 0).items()}
    traced = runtime_model(config, weights, vocabulary).trace("the gate opens and closes")
    for name, layer in traced.layers.items():
        memory = layer.cell if cell == "lstm" else layer.hidden
        for step in range(len(traced.words)):
            for unit in range(4):
                found = arithmetic(layer, step, unit, words=traced.words)
                old, now = ("C_{t-1}", "C_t") if cell == "lstm" else ("h_{t-1}", "h_t")
                want = {now: memory[step, 0, unit], "h_t": layer.hidden[step, 0, unit]}
                want[old] = memory[step - 1, 0, unit] if step else 0.0
                want |= {k: getattr(layer, v)[step, 0, unit] for k, v in LETTERS.items() if v in layer.names}
                assert found.values == want
                assert found.title == f"{name}, unit {unit}, step {step} ({traced.words[step]})"


def test_backwards_ragged_and_from_a_state_in_torch() -> None:
    layer = glassgate.LSTM(3, 4, bidirectional=True)
    state = torch.randn(2, 2, 2, 4).unbind(0)
    with glassgate.record(layer) as trace:
        layer(torch.randn(6, 2, 3), state, lengths=[4, 6])
    back = trace["l0_reverse"]
    found = arithmetic(back, 2, 1, sequence=0).values
    assert found["C_{t-1}"] == back.cell[3, 0, 1].item()
    begun = arithmetic(trace["l0"], 0, 1, sequence=1, before=state[1][0, 1, 1].item())
    assert begun.values["C_t"] == trace["l0"].cell[0, 1, 1].item()
    with pytest.raises(GlassgateError, match=r"cell of unit 1 at step 0 was .*begun from another value"):
        arithmetic(trace["l0"], 0, 1, sequence=1)


def test_an_edited_state_is_not_the_sum_of_its_gates() -> None:
    layer = glassgate.GRU(3, 4)
    edits = [Edit("update", set=0.25), Edit("hidden", add=0.5, steps=slice(2, 3))]
    with glassgate.record(layer) as trace, torch.no_grad(), glassgate.edit(layer, edits):
        layer(torch.randn(4, 1, 3))
    assert arithmetic(trace["l0"], 1, 0).values["u"] == 0.25
    arithmetic(trace["l0"], 3, 0)
    with pytest.raises(GlassgateError, match="hidden of unit 0 at step 2"):
        arithmetic(trace["l0"], 2, 0)


def notes_scalar() -> LayerTrace:
    """C_t = 0.7 C_{t-1} + 0.6 g_t, the notes' scalar update, with C_{t-1} = 4 and g = 0.5."""
    layer = LayerTrace("l0", "lstm")
    gates = np.array([0.6, 0.7, 0.5, 0.25]).reshape(1, 1, 4, 1)
    cell = np.full((1, 1, 1), 0.7 * 4 + 0.6 * 0.5)
    layer.add(Chunk(0.25 * np.tanh(cell), gates, cell, None))
    return layer


def test_as_the_notes_write_it() -> None:
    found = arithmetic(notes_scalar(), 0, 0, before=4)
    assert [line.strip().split("   ")[0] for line in found.text(2).splitlines()[1:]] == [
        "f = 0.70",
        "C_{t-1} = 4.00",
        "i = 0.60",
        "g = 0.50",
        "C_t = f * C_{t-1} + i * g = 0.70 * 4.00 + 0.60 * 0.50 = 3.10",
        "o = 0.25",
        "h_t = o * tanh(C_t) = 0.25 * tanh(3.10) = 0.25",
    ]
    assert found.markdown(1).splitlines()[:3] == [
        "| l0, unit 0, step 0 | |",
        "|---|---|",
        "| `f = 0.7` | forget gate: how much of the past to keep |",
    ]
    assert str(found) == found.text(4)


@pytest.mark.parametrize("place", [{"step": 1}, {"step": -1}, {"unit": 1}, {"sequence": 1}])
def test_places_that_are_not_there(place: dict[str, int]) -> None:
    with pytest.raises(GlassgateError, match=f"{next(iter(place))} must be from 0 to 0 in l0"):
        arithmetic(notes_scalar(), **({"step": 0, "unit": 0} | place))
