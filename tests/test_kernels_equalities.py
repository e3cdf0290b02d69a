"""What the kernels promise to the bit: every assertion here is an equality."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from glassgate import kernels
from glassgate.errors import GlassgateError
from kernel_cases import CELLS, Case, backward, cases, forward, make

# Large enough that several threads are used: shared by rows (small weights), by tiles, and with one sequence.
LARGE = [(12, 40, 30, 50), (6, 24, 40, 200), (9, 1, 64, 256), (5, 3, 300, 130)]


@pytest.fixture(autouse=True)
def _threads() -> Iterator[None]:
    yield
    kernels.set_num_threads(0)


def assert_equal(got: Any, want: Any) -> None:
    for name in want._fields:
        if getattr(want, name) is None:
            assert getattr(got, name) is None
        else:
            np.testing.assert_array_equal(getattr(got, name), getattr(want, name), err_msg=name)


@pytest.mark.parametrize("kind", ["fp32", "bf16", "float64"])
@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("size", LARGE)
@pytest.mark.parametrize("ragged", [False, True])
def test_any_number_of_threads(cell: str, size: tuple[int, ...], kind: str, ragged: bool) -> None:
    dtype, precision = (np.float64, "fp32") if kind == "float64" else (np.float32, kind)
    options = {"lengths": ragged, "resets": ragged, "reverse": ragged, "precision": precision}
    case = make(cell, *size, seed=5, dtype=dtype, bias=True, state=True, **options)
    d = np.random.default_rng(6).standard_normal((size[0], size[1], size[3])).astype(dtype)
    kernels.set_num_threads(1)
    saved = forward(case)
    gradients = backward(case, saved, d_hidden=d)
    for threads in (2, 3, 4):
        kernels.set_num_threads(threads)
        assert_equal(forward(case), saved)
        assert_equal(backward(case, saved, d_hidden=d), gradients)


@settings(max_examples=60, deadline=None)
@given(case=cases(dtype=np.float32), threads=st.integers(1, 4))
def test_a_second_run(case: Case, threads: int) -> None:
    kernels.set_num_threads(threads)
    saved = forward(case)
    assert_equal(forward(case), saved)
    d = np.ones_like(saved.hidden)
    assert_equal(backward(case, saved, d_hidden=d), backward(case, saved, d_hidden=d))


@settings(max_examples=80, deadline=None)
@given(case=cases(dtype=np.float32))
def test_recording_changes_nothing(case: Case) -> None:
    saved, plain = forward(case), forward(case, save=False)
    for name in ("hidden", "h_n", *(["c_n"] if case.cell == "lstm" else [])):
        np.testing.assert_array_equal(getattr(plain, name), getattr(saved, name), err_msg=name)


@settings(max_examples=80, deadline=None)
@given(case=cases(dtype=np.float32))
def test_step_by_step_is_the_sequence(case: Case) -> None:
    T, N, _ = case.x.shape
    case = case._replace(lengths=None, resets=None, reverse=False)
    whole = forward(case)
    packed = _packed(case)
    h = np.zeros((N, case.weights[1].shape[1]), np.float32) if case.h0 is None else case.h0.copy()
    c = np.zeros_like(h) if case.c0 is None else case.c0.copy()
    gates = np.empty((N, case.gates, h.shape[1]), np.float32)
    for t in range(T):
        state = (h, c) if case.cell == "lstm" else (h,)
        packed.step(np.ascontiguousarray(case.x[t]), *state, gates)
        np.testing.assert_array_equal(h, whole.hidden[t])
        np.testing.assert_array_equal(gates, whole.gates[t])
    np.testing.assert_array_equal(h, whole.h_n)
    if case.cell == "lstm":
        np.testing.assert_array_equal(c, whole.c_n)


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("size", [(1, 3, 5), (7, 40, 9), (1, 260, 300), (5, 500, 259), (40, 300, 270)])
def test_a_step_from_the_sums_of_its_inputs(cell: str, size: tuple[int, ...], precision: Any) -> None:
    """Few units, or weights that fill more than a cache and are read forth and back; one to three threads."""
    case = make(cell, 6, *size, seed=3, dtype=np.float32, bias=True, precision=precision)
    whole = forward(case)
    for threads in (1, 2, 3):
        packed = _packed(case)
        state = [np.zeros_like(whole.h_n) for _ in range(2 if cell == "lstm" else 1)]
        gates = np.empty_like(whole.gates[0])
        for t, x in enumerate(case.x):
            summed = t % 3 > 0
            given = packed.input_sums(x, threads=threads) if summed else x
            packed.step(given, *state, gates, summed=summed, threads=threads)
            np.testing.assert_array_equal(state[0], whole.hidden[t])
            np.testing.assert_array_equal(gates, whole.gates[t])


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("size", [(1, 64, 130), (3, 300, 129), (64, 7, 50), (65, 40, 33), (40, 9, 9)])
def test_one_step_with_weights_not_packed(cell: str, size: tuple[int, ...], precision: Any) -> None:
    """A single step of at most 64 sequences packs its weights on the way."""
    case = make(cell, 1, *size, seed=7, dtype=np.float32, bias=True, state=True, precision=precision)
    run: Any = _packed(case).forward
    options = _packed_options(case)
    expected = run(case.x, **case.states(), **options)
    for threads in (1, 2, 3):
        kernels.set_num_threads(threads)
        assert_equal(forward(case), expected)


@settings(max_examples=80, deadline=None)
@given(case=cases(dtype=np.float32))
def test_packed_weights_are_the_weights(case: Case) -> None:
    run: Any = _packed(case).forward
    options = _packed_options(case)
    assert_equal(run(case.x, **case.states(), **options), forward(case))


@settings(max_examples=80, deadline=None)
@given(case=cases(dtype=np.float32))
def test_a_padded_batch_is_each_sequence_alone(case: Case) -> None:
    """Also: a batch of N is N batches of one. Outputs, states, and the gradients of each sequence."""
    T, N, _ = case.x.shape
    saved = forward(case)
    names = ["hidden", "gates", "h_n"] + (["cell", "c_n"] if case.cell == "lstm" else [])
    rng = np.random.default_rng(7)
    d = {f"d_{k}": rng.standard_normal(getattr(saved, k).shape).astype(np.float32) for k in names}
    gradients = backward(case, saved, **d)
    for n in range(N):
        length = T if case.lengths is None else int(case.lengths[n])
        one = case._replace(
            x=case.x[:length, n : n + 1],
            h0=None if case.h0 is None else case.h0[n : n + 1],
            c0=None if case.c0 is None else case.c0[n : n + 1],
            lengths=None,
            resets=None if case.resets is None else case.resets[:length, n : n + 1],
        )
        alone = forward(one)
        part = {k: v[n : n + 1] if k in ("d_h_n", "d_c_n") else v[:length, n : n + 1] for k, v in d.items()}
        alone_gradients = backward(one, alone, **part)
        for name in names:
            got = getattr(saved, name)
            if name in ("h_n", "c_n"):
                np.testing.assert_array_equal(got[n], getattr(alone, name)[0], err_msg=name)
            else:
                np.testing.assert_array_equal(got[:length, n], getattr(alone, name)[:, 0], err_msg=name)
                assert not got[length:, n].any()
        np.testing.assert_array_equal(gradients.x[:length, n], alone_gradients.x[:, 0])
        assert not gradients.x[length:, n].any()
        np.testing.assert_array_equal(gradients.h0[n], alone_gradients.h0[0])
        if gradients.c0 is not None and alone_gradients.c0 is not None:
            np.testing.assert_array_equal(gradients.c0[n], alone_gradients.c0[0])


@settings(max_examples=60, deadline=None)
@given(case=cases(dtype=np.float32))
def test_reverse_is_the_sequence_turned_round(case: Case) -> None:
    T, N, _ = case.x.shape
    case = case._replace(reverse=False)
    turned = [
        np.arange(T)[::-1] if case.lengths is None else _turn(T, int(case.lengths[n])) for n in range(N)
    ]
    order = np.stack(turned, axis=1) if N else np.empty((T, 0), int)
    columns = np.arange(N)
    back = case._replace(
        x=case.x[order, columns],
        resets=None if case.resets is None else case.resets[order, columns],
        reverse=True,
    )
    ahead, behind = forward(case), forward(back)
    np.testing.assert_array_equal(behind.hidden[order, columns], ahead.hidden)
    np.testing.assert_array_equal(behind.h_n, ahead.h_n)


@pytest.mark.parametrize("cell", CELLS)
def test_views_and_strides_make_no_difference(cell: str) -> None:
    case = make(cell, 6, 5, 8, 12, bias=True)
    x = np.ascontiguousarray(case.x.transpose(1, 0, 2)).transpose(1, 0, 2)
    w_ih, w_hh, b_ih, b_hh = (np.asfortranarray(w) for w in case.weights)
    assert not x.flags.c_contiguous
    assert_equal(forward(case._replace(x=x, weights=(w_ih, w_hh, b_ih, b_hh))), forward(case))


@pytest.mark.parametrize("name", ["baseline", "avx2", "avx512", "avx512bf16", "amx", "nothing"])
def test_every_instruction_set_computes_the_definition(name: str) -> None:
    """The tests of the values, each set in a process of its own, since it is chosen once at the import."""
    seen = "import sys; from glassgate import kernels; sys.stdout.write(kernels.isa())"
    environment = {**os.environ, "GLASSGATE_ISA": name}
    asked = [sys.executable, "-c", seen]
    done = subprocess.run(asked, env=environment, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        last = done.stderr.strip().splitlines()[-1]
        assert last.startswith(f"{GlassgateError.__module__}.GlassgateError: GLASSGATE_ISA")
        assert name == "nothing" or "lacks it" in last
        assert name != "baseline"
        return
    assert done.stdout == name
    if name == kernels.isa():
        return  # they have run in this process
    values = Path(__file__).with_name("test_kernels_values.py")
    tests = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(values)]
    done = subprocess.run(tests, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def _turn(T: int, length: int) -> Any:
    return np.concatenate([np.arange(length)[::-1], np.arange(length, T)])


def _packed(case: Case) -> Any:
    if case.cell == "lstm":
        return kernels.PackedLSTM(*case.weights, precision=case.precision)
    return kernels.PackedGRU(*case.weights, reset=case.options()["reset"], precision=case.precision)


def _packed_options(case: Case) -> dict[str, Any]:
    """Without what packed weights already know."""
    known = ("reset", "precision")
    return {name: value for name, value in case.options(save=True).items() if name not in known}
