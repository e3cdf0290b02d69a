"""A store of states and a search in it, against loops over all steps."""

import json
from pathlib import Path

import numpy as np
import pytest

from glassgate import GlassgateError
from glassgate.lens import index as store
from glassgate.lens.index import IndexWriter, build_index, open_index
from glassgate.lens.search import find_spans, state_of, units_on
from lens_models import model


def drawn_index(folder: Path, values: np.ndarray, bits: int = 8) -> store.Index:
    cut = [slice(0, 10), slice(10, 5_000), slice(5_000, None)]
    words = np.arange(len(values))
    IndexWriter(folder, {"l0": values.shape[1]}, "hidden", bits).write((words[c], values[c]) for c in cut)  # type: ignore[arg-type]
    return open_index(folder)


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("quantity", ["hidden", "cell", "forget"])
def test_an_index_holds_the_states_of_the_trace(bits: int, quantity: str, tmp_path: Path) -> None:
    own = model()
    numbers = np.random.default_rng(2).integers(0, 12, 600)
    found = build_index(own, [numbers[:7], numbers[7:]], tmp_path, quantity=quantity, bits=bits)  # type: ignore[arg-type]
    traced = own.trace(" ".join(own.vocabulary.words[n] for n in numbers))
    expected = state_of(traced, found)
    assert expected.shape == (601, 10)
    np.testing.assert_array_equal(
        expected[:, 5:],
        np.tanh(traced.layers["l1"].cell[:, 0])
        if quantity == "cell"
        else getattr(traced.layers["l1"], quantity)[:, 0],
    )
    # Rounding to the nearest of the stored numbers is off by half a step; float32 by 6e-8.
    assert np.abs(found.values(0, 601) - expected).max() <= 0.5 / store.LARGEST[bits] + 1e-7
    np.testing.assert_array_equal(found.words, [own.vocabulary.eos, *numbers])
    assert found.unit("l1", 3) == 8


def test_an_index_of_several_chunks_is_read_at_any_place(tmp_path: Path) -> None:
    steps = 2 * store.CHUNK + 100
    values = np.random.default_rng(1).integers(-127, 128, (steps, 3)) / 127
    found = drawn_index(tmp_path, values)
    stored = np.fromfile(tmp_path / "states.bin", np.int8).reshape(3, 3, store.CHUNK)
    assert not stored[2, :, 100:].any()  # the same states are the same bytes
    for start, stop in (
        (0, 5),
        (store.CHUNK - 2, store.CHUNK + 2),
        (store.CHUNK, 2 * store.CHUNK + 3),
        (-4, 10**9),
    ):
        np.testing.assert_array_equal(
            found.values(start, stop), values[max(start, 0) : stop].astype(np.float32)
        )
    np.testing.assert_array_equal(found.raw(2), np.rint(values[:, 2] * 127))


def by_loop(
    values: np.ndarray, units: list[int], threshold: float, share: float
) -> dict[tuple[int, int], float]:
    on = values[:, units] >= threshold
    count = on.sum(1)
    inside = count >= share * len(units) - 1e-9
    found, start = {}, None
    for step in range(len(values) + 1):
        is_in = step < len(values) and inside[step]
        if is_in and start is None:
            start = step
        if not is_in and start is not None:
            before = count[start - 1] if start else 0
            after = count[step] if step < len(values) else 0
            found[start, step] = (count[start:step].mean() - (before + after) / 2) / len(units)
            start = None
    return found


@pytest.mark.parametrize("share", [1.0, 0.6, 0.01])
def test_spans_are_those_of_a_loop_over_all_steps(share: float, tmp_path: Path) -> None:
    generator = np.random.default_rng(7)
    values = np.repeat(generator.integers(-127, 128, (6_000, 8)), 3, axis=0) / 127
    values[:2], values[-2:] = 1.0, 1.0  # matches at both ends
    found = drawn_index(tmp_path, values)
    expected = by_loop(values, [6, 1, 3], 0.2, share)
    matches = find_spans(found, [6, 1, 3], 0.2, share=share, k=10**6)
    assert {(m.start, m.stop) for m in matches} == set(expected)
    for match in matches:
        assert match.score == pytest.approx(expected[match.start, match.stop], abs=1e-12)  # a few roundings
    keys = [(-m.score, m.start) for m in matches]
    assert keys == sorted(keys)
    near = find_spans(found, [6, 1, 3], 0.2, share=share, length=4, k=5)
    assert near == sorted(matches, key=lambda m: (-m.score, abs(m.stop - m.start - 4), m.start))[:5]


