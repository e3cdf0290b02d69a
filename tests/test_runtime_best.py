"""The best words, exactly, and the clusters that are passed by on the way to them."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from by_hand import drawn_weights
from glassgate import kernels
from glassgate.errors import GlassgateError
from glassgate.folder.compact import Stored, packed
from glassgate.folder.config import ModelConfig
from glassgate.runtime import _rows
from glassgate.runtime.matrix import Matrix
from glassgate.runtime.output import Output
from glassgate.runtime.word_matrix import Piece, WordMatrix
from test_runtime import CLOSE, configs, float32


def output_of(config: ModelConfig, weights: dict[str, Any]) -> Output:
    stored = {name: Stored(values) for name, values in weights.items()}
    V = WordMatrix.embedding(config, stored) if config.tied else whole(Matrix(stored["output.weight"]))
    return Output(config, V, weights)


def whole(V: Matrix) -> WordMatrix:
    return WordMatrix([Piece(0, V)])


def in_every_form(V: Any) -> list[Stored]:
    V32 = V.astype(np.float32)
    bf16, int8 = packed({"V": V32}, "bf16"), packed({"V": V32}, "int8")
    return [Stored(V), Stored(V32), Stored(bf16["V"]), Stored(*int8.values())]


def check_best(output: Output, h: Any, k: int, allowed: Any, never: int | None) -> None:
    """Compare with a stable sort of every log y of one h: the same words, order and bits."""
    logs = output.log_probabilities(h[None])[0]
    may = np.arange(output.words) if allowed is None else allowed
    may = may[may != never]
    expected = may[np.argsort(-logs[may], kind="stable")][:k]
    ((numbers, y),) = output.best(h[None], k, allowed, never)
    assert numbers.tolist() == expected.tolist()
    assert np.array_equal(y, np.exp(logs[expected].astype(np.float64)))


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
    for row in h:
        check_best(output, row, k, allowed, never)
    # Several rows at once go through other products, which may round otherwise.
    for (numbers, y), row in zip(output.best(h, k, allowed, never), h, strict=True):
        ((alone, expected_y),) = output.best(row[None], k, allowed, never)
        assert len(numbers) == len(alone)
        np.testing.assert_allclose(y, expected_y, rtol=CLOSE, atol=1e-30)


@settings(max_examples=200)
@given(
    st.integers(0, 2**32 - 1),
    st.integers(0, 3),
    st.sampled_from([1e-9, 1e-7, 1e-5, 0.01, 3.0, 1e3]),
    st.data(),
)
def test_the_best_words_of_any_weights_are_exact_in_every_form(
    seed: int, form: int, scale: float, data: st.DataObject
) -> None:
    """Also where logits differ and their log y, rounded, do not: there the lower number comes first.

    Each h is asked for twice, the second time with sketches.
    """
    generator = np.random.default_rng(seed)
    words, width = data.draw(st.integers(4, 400)), data.draw(st.integers(1, 20))
    cutoffs = tuple(sorted(data.draw(st.sets(st.integers(1, words - 1), max_size=3))))
    config = ModelConfig(
        cell="gru", vocabulary=words, embedding=width, hidden=width, cutoffs=cutoffs,
        output="adaptive" if cutoffs else "full",
    )  # fmt: skip
    V = Matrix(in_every_form(generator.normal(size=(words, width)) * scale)[form])
    weights = {name: generator.normal(size=shape) * scale for name, shape in config.tensors().items()}
    if cutoffs:  # so that a word of a cluster is about as probable as one of the head
        weights["output.clusters.bias"] += np.log(np.diff((*cutoffs, words)))
    weights = {name: values.astype(V.dtype) for name, values in weights.items()}
    output = Output(config, whole(V), weights)
    k, never = data.draw(st.sampled_from([1, 3, 20, 400])), data.draw(st.integers(0, words - 1))
    allowed = np.flatnonzero(generator.random(words) < 0.3) if data.draw(st.booleans()) else None
    for h in np.repeat(generator.normal(size=(3, width)).astype(V.dtype), 2, axis=0):
        check_best(output, h, k, allowed, never)


def test_logits_that_differ_may_be_equal_probabilities() -> None:
    """Biases of 0, 1e-9, ... 4e-9 are five numbers in float32; less log 5 they are one."""
    config = ModelConfig(cell="gru", vocabulary=5, embedding=1, hidden=1)
    weights = {
        "embedding.weight": np.zeros((5, 1), np.float32),
        "output.bias": np.arange(5, dtype="f4") * 1e-9,
    }
    ((numbers, y),) = output_of(config, weights).best(np.zeros((1, 1), np.float32), 3)
    assert len(set(weights["output.bias"].tolist())) == 5
    assert (numbers.tolist(), len(set(y.tolist()))) == ([0, 1, 2], 1)


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


@pytest.mark.parametrize("share", [0.3, 0.55])
@pytest.mark.parametrize("count", [1, 3])
def test_a_sketch_rules_out_what_a_share_cannot(count: int, share: float) -> None:
    """A cluster with much of the probability, over so many words that none of them is among the best.

    Ten words of the head have logits about 0: the cluster is e^1.5 or e^2.5 times as probable as each.
    Of the first a coarse sketch is asked before the other.
    """
    config, weights = barred((10, 2_000), [float(np.log(10 * share / (1 - share)))])
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


@pytest.mark.parametrize("name", ["baseline", "avx2", "avx512"])
def test_every_instruction_set_finds_the_same(name: str) -> None:
    """The tests that need them, in a process of its own: the set is chosen once."""
    there_are = ["baseline", "avx2", "avx512"]
    if kernels.isa() in there_are[: there_are.index(name)]:
        pytest.skip(f"this machine has no {name}")
    only = "in_every_form or sketch_rules_out or wide_bound or many_sketches or its_sketch_says or to_the_bit"
    files = [__file__, str(Path(__file__).with_name("test_runtime.py"))]
    chosen = ["-k", f"{only} or product"]
    tests = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *files, *chosen]
    environment = {**os.environ, "GLASSGATE_ISA": name}
    done = subprocess.run(tests, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    assert "\n13 passed" in done.stdout


@pytest.mark.parametrize("width", [5, 32, 71, 128])
def test_many_sketches_at_once_are_those_of_each_alone(width: int) -> None:
    """Products of several rows with several h, none of them a multiple of what is computed at once."""
    config, weights = barred((10, 75, 203, 70), [2.0, 2.0, 2.0], width)
    output = output_of(config, weights)
    h = np.random.default_rng(width).normal(size=(40, width)).astype(np.float32)
    output.best(h, 5)  # makes the sketches
    for _ in range(2):
        for count in (1, 2, 3, 5, 16, 17, 33, 40):
            for row, (numbers, y) in zip(h, output.best(h[:count], 5), strict=False):
                logs = output.log_probabilities(row[None])[0]
                assert numbers.tolist() == np.argsort(-logs, kind="stable")[:5].tolist()
                np.testing.assert_allclose(y, np.exp(logs[numbers]), rtol=CLOSE)


def test_a_row_of_a_wide_bound_is_looked_at_before_its_cluster() -> None:
    """A column of 400 that h does not see takes the scale of its row; the others are left out by the sketch.

    They are 1.5 in turn up and down: a logit of 0.15, and a length of 12 times 0.8 that the bound allows for.
    """
    config, weights = barred((10, 2_000), [2.5])
    V, h = weights["embedding.weight"], np.full((1, 64), 0.1, np.float32)
    h[0, 0], V[700] = 0, np.where(np.arange(64) % 2, 1.5, -1.5)
    V[700, 0] = 400
    output = output_of(config, weights)
    ((expected, y),) = output.best(h, 5)
    output.best(h, 5)  # makes the sketch
    V[10:700] = V[701:] = np.nan
    ((numbers, same),) = output.best(h, 5)
    assert (numbers.tolist(), same.tolist()) == (expected.tolist(), y.tolist())
    V[700] = np.nan
    with pytest.raises(GlassgateError, match="are no numbers"):
        output.best(h, 5)


def against_a_cluster(stored: Stored, c: Any, lead: float, h: Any) -> Output:
    """A head of one word whose log y is by ``lead`` above that of the best word behind it, in one cluster.

    The row of the head is 0: its logit is its bias, b. With w the log y of that word in its cluster, whose
    own logit is 0, the two words have b and w less the same sum. The sketch is there already.
    """
    matrix = Matrix(stored)
    rows, width = stored.values.shape
    config = ModelConfig(
        cell="gru", vocabulary=rows, embedding=width, hidden=width, output="adaptive", cutoffs=(1,)
    )
    bias = (np.zeros(rows) if c is None else c).astype(matrix.dtype)
    logits = matrix.product(h[None], bias)[0].astype(np.float64)
    best = logits[1:].max() - np.logaddexp.reduce(logits[1:])
    bias[0] = best + lead
    none = np.zeros((1, width), matrix.dtype)
    weights = {"output.bias": bias, "output.clusters.weight": none, "output.clusters.bias": none[0, :1]}
    output = Output(config, whole(matrix), weights)
    for _ in range(2):
        output.best(h[None], rows)
    return output


@settings(max_examples=200)
@given(st.integers(2, 200), st.integers(1, 90), st.integers(0, 2**32 - 1), st.data())
def test_no_word_is_more_probable_than_its_sketch_says(
    rows: int, width: int, seed: int, data: st.DataObject
) -> None:
    """In every form that V is stored in, from next to nothing to logits in the thousands.

    A word that is a little more probable than the head's is found behind its sketch.
    """
    generator = np.random.default_rng(seed)
    V = generator.normal(size=(rows, width)) * np.float64(data.draw(st.sampled_from([1e-30, 0.05, 3.0])))
    V[generator.random(rows) < 0.1] = 0
    V[:, generator.random(width) < 0.1] *= 40  # columns that take the scale of a row for themselves
    V[0] = 0
    drawn = generator.normal(size=width) * data.draw(st.sampled_from([0.0, 1e-20, 0.3, 30.0]))
    c = generator.normal(size=rows) * 5 if data.draw(st.booleans()) else None
    for stored in in_every_form(V):
        h = drawn.astype(Matrix(stored).dtype)
        # Of 200 words the best has a log y above -5.4: float32 rounds each of five such terms by 2.4e-7.
        ((numbers, _),) = against_a_cluster(stored, c, -1e-5, h).best(h[None], 1)
        assert numbers[0] > 0


def test_a_sketch_is_close() -> None:
    """Of use: at width 256 it rules out a cluster whose best word is a third as probable as the head's."""
    generator = np.random.default_rng(3)
    V = generator.normal(size=(501, 256)).astype(np.float32) / 8
    V[0] = 0
    h = generator.normal(size=256).astype(np.float32)
    output = against_a_cluster(Stored(V), None, float(np.log(3)), h)
    V[1:] = np.nan  # would be told if it were read
    assert output.best(h[None], 1)[0][0].tolist() == [0]


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
    one, other = Output(config, whole(V), weights), Output(config, whole(V), weights, threads=3)
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


