"""The best words, exactly, and the clusters that are passed by on the way to them."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from by_hand import drawn_weights
from glassgate.folder.compact import Stored, packed
from glassgate.folder.config import ModelConfig
from glassgate.runtime import _rows
from glassgate.runtime.matrix import Matrix
from glassgate.runtime.output import Output
from glassgate.runtime.sketch import Sketch
from test_runtime import CLOSE, configs, float32


def output_of(config: ModelConfig, weights: dict[str, Any]) -> Output:
    V = weights["embedding.weight" if config.tied else "output.weight"]
    return Output(config, Matrix(Stored(V)), weights)


@settings(max_examples=300)
@given(configs(), st.data())
def test_the_best_words_are_those_of_all_probabilities_sorted(
    config: ModelConfig, data: st.DataObject
) -> None:
    """Exactly: the same bits as where every cluster is computed; ties to the lower number."""
    generator = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    weights = float32(drawn_weights(config, data.draw(st.integers(0, 2**32 - 1))))
    for name in weights:  # few values, so that words tie; peaks, so that clusters cannot win
        weights[name] = np.round(weights[name]) * np.float32(data.draw(st.sampled_from([0.0, 1.0, 8.0])))
    output = output_of(config, weights)
    h = np.round(generator.uniform(-2, 2, (5, config.width))).astype(np.float32)
    k = data.draw(st.sampled_from([1, 2, 5, 64, config.vocabulary]))
    never = data.draw(st.none() | st.integers(0, config.vocabulary - 1))
    allowed = None
    if data.draw(st.booleans()):
        allowed = np.flatnonzero(generator.random(config.vocabulary) < data.draw(st.sampled_from([0.0, 0.3])))
    for row in range(5):
        logs = output.log_probabilities(h[row : row + 1])[0]
        may = np.arange(config.vocabulary) if allowed is None else allowed
        may = may[may != never]
        expected = may[np.argsort(-logs[may], kind="stable")][:k]
        ((numbers, y),) = output.best(h[row : row + 1], k, allowed, never)
        assert numbers.tolist() == expected.tolist()
        assert np.array_equal(y, np.exp(logs[expected].astype(np.float64)))
    # Several rows at once go through other products, which may round otherwise.
    for (numbers, y), row in zip(output.best(h, k, allowed, never), h, strict=True):
        ((alone, expected_y),) = output.best(row[None], k, allowed, never)
        assert len(numbers) == len(alone)
        np.testing.assert_allclose(y, expected_y, rtol=CLOSE, atol=1e-30)


def test_clusters_that_cannot_win_are_not_visited(monkeypatch: pytest.MonkeyPatch) -> None:
    config = ModelConfig(
        cell="gru", vocabulary=100, embedding=4, hidden=4, output="adaptive", cutoffs=(10, 40, 70), bias=True
    )
    weights = float32(drawn_weights(config, 1))
    weights["output.clusters.weight"][:] = 0
    weights["output.clusters.bias"][:] = [-30, 30, -30]
    output, visited = output_of(config, weights), []
    product = Matrix.product
    monkeypatch.setattr(Matrix, "product", lambda V, h, c: (visited.append(len(V)), product(V, h, c))[1])
    h = np.ones((1, 4), np.float32)
    ((numbers, _),) = output.best(h, 5)
    assert ((numbers >= 40) & (numbers < 70)).all()
    assert visited == [10, 3, 30]  # the head, its clusters, and the one that can win


@settings(max_examples=200)
@given(st.integers(1, 200), st.integers(1, 90), st.integers(0, 2**32 - 1), st.data())
def test_no_word_is_more_probable_than_its_sketch_says(
    rows: int, width: int, seed: int, data: st.DataObject
) -> None:
    """In every form that V is stored in, from next to nothing to logits in the thousands."""
    generator = np.random.default_rng(seed)
    V = generator.normal(size=(rows, width)) * np.float64(data.draw(st.sampled_from([1e-30, 0.05, 3.0])))
    V[generator.random(rows) < 0.1] = 0
    V[:, generator.random(width) < 0.1] *= 40  # columns that take the scale of a row for themselves
    h = generator.normal(size=width) * data.draw(st.sampled_from([0.0, 1e-20, 0.3, 30.0]))
    c = generator.normal(size=rows) * 5 if data.draw(st.booleans()) else None
    V32 = V.astype(np.float32)
    for stored in (
        Stored(V),
        Stored(V32),
        Stored(packed({"V": V32}, "bf16")["V"]),
        Stored(*packed({"V": V32}, "int8").values()),
    ):
        matrix, sketch = Matrix(stored), Sketch()
        x, bias = h.astype(matrix.dtype), None if c is None else c.astype(matrix.dtype)
        logits = matrix.product(x[None], bias)[0].astype(np.float64)
        share = logits.max() - np.logaddexp.reduce(logits)
        assert sketch.highest(matrix, bias, x[None]) == 0  # asked once: not yet made
        assert share <= sketch.highest(matrix, bias, x[None])


def test_a_sketch_is_close_and_takes_no_bytes_where_v_is_int8() -> None:
    """Of use: at width 256 it lets a word be at most three times as probable as the best one is."""
    generator = np.random.default_rng(3)
    V, h = (
        generator.normal(size=(500, 256)).astype(np.float32) / 8,
        generator.normal(size=(1, 256)).astype(np.float32),
    )
    matrix, sketch = Matrix(Stored(V)), Sketch()
    logits = matrix.product(h, None)[0]
    share = logits.max() - np.logaddexp.reduce(logits)
    sketch.highest(matrix, None, h)
    assert sketch.highest(matrix, None, h) < share + np.log(3)
    stored = Stored(*packed({"V": V}, "int8").values())
    small = Sketch()
    for _ in range(2):
        small.highest(Matrix(stored), None, h)
    assert small._made is not None
    assert np.shares_memory(small._made[0], stored.values)


@settings(max_examples=50)
@given(st.integers(1, 200), st.integers(1, 90), st.integers(2, 6), st.integers(0, 2**32 - 1))
def test_several_are_bounded_as_each_alone(rows: int, width: int, count: int, seed: int) -> None:
    """To the bit: the products are sums of whole numbers."""
    generator = np.random.default_rng(seed)
    matrix = Matrix(Stored(generator.normal(size=(rows, width)).astype(np.float32)))
    h, sketch = generator.normal(size=(count, width)).astype(np.float32), Sketch()
    sketch.highest(matrix, None, h)
    alone = [sketch.highest(matrix, None, one[None])[0] for one in h]
    assert sketch.highest(matrix, None, h).tolist() == alone


def test_a_sketch_rules_out_what_a_share_cannot(monkeypatch: pytest.MonkeyPatch) -> None:
    """A cluster with most of the probability, over so many words that none of them is among the best."""
    config = ModelConfig(
        cell="gru", vocabulary=2_010, embedding=64, hidden=64, output="adaptive", cutoffs=(10,), bias=True
    )
    weights = float32(drawn_weights(config, 1))
    weights["output.bias"][:] = 0
    weights["output.clusters.weight"][:] = 0
    weights["output.clusters.bias"][:] = (
        3  # ten words of the head with logits about 0: two thirds for the cluster
    )
    output, visited = output_of(config, weights), []
    product = Matrix.product
    monkeypatch.setattr(Matrix, "product", lambda V, h, c: (visited.append(len(V)), product(V, h, c))[1])
    h = np.full((1, 64), 0.1, np.float32)
    first, second = output.best(h, 5), output.best(h, 5)
    assert visited == [10, 1, 2_000, 10, 1]  # the second time from the sketch
    assert first[0][0].tolist() == second[0][0].tolist()
    assert first[0][1].tolist() == second[0][1].tolist()
    assert (first[0][0] < 10).all()


def test_of_equal_words_the_lower_numbers_come_and_barred_ones_never() -> None:
    """Over the border of a block of 64, more than fits a vector, and fewer words than asked for."""
    for dtype in (np.float32, np.float64):
        logits = np.zeros((2, 150), dtype)
        logits[1, 149] = 1
        found: dict[str, Any] = {
            "most": np.empty((2, 1), dtype),
            "log_sum": np.empty((2, 1), dtype),
            "values": np.empty((2, 3), dtype),
            "places": np.empty((2, 3), np.int64),
        }
        sizes: dict[str, Any] = {"rows": 2, "entries": 150, "k": 3, "doubles": dtype == np.float64}
        _rows.best(**sizes, words=150, never=1, allowed=None, logits=logits, **found)
        assert found["places"].tolist() == [[0, 2, 3], [149, 0, 2]]
        assert found["most"].ravel().tolist() == [0, 1]
        # Sums of 150 terms of at most 1, each rounded by half an ulp of 150 at most.
        expected = [np.log(150), np.log(1 + 149 * np.exp(-1))]
        np.testing.assert_allclose(found["log_sum"].ravel(), expected, rtol=150 * np.finfo(dtype).eps)
        _rows.best(**sizes, words=140, never=-1, allowed=np.array([70, 139]), logits=logits, **found)
        assert found["places"].tolist() == [[70, 139, 2**63 - 1]] * 2
        assert found["values"].tolist() == [[0, 0, -np.inf]] * 2


@pytest.mark.parametrize("wrong", ["V", "h", "y", "c", "scales", "none", "form", "size"])
def test_the_kernel_reads_no_byte_beyond_a_buffer(wrong: str) -> None:
    V, scales = np.zeros((3, 4), np.int8), np.zeros(3, np.float32)
    call: dict[str, Any] = {"form": 3, "rows": 3, "width": 4, "V": V, "scales": scales, "c": scales}
    call |= {"h": np.zeros(4, np.float32), "y": np.zeros(3, np.float32)}
    _rows.product(**call)
    if wrong in ("none", "form", "size"):
        changes = {"none": {"scales": None}, "form": {"form": 4}, "size": {"rows": 2**40, "width": 2**40}}
        call |= changes[wrong]
        message = "must not be None|out of bounds"
    else:
        call[wrong], message = call[wrong][:-1], f"^{wrong}: needs"
    with pytest.raises(ValueError, match=message):
        _rows.product(**call)


@pytest.mark.parametrize(
    "wrong", ["logits", "most", "log_sum", "values", "places", "allowed", "k", "words", "size"]
)
def test_the_best_kernel_reads_and_writes_no_byte_beyond_a_buffer(wrong: str) -> None:
    numbers = {name: np.zeros(2, np.float32) for name in ("most", "log_sum", "values")}
    call: dict[str, Any] = {
        "rows": 2,
        "entries": 4,
        "words": 4,
        "k": 1,
        "never": -1,
        "doubles": False,
        "allowed": None,
    }
    call |= numbers | {"logits": np.zeros((2, 4), np.float32), "places": np.zeros(2, np.int64)}
    _rows.best(**call)
    changes: dict[str, Any] = {
        "allowed": {"allowed": np.array([4])},
        "k": {"k": 0},
        "words": {"words": 5},
        "size": {"rows": 2**40, "entries": 2**40},
    }
    call |= changes.get(wrong) or {wrong: call[wrong].ravel()[:-1]}
    with pytest.raises(ValueError, match=f"^{wrong}: needs|out of bounds"):
        _rows.best(**call)


@pytest.mark.parametrize("wrong", ["integers", "scales", "errors", "lengths", "c", "h", "result", "size"])
def test_the_sketch_kernel_reads_no_byte_beyond_a_buffer(wrong: str) -> None:
    vectors = {name: np.ones(3, np.float32) for name in ("scales", "errors", "lengths", "c")}
    call: dict[str, Any] = {"rows": 3, "width": 4, "count": 2, "integers": np.zeros((3, 4), np.int8)}
    call |= vectors | {"h": np.ones((2, 4), np.float32), "result": np.zeros(2, np.float32)}
    _rows.highest(**call)
    changes: dict[str, Any] = {"size": {"rows": 2**40, "width": 2**24}}
    call |= changes.get(wrong) or {wrong: call[wrong].ravel()[:-1]}
    with pytest.raises(ValueError, match=f"^{wrong}: needs|out of bounds"):
        _rows.highest(**call)
