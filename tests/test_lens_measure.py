"""Measures over a corpus, against the same figures of all states at once."""

from pathlib import Path

import numpy as np
import pytest

from glassgate import GlassgateError
from glassgate.lens import reading
from glassgate.lens.classes import KINDS, POSITIONS, Places, kinds, positions
from glassgate.lens.measure import measure
from lens_models import model

# Sums of 700 numbers below 1 in float64, in another order: 700 rounding errors of 2^-53 are 8e-14.
SUMMED = 1e-12


def drawn(count: int, words: int) -> np.ndarray:
    return np.random.default_rng(5).integers(0, words, count)


@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_streamed_measures_are_those_of_all_states_at_once(cell: str) -> None:
    own = model(cell)
    words = own.vocabulary.words
    numbers = drawn(700, len(words))
    found = measure(own, [numbers[:10], numbers[10:600], numbers[600:]])
    read = np.concatenate([[own.vocabulary.eos], numbers])
    assert found.steps == 701
    trace = own.trace(" ".join(words[n] for n in numbers)).layers
    for name, layer in found.layers.items():
        for gate, mean in layer.mean.items():
            values = getattr(trace[name], gate)[:, 0]
            np.testing.assert_allclose(mean, values.mean(0), atol=SUMMED)
            np.testing.assert_allclose(layer.deviation[gate], values.std(0), atol=SUMMED)
        for gate, (low, high) in layer.saturation.items():
            values = getattr(trace[name], gate)[:, 0]
            np.testing.assert_array_equal(low, (values < 0.1).mean(0))
            np.testing.assert_array_equal(high, (values > 0.9).mean(0))
        kept = trace[name].forget if cell == "lstm" else 1 - trace[name].update
        np.testing.assert_allclose(layer.memory, -1 / np.log(kept[:, 0]).mean(0), rtol=SUMMED)
        h = trace[name].hidden[:, 0]
        for number in set(read.tolist()):
            for unit in range(5):
                expected = np.corrcoef(read == number, h[:, unit])[0, 1]
                assert layer.association[number, unit] == pytest.approx(expected, abs=1e-11)
        own_kinds = kinds(words)[read]
        for number, kind in enumerate(KINDS):
            chosen = own_kinds == number
            assert found.kind_counts[kind] == chosen.sum()
            if chosen.any():
                np.testing.assert_allclose(layer.by_kind["hidden"][number], h[chosen].mean(0), atol=SUMMED)
            else:
                assert np.isnan(layer.by_kind["hidden"][number]).all()
        at = positions(Places(words)(read))
        for number, name_of in enumerate(POSITIONS):
            assert found.position_counts[name_of] == (at == number).sum()
    saturated = [
        high.max() + low.max() for layer in found.layers.values() for low, high in layer.saturation.values()
    ]
    assert max(saturated) > 0, "no gate was ever saturated: nothing was tested"


def test_memory_of_a_constant_gate_is_the_closed_form() -> None:
    """A forget gate held at f: f^T = 1/e after T = 1 / ln(1/f) steps; at 1 never."""
    own = model(layers=1)
    weights = {name: np.zeros(shape) for name, shape in own.config.tensors().items()}
    # f = sigmoid(b): b = ln(f / (1 - f)); sigmoid(40) rounds to 1, exp(-800) underflows to a gate of 0.
    weights["rnn.bias_ih_l0"][5:10] = [0.0, np.log(99.0), 40.0, -800.0, np.log(0.5)]
    from glassgate.runtime import Model

    found = measure(Model(own.config, own.vocabulary, weights), [drawn(20, 9)]).layers["l0"]
    expected = [1 / np.log(2), 1 / np.log(1 / 0.99), np.inf, 0.0, 1 / np.log(3)]
    np.testing.assert_allclose(found.memory, expected, rtol=1e-12)  # a few roundings of ln and exp
    assert found.dead.all()
    assert (found.association == 0).all()


def test_a_unit_that_moves_is_not_dead() -> None:
    found = measure(model(), [drawn(50, 12)])
    assert not any(layer.dead.any() for layer in found.layers.values())


def test_the_words_of_a_unit() -> None:
    own = model()
    layer = measure(own, [drawn(300, 12)]).layers["l0"]
    best = layer.words_of(2, own.vocabulary.words, 3)
    assert abs(best[0][1]) == np.abs(layer.association[:, 2]).max()
    assert own.vocabulary.words[np.abs(layer.association[:, 2]).argmax()] == best[0][0]
    with pytest.raises(GlassgateError, match="unit: must be from 0 to 4, got 5"):
        layer.words_of(5, own.vocabulary.words)


def test_places_do_not_depend_on_the_pieces() -> None:
    numbers = drawn(400, 4)
    whole = Places(["a", ".", "b", "c"])(numbers)
    pieces = Places(["a", ".", "b", "c"])
    cut = [pieces(part) for part in (numbers[:1], numbers[1:1], numbers[1:130], numbers[130:])]
    np.testing.assert_array_equal(np.concatenate(cut), whole)
    place = 1
    for number, found in zip(numbers, whole, strict=True):
        assert found == place
        place = 1 if number == 1 else place + 1


def test_a_text_is_read_as_evaluate_reads_it(tmp_path: Path) -> None:
    own = model()
    text = tmp_path / "text"
    text.write_text("the gate\nof glass\n")
    blocks = list(reading.read(own, reading.tokens(own, [text])))
    assert [own.vocabulary.words[n] for n in blocks[0].numbers] == [
        "<eos>",
        "the",
        "gate",
        "<eos>",
        "of",
        "glass",
        "<eos>",
    ]


def test_blocks_carry_the_state() -> None:
    own = model()
    numbers = drawn(600, 12)
    blocks = list(reading.read(own, [numbers]))
    assert [len(block.numbers) for block in blocks] == [256, 256, 89]
    trace = own.trace(" ".join(own.vocabulary.words[n] for n in numbers)).layers["l1"]
    joined = np.concatenate([block.layers["l1"].cell for block in blocks])
    np.testing.assert_array_equal(joined, trace.cell)  # step by step = at once: promised to the bit


def test_no_word_is_an_error() -> None:
    own = model()
    object.__setattr__(own.vocabulary, "eos", None)
    with pytest.raises(GlassgateError, match="measure: at least one word expected, got none"):
        measure(own, [])