@pytest.mark.parametrize("wrong", ["V", "h", "y", "c", "scales", "none", "form", "size", "count", "many"])
def test_the_kernel_reads_no_byte_beyond_a_buffer(wrong: str) -> None:
    V, scales = np.zeros((3, 4), np.int8), np.zeros(3, np.float32)
    call: dict[str, Any] = {"form": 3, "rows": 3, "width": 4, "V": V, "scales": scales, "c": scales}
    call |= {"count": 2, "h": np.zeros((2, 4), np.float32), "y": np.zeros((2, 3), np.float32)}
    _rows.product(**call)
    if wrong in ("none", "form", "size", "count", "many"):
        changes = {"none": {"scales": None}, "form": {"form": 4}, "size": {"rows": 2**40, "width": 2**40}}
        changes |= {"count": {"count": -1}, "many": {"count": 2**40}}
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


def piece(form: int = 3, words: int = 3, width: int = 4, **other: Any) -> tuple[Any, ...]:
    told = {"V": np.zeros((3, 4), np.int8), "scales": np.zeros(3, np.float32), **other}
    return (form, words, width, told["V"], told["scales"])


LAYOUT: dict[str, Any] = {
    "bounds": np.array([0, 2, 3, 6]), "c": np.zeros(6, np.float32),
    "pieces": [piece(), piece(width=2, V=np.zeros((3, 2), np.int8))],
    "entries": np.zeros((2, 4), np.float32), "entry_biases": np.zeros(2, np.float32),
}  # fmt: skip
ONE = np.zeros(1, np.int8)


