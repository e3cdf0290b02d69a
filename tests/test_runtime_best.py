"""The best words, exactly, and the clusters that are passed by on the way to them."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from by_hand import drawn_weights
from glassgate.errors import GlassgateError
from glassgate.folder.compact import Stored, packed
from glassgate.folder.config import ModelConfig
from glassgate.runtime import _rows
from glassgate.runtime.matrix import Matrix
from glassgate.runtime.output import Output
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


def barred(
    sizes: tuple[int, ...], biases: list[float], width: int = 64
) -> tuple[ModelConfig, dict[str, Any]]:
    """A model whose clusters have given logits, whatever h is."""
    config = ModelConfig(
        cell="gru", vocabulary=sum(sizes), embedding=width, hidden=width, output="adaptive",
        cutoffs=tuple(int(n) for n in np.cumsum(sizes)[:-1]), bias=True,
    )  # fmt: skip
    weights = float32(drawn_weights(config, 1))
    weights["output.bias"][:] = 0
    weights["output.clusters.weight"][:] = 0
    weights["output.clusters.bias"][:] = biases
    return config, weights


def test_clusters_that_cannot_win_are_not_visited() -> None:
    """Their rows may be no numbers: that would be told if one were read."""
    config, weights = barred((10, 30, 30, 30), [-30, 30, -30], 4)
    h = np.ones((1, 4), np.float32)
    ((expected, y),) = output_of(config, weights).best(h, 5)
    assert ((expected >= 40) & (expected < 70)).all()
    V = weights["embedding.weight"]
    V[10:40] = V[70:] = np.nan
    ((numbers, same),) = output_of(config, weights).best(h, 5)
    assert (numbers.tolist(), same.tolist()) == (expected.tolist(), y.tolist())
    V[69] = np.nan
    with pytest.raises(GlassgateError, match=r"^the model: its probabilities are no numbers"):
        output_of(config, weights).best(h, 5)


@pytest.mark.parametrize("count", [1, 3])
def test_a_sketch_rules_out_what_a_share_cannot(count: int) -> None:
    """A cluster with most of the probability, over so many words that none of them is among the best.

    Ten words of the head have logits about 0: two thirds are the cluster's.
    """
    config, weights = barred((10, 2_000), [3.0])
    output, h = output_of(config, weights), np.full((count, 64), 0.1, np.float32)
    first = output.best(h, 5)
    second = output.best(h, 5)  # makes the sketch
    weights["embedding.weight"][10:] = np.nan
    third = output.best(h, 5)  # reads the sketch alone
    for one in (second, third):
        for (numbers, y), (expected, expected_y) in zip(one, first, strict=True):
            assert (numbers.tolist(), y.tolist()) == (expected.tolist(), expected_y.tolist())
    assert (first[0][0] < 10).all()
    with pytest.raises(GlassgateError, match="are no numbers"):
        output_of(config, weights).best(h, 5)


def test_a_row_of_a_wide_bound_is_looked_at_before_its_cluster() -> None:
    """A column of 400 that h does not see takes the scale of its row; the others are left out by the sketch.

    They are 1.5 in turn up and down: a logit of 0.15, and a length of 12 times 0.8 that the bound allows for.
    """
    config, weights = barred((10, 2_000), [3.0])
    V, h = weights["embedding.weight"], np.full((1, 64), 0.1, np.float32)
    h[0, 0], V[700] = 0, np.where(np.arange(64) % 2, 1.5, -1.5)
    V[700, 0] = 400
    output = output_of(config, weights)
    ((expected, y),) = output.best(h, 5)
    output.best(h, 5)  # makes the sketch
    assert bounds(output, h)[0] > -1  # times the share, two thirds, far more than a word of the head
    V[10:700] = V[701:] = np.nan
    ((numbers, same),) = output.best(h, 5)
    assert (numbers.tolist(), same.tolist()) == (expected.tolist(), y.tolist())
    V[700] = np.nan
    with pytest.raises(GlassgateError, match="are no numbers"):
        output.best(h, 5)


def in_every_form(V: Any) -> list[Stored]:
    V32 = V.astype(np.float32)
    bf16, int8 = packed({"V": V32}, "bf16"), packed({"V": V32}, "int8")
    return [Stored(V), Stored(V32), Stored(bf16["V"]), Stored(*int8.values())]


def of_one_cluster(stored: Stored, c: Any) -> Output:
    """Rows of V behind a head of one word, as the one cluster of an output."""
    rows, width = stored.values.shape
    config = ModelConfig(
        cell="gru", vocabulary=rows, embedding=width, hidden=width, output="adaptive", cutoffs=(1,)
    )
    dtype = Matrix(stored).dtype
    weights = {
        "output.clusters.weight": np.zeros((1, width), dtype),
        "output.clusters.bias": np.zeros(1, dtype),
    }
    return Output(
        config, Matrix(stored), weights if c is None else weights | {"output.bias": c.astype(dtype)}
    )


def bounds(output: Output, h: Any) -> Any:
    found = np.empty(len(h), np.float32)
    output._best.highest(0, len(h), np.ascontiguousarray(h, np.float32), found)
    return found


@settings(max_examples=200)
@given(st.integers(2, 200), st.integers(1, 90), st.integers(0, 2**32 - 1), st.data())
def test_no_word_is_more_probable_than_its_sketch_says(
    rows: int, width: int, seed: int, data: st.DataObject
) -> None:
    """In every form that V is stored in, from next to nothing to logits in the thousands; several as one."""
    generator = np.random.default_rng(seed)
    V = generator.normal(size=(rows, width)) * np.float64(data.draw(st.sampled_from([1e-30, 0.05, 3.0])))
    V[generator.random(rows) < 0.1] = 0
    V[:, generator.random(width) < 0.1] *= 40  # columns that take the scale of a row for themselves
    h = generator.normal(size=(3, width)) * data.draw(st.sampled_from([0.0, 1e-20, 0.3, 30.0]))
    c = generator.normal(size=rows) * 5 if data.draw(st.booleans()) else None
    for stored in in_every_form(V):
        output = of_one_cluster(stored, c)
        matrix, bias = Matrix(stored), None if c is None else c.astype(Matrix(stored).dtype)
        found = bounds(output, h)
        for row, bound in zip(h, found, strict=True):
            logits = matrix.product(row[None].astype(matrix.dtype), bias)[0, 1:].astype(np.float64)
            assert logits.max() - np.logaddexp.reduce(logits) <= bound
            assert bounds(output, row[None]) == bound  # the products are sums of whole numbers


def test_a_sketch_is_close() -> None:
    """Of use: at width 256 it lets a word be at most three times as probable as the best one is."""
    generator = np.random.default_rng(3)
    V = generator.normal(size=(501, 256)).astype(np.float32) / 8
    h = generator.normal(size=(1, 256)).astype(np.float32)
    logits = V[1:] @ h[0]
    share = logits.max() - np.logaddexp.reduce(logits)
    assert bounds(of_one_cluster(Stored(V), None), h)[0] < share + np.log(3)


@settings(max_examples=40)
@given(st.integers(0, 2**32 - 1), st.integers(1, 40), st.integers(1, 90), st.integers(0, 3))
def test_many_at_once_are_each_alone_to_the_bit(seed: int, count: int, width: int, form: int) -> None:
    """In every form, for any number of threads, with sketches and before there are any."""
    generator = np.random.default_rng(seed)
    words = 300
    config = ModelConfig(
        cell="gru", vocabulary=words, embedding=width, hidden=width, output="adaptive",
        cutoffs=(20, 90, 200), bias=True,
    )  # fmt: skip
    V = Matrix(in_every_form(generator.normal(size=(words, width)))[form])
    weights = {name: generator.normal(size=shape).astype(V.dtype) for name, shape in config.tensors().items()}
    h = generator.normal(size=(count, width)).astype(V.dtype)
    one, other = Output(config, V, weights), Output(config, V, weights, threads=3)
    allowed = np.flatnonzero(generator.random(words) < 0.5) if seed % 2 else None
    for _ in range(2):
        alone = [one.best(row[None], 7, allowed, 1)[0] for row in h]
        for (numbers, y), (expected, expected_y) in zip(other.best(h, 7, allowed, 1), alone, strict=True):
            assert numbers.tolist() == expected.tolist()
            assert y.tolist() == expected_y.tolist()
    assert one.best(h[:0], 7) == []


def test_of_equal_words_the_lower_numbers_come_and_barred_ones_never() -> None:
    """Over the border of a block of 64, over clusters, and fewer words than asked for."""
    for dtype in (np.float32, np.float64):
        for cutoffs in ((), (64, 100)):
            config = ModelConfig(
                cell="gru", vocabulary=150, embedding=1, hidden=1, cutoffs=cutoffs,
                output="adaptive" if cutoffs else "full",
            )  # fmt: skip
            # A cluster of n equal words is n times as probable as a word of the head: all words tie.
            weights = {"embedding.weight": np.zeros((150, 1)), "output.bias": np.zeros(150)}
            weights["output.clusters.weight"] = np.zeros((2, 1))
            weights["output.clusters.bias"] = np.log([36.0, 50.0])
            if not cutoffs:
                weights = {name: w for name, w in weights.items() if "clusters" not in name}
            output = output_of(config, {name: w.astype(dtype) for name, w in weights.items()})
            h = np.zeros((2, 1), dtype)
            for numbers, y in output.best(h, 3, None, 1):
                if not cutoffs:  # elsewhere the logs of 36 and 50 are rounded
                    assert numbers.tolist() == [0, 2, 3]
                # Sums of 150 terms of at most 1, each rounded by half an ulp of 150 at most; so are the logs.
                np.testing.assert_allclose(y, 1 / 150, rtol=150 * np.finfo(dtype).eps)
            for numbers, y in output.best(h, 3, np.array([70, 139])):
                assert sorted(numbers.tolist()) == [70, 139]
                assert len(y) == 2


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


@pytest.mark.parametrize("wrong", ["z", "entries", "rows"])
def test_the_softmax_kernel_reads_no_byte_beyond_a_buffer(wrong: str) -> None:
    call: dict[str, Any] = {"rows": 2, "entries": 4, "twice": False, "z": np.zeros((2, 4), np.float32)}
    assert _rows.log_softmax(**call)
    np.testing.assert_allclose(call["z"], -np.log(4), rtol=1e-6)  # a few roundings of 6e-8
    call |= {wrong: {"z": np.zeros(7, np.float32), "entries": 2**41, "rows": -1}[wrong]}
    with pytest.raises(ValueError, match=f"^{wrong}: needs|out of bounds"):
        _rows.log_softmax(**call)


LAYOUT: dict[str, Any] = {
    "form": 3, "words": 6, "width": 4, "bounds": np.array([0, 2, 6]), "V": np.zeros((6, 4), np.int8),
    "scales": np.zeros(6, np.float32), "c": np.zeros(6, np.float32),
    "entries": np.zeros((1, 4), np.float32), "entry_biases": np.zeros(1, np.float32),
}  # fmt: skip


@pytest.mark.parametrize(
    "changed",
    [
        {"form": 4}, {"words": 7}, {"words": 2**41}, {"width": 3}, {"width": 0}, {"scales": None},
        {"bounds": np.array([0, 2, 7])}, {"bounds": np.array([0, 0, 6])}, {"bounds": np.array([1, 2, 6])},
        {"bounds": np.array([6])}, {"bounds": np.array([0, 6])}, {"entries": None},
        *({name: np.zeros(1, np.int8)} for name in ("V", "scales", "c", "entries", "entry_biases", "bounds")),
    ],
)  # fmt: skip
def test_an_output_takes_only_buffers_that_fit(changed: dict[str, Any]) -> None:
    _rows.Output(**LAYOUT)
    with pytest.raises(ValueError, match=r"needs|out of bounds|must not be None"):
        _rows.Output(**LAYOUT | changed)


@pytest.mark.parametrize(
    "changed",
    [
        {"count": 0}, {"count": 2**41}, {"k": 0}, {"k": 2**40}, {"threads": 0},
        {"allowed": np.array([6])}, {"allowed": np.array([3, 3])}, {"allowed": np.array([-1, 3])},
        *({name: np.zeros(1, np.int8)} for name in ("h", "numbers", "logs")),
    ],
)  # fmt: skip
def test_the_best_kernel_reads_and_writes_no_byte_beyond_a_buffer(changed: dict[str, Any]) -> None:
    call: dict[str, Any] = {"count": 2, "k": 3, "never": -1, "threads": 1, "allowed": None}
    call |= {
        "h": np.zeros((2, 4), np.float32),
        "numbers": np.zeros((2, 3), np.int64),
        "logs": np.zeros((2, 3)),
    }
    output = _rows.Output(**LAYOUT)
    assert output.best(**call) == 3
    assert output.best(**call | {"allowed": np.array([3, 4]), "never": 4}) == 1
    with pytest.raises(ValueError, match=r"needs|out of bounds"):
        output.best(**call | changed)
    bound: dict[str, Any] = {"cluster": 0, "count": 2, "h": call["h"], "result": np.zeros(2, np.float32)}
    output.highest(**bound)
    for wrong in (
        {"cluster": 1},
        {"count": 0},
        {"h": np.zeros(7, np.float32)},
        {"result": np.zeros(1, "i1")},
    ):
        with pytest.raises(ValueError, match=r"needs|out of bounds"):
            output.highest(**bound | wrong)