def test_units_on_over_exactly_a_span() -> None:
    values = np.random.default_rng(3).uniform(-1, 1, (9, 400))
    on = values >= 0.1
    for start, stop in ((0, 2), (3, 5), (7, 9), (0, 9)):
        expected = [
            u
            for u in range(400)
            if all(on[start:stop, u])
            and not (start > 0 and on[start - 1, u])
            and not (stop < 9 and on[stop, u])
        ]
        assert units_on(values, start, stop, 0.1) == expected
        assert (
            units_on(values, start, stop, 0.1, exact=False) == np.flatnonzero(on[start:stop].all(0)).tolist()
        )
    assert units_on(values, 0, 2, 0.1), "no unit was on: nothing was tested"


def test_a_selected_span_is_found_again_where_it_was(tmp_path: Path) -> None:
    own = model()
    numbers = np.random.default_rng(4).integers(3, 12, 3_000)
    found = build_index(own, [numbers], tmp_path, bits=16)
    traced = own.trace(" ".join(own.vocabulary.words[n] for n in numbers))
    states = state_of(traced, found)
    start = next(s for s in range(100, 2_000) if len(units_on(states, s, s + 2)) >= 2)
    units = units_on(states, start, start + 2)
    matches = find_spans(found, units, length=2)
    assert (matches[0].score, matches[0].stop - matches[0].start) == (1.0, 2)
    assert (start, start + 2) in {(m.start, m.stop) for m in find_spans(found, units, length=2, k=10**6)}
    assert all(units_on(states, m.start, m.stop, exact=False) for m in matches)


def test_bad_searches_are_told(tmp_path: Path) -> None:
    found = drawn_index(tmp_path, np.zeros((6_000, 2)))
    assert find_spans(found, [0], 0.5) == []
    for options, message in (
        ({"units": []}, "units from 0 to 1 expected, got none"),
        ({"units": [2]}, r"units from 0 to 1 expected, got \[2\]"),
        ({"units": [0], "share": 0.0}, "share must be in"),
        ({"units": [0], "k": 0}, "k at least 1"),
    ):
        with pytest.raises(GlassgateError, match=message):
            find_spans(found, **options)  # type: ignore[arg-type]
    with pytest.raises(GlassgateError, match="a span in a text of 3 words expected, got 2 to 2"):
        units_on(np.zeros((3, 2)), 2, 2)
    with pytest.raises(GlassgateError, match="the index is of l0, got l0, l1"):
        state_of(model().trace("the"), found)
    with pytest.raises(GlassgateError, match="the layers are l0, got 'l1'"):
        found.unit("l1", 0)
    with pytest.raises(GlassgateError, match="units must be from 0 to 1 in l0, got 2"):
        found.unit("l0", 2)
    with pytest.raises(GlassgateError, match="the quantity must be one of"):
        build_index(model(), [], tmp_path, quantity="memory")


def test_a_damaged_index_is_told(tmp_path: Path) -> None:
    drawn_index(tmp_path, np.zeros((6_000, 2)))
    description = json.loads((tmp_path / "index.json").read_text())
    for change in (
        {"steps": -1},
        {"steps": 1.5},
        {"bits": 4},
        {"layers": {}},
        {"quantity": "x"},
        {"format": 2},
    ):
        (tmp_path / "index.json").write_text(json.dumps(description | change))
        with pytest.raises(GlassgateError, match=r"index.json: is damaged"):
            open_index(tmp_path)
    (tmp_path / "index.json").write_text(json.dumps(description | {"steps": 20_000}))
    with pytest.raises(GlassgateError, match=r"states.bin: is damaged: expected 65,536 bytes, got 32,768"):
        open_index(tmp_path)
    (tmp_path / "index.json").write_text("[")
    with pytest.raises(GlassgateError, match=r"index.json: is damaged"):
        open_index(tmp_path)


def test_an_index_that_was_not_finished_is_none(tmp_path: Path) -> None:
    drawn_index(tmp_path, np.zeros((6_000, 2)))

    def broken():  # type: ignore[no-untyped-def]
        yield np.zeros(1, np.int64), np.zeros((1, 2))
        raise RuntimeError

    with pytest.raises(RuntimeError):
        IndexWriter(tmp_path, {"l0": 2}, "hidden", 8).write(broken())
    with pytest.raises(GlassgateError, match="no such index"):
        open_index(tmp_path)