@pytest.mark.parametrize(
    "changed",
    [
        *({"pieces": [piece(), piece(**wrong)]} for wrong in (
            {"form": 4}, {"words": 4}, {"words": 2**41}, {"width": 3}, {"width": 0}, {"scales": None},
            {"V": ONE}, {"scales": ONE}, {"form": 1, "V": np.zeros((3, 4)), "scales": None},
        )),
        {"pieces": []}, {"pieces": [piece()]}, {"pieces": [piece()[:4], piece()]},
        {"pieces": [piece(words=0, V=b"", scales=b""), piece(), piece()]},
        {"bounds": np.array([0, 2, 3, 7])}, {"bounds": np.array([0, 0, 3, 6])},
        {"bounds": np.array([1, 2, 3, 6])}, {"bounds": np.array([0, 2, 4, 6])}, {"bounds": np.array([6])},
        {"bounds": np.array([0, 3, 6])}, {"bounds": np.array([0, 6])}, {"entries": None},
        *({name: ONE} for name in ("c", "entries", "entry_biases", "bounds")),
    ],
)  # fmt: skip
def test_an_output_takes_only_buffers_that_fit(changed: dict[str, Any]) -> None:
    _rows.Output(**LAYOUT)
    with pytest.raises(ValueError, match=r"needs|out of bounds|must not be None|not both|five things"):
        _rows.Output(**LAYOUT | changed)


@pytest.mark.parametrize(
    "changed",
    [
        {"count": 0}, {"count": 2**41}, {"k": 0}, {"k": 2**40}, {"threads": 0},
        {"allowed": np.array([6])}, {"allowed": np.array([3, 3])}, {"allowed": np.array([-1, 3])},
        *({name: ONE} for name in ("numbers", "logs")),
        *({"h": h} for h in ([], [np.zeros((2, 4), np.float32)], [ONE, ONE], [None, None])),
    ],
)  # fmt: skip
def test_the_best_kernel_reads_and_writes_no_byte_beyond_a_buffer(changed: dict[str, Any]) -> None:
    call: dict[str, Any] = {"count": 2, "k": 3, "never": -1, "threads": 1, "allowed": None}
    call |= {
        "h": [np.zeros((2, 4), np.float32), np.zeros((2, 2), np.float32)],
        "numbers": np.zeros((2, 3), np.int64),
        "logs": np.zeros((2, 3)),
    }
    output = _rows.Output(**LAYOUT)
    assert output.best(**call) == 3
    assert output.best(**call | {"allowed": np.array([3, 4]), "never": 4}) == 1
    with pytest.raises(ValueError, match=r"needs|out of bounds|one for each piece"):
        output.best(**call | changed)
