"""The benchmark's contests: right results pass, wrong ones are found before anything is timed."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from onnx import load_model_from_string
from onnx.reference import ReferenceEvaluator
from torch import Tensor, nn

import glassgate
from glassgate import kernels
from glassgate.bench import contests, measure, onnx_peer
from glassgate.bench.checks import WrongResultError
from glassgate.bench.contests import prepare
from glassgate.bench.works import WORKS, Shape
from program import Program

STEP, SMALL = Shape(1, 1, 4, 512), Shape(9, 3, 4, 5)
HERE = [name for name, work in WORKS.items() if work.peer != "ONNX Runtime"]
OUTSIDE = [name for name, work in WORKS.items() if work.peer == "ONNX Runtime"]


def shape_of(name: str) -> Shape:
    return STEP if WORKS[name].steps or WORKS[name].task == "bf16" else SMALL


def check(name: str, shape: Shape | None = None) -> float:
    work = WORKS[name]
    with torch.inference_mode(not work.training):
        contest = prepare(work, shape or shape_of(name), 1, 0.0)
        error = contest.check()
        contest.ours()
        for call in contest.peers.values():
            call()
    assert error <= contest.allowed
    assert list(contest.peers or contest.outside)
    return error


@pytest.mark.parametrize("name", WORKS)
def test_right_results_pass(name: str) -> None:
    error = check(name)
    assert error < 1e-6 or WORKS[name].task == "bf16"  # float32 over nine steps of five units


def distort(monkeypatch: pytest.MonkeyPatch, change: Any) -> None:
    """Let the layers' results go through ``change`` before anyone sees them."""

    def wrong(base: type) -> type:
        class Wrong(base):  # type: ignore[misc]
            def forward(self, *inputs: Any, **options: Any) -> Any:
                y, last = super().forward(*inputs, **options)
                if isinstance(last, tuple):
                    return change(y), (change(last[0]), last[1])
                return change(y), change(last)

        return Wrong

    for name in ("LSTM", "GRU"):
        monkeypatch.setattr(contests, name, wrong(getattr(glassgate, name)))
    step = kernels.PackedLSTM.step

    def wrong_step(self: Any, x: Any, h: Any, c: Any, gates: Any = None) -> None:
        step(self, x, h, c, gates)
        h[:] = change(torch.from_numpy(h)).numpy()

    def wrong_forward(forward: Any) -> Any:
        def distorted(self: Any, x: Any) -> Any:
            found = forward(self, x)
            return found._replace(hidden=change(torch.from_numpy(found.hidden)).numpy())

        return distorted

    monkeypatch.setattr(kernels.PackedLSTM, "step", wrong_step)
    for packed in (kernels.PackedLSTM, kernels.PackedGRU):
        monkeypatch.setattr(packed, "forward", wrong_forward(packed.forward))


@pytest.mark.parametrize("name", WORKS)
def test_a_wrong_output_is_found(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """One element off by a thousandth of the largest; with bf16, whose tolerance is 3 %, by a tenth."""
    size = 0.1 if WORKS[name].task == "bf16" else 1e-3

    def change(y: Tensor) -> Tensor:
        off = torch.zeros(y.shape)
        off.view(-1)[-1] = size * float(y.detach().abs().max())
        return y + off

    distort(monkeypatch, change)
    with pytest.raises(WrongResultError, match=r"^(output|h): differs by "):
        check(name)


@pytest.mark.parametrize("name", [name for name in WORKS if WORKS[name].training])
def test_a_wrong_gradient_is_found(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """The output is right, what flows back through it is not."""

    def change(y: Tensor) -> Tensor:
        if y.requires_grad:
            y.register_hook(lambda d: 1.1 * d)
        return y

    distort(monkeypatch, change)
    with pytest.raises(WrongResultError, match=r"^gradient on "):
        check(name)


def test_a_missing_gradient_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    class Frozen(glassgate.LSTM):
        def forward(self, *inputs: Any, **options: Any) -> Any:
            self.bias_hh_l0.requires_grad_(False)
            return super().forward(*inputs, **options)

    monkeypatch.setattr(contests, "LSTM", Frozen)
    with pytest.raises(WrongResultError, match=r"^gradient on bias_hh_l0: is missing$"):
        check("lstm-training")


def test_a_wrong_row_ends_the_run_and_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    distort(monkeypatch, lambda y: 2 * y)
    monkeypatch.setattr(measure, "sgemm_rate", lambda seconds: 100.0)
    said: list[str] = []
    with pytest.raises(
        WrongResultError, match=r"^lstm-inference 9x3x4x5: output: .*; nothing of it was timed"
    ):
        measure.measure([WORKS["lstm-inference"]], (SMALL,), 1, True, said.append)
    assert not any(text.startswith("lstm-inference") for text in said)


def test_ragged_steps_are_the_lengths() -> None:
    """Steps past a length give zeros, and no unit's hidden state is zero before."""
    shape = Shape(16, 200, 4, 5)
    contest = prepare(WORKS["lstm-ragged"], shape, 1, 0.0)
    y: Any = contest.ours()
    active = (y.detach().abs().sum(-1) > 0).sum(0)
    assert int(active.sum()) == contest.steps
    assert int(active.min()) >= 4
    assert int(active.max()) == 16
    assert len(set(active.tolist())) == 13  # all lengths from T/4 to T


def test_recorded_is_compared_to_the_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    """A last bit that changes when gates are recorded is a difference."""

    class Other(glassgate.LSTM):
        def forward(self, *inputs: Any, **options: Any) -> Any:
            y, last = super().forward(*inputs, **options)
            return torch.nextafter(y, torch.ones(())) if self._recorders else y, last

    monkeypatch.setattr(contests, "LSTM", Other)
    with pytest.raises(WrongResultError, match=r"^output: differs between recorded and not$"):
        check("lstm-recorded")


@pytest.mark.parametrize(("cell", "states"), [("lstm", False), ("gru", False), ("lstm", True)])
def test_the_onnx_graph_is_torchs_layer(cell: str, states: bool) -> None:
    """By the reference evaluator of the onnx package, which is neither ours nor the runtime's.

    Float32 sums of 9 products of numbers below 3, over nine steps of a contraction: 9 x 3 x 2^-24 x 2 < 4e-6.
    """
    torch.manual_seed(0)
    module: Any = (nn.LSTM if cell == "lstm" else nn.GRU)(4, 5)
    graph = load_model_from_string(onnx_peer.graph(cell, module.state_dict(), states))
    x = torch.randn(1 if states else 9, 3, 4)
    feeds = {"x": x.numpy()}
    state = None
    if states:
        state = torch.randn(1, 3, 5), torch.randn(1, 3, 5)
        feeds |= {"h": state[0].numpy(), "c": state[1].numpy()}
    got = ReferenceEvaluator(graph).run(None, feeds)
    with torch.inference_mode():
        y, last = module(x, state)
    want = list(last) if states else [y.unsqueeze(1)]
    assert len(got) == len(want)
    for array, tensor in zip(got, want, strict=True):
        np.testing.assert_allclose(array, tensor.numpy(), rtol=0, atol=4e-6)


def test_a_failing_runtime_is_a_reason_not_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(onnx_peer.UnavailableError, match=r"^ONNX Runtime failed: \S.*$"):
        onnx_peer.measure(b"no graph", {"x": np.zeros((1, 1, 4), np.float32)}, 1, 0.0)
    monkeypatch.setattr(measure, "sgemm_rate", lambda seconds: 100.0)
    monkeypatch.setattr(onnx_peer, "graph", lambda *arguments: b"no graph")
    said: list[str] = []
    report = measure.measure([WORKS["lstm-inference-ort"]], (SMALL,), 1, True, said.append)
    assert report.rows == []
    assert report.skipped == [said[-1]]
    assert said[-1].startswith("lstm-inference-ort 9x3x4x5: skipped, ONNX Runtime failed: ")


@pytest.mark.parametrize("library", ["onnx", "onnxruntime"])
def test_a_missing_runtime_is_said_in_one_line(monkeypatch: pytest.MonkeyPatch, library: str) -> None:
    monkeypatch.setattr(onnx_peer, "find_spec", lambda name: None if name == library else object())
    monkeypatch.setattr(measure, "sgemm_rate", lambda seconds: 100.0)
    said: list[str] = []
    works = [WORKS[name] for name in OUTSIDE]
    report = measure.measure(works, (STEP,), 1, True, said.append)
    assert report.skipped == [
        f"{name}: skipped, {library} is not installed: pip install 'glassgate[bench]'" for name in OUTSIDE
    ]
    assert said[-len(OUTSIDE) :] == report.skipped


def test_threads_are_as_asked_and_as_before_afterwards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure, "sgemm_rate", lambda seconds: 100.0)
    before = torch.get_num_threads()
    seen = []

    def asked(*arguments: Any) -> Any:
        seen.append((torch.get_num_threads(), kernels.num_threads(), arguments[2]))
        return prepare(*arguments)

    monkeypatch.setattr(measure, "prepare", asked)
    report = measure.measure([WORKS["lstm-inference"]], (SMALL,), 3, True, lambda text: None)
    assert seen == [(3, 3, 3)]
    assert (report.threads, torch.get_num_threads()) == (3, before)


def test_the_command_writes_all_it_found(program: Program, tmp_path: Path) -> None:
    """One shape that every work takes; the file holds what the lines say, and more."""
    path = tmp_path / "found.json"
    ended = program.run("bench", "--quick", "--threads", 1, "--shapes", STEP, "--json", path)
    assert (ended.code, ended.err) == (0, "")
    found = json.loads(path.read_text())
    assert list(tmp_path.iterdir()) == [path]
    assert set(found) == {
        "environment",
        "threads",
        "sgemm_gflops",
        "quick",
        "seconds",
        "rows",
        "aims",
        "skipped",
    }
    assert (found["threads"], found["quick"], found["skipped"]) == (1, True, [])
    assert found["sgemm_gflops"] > 0
    assert found["environment"]["torch"] == torch.__version__
    assert found["environment"]["glassgate"] == glassgate.__version__
    assert found["environment"]["instruction set"] == kernels.isa()
    assert [row["work"] for row in found["rows"]] == list(WORKS)
    lines = ended.out.splitlines()
    for row in found["rows"]:
        work = WORKS[row["work"]]
        assert row["shape"] == STEP._asdict()
        assert row["against"] == work.peer
        assert row["ms"] > 0
        assert row["rounds"] >= 3
        forms = {name: form["ms"] for name, form in row["peer_forms"].items()}
        assert row["peer_ms"] == forms[row["peer"]] == min(forms.values()) > 0
        assert row["ratio"] == pytest.approx(row["peer_ms"] / row["ms"])
        assert row["flops"] == work.flops(STEP, 1)
        assert row["gflops"] == pytest.approx(row["flops"] / row["ms"] / 1e6)
        assert row["share_of_sgemm"] == pytest.approx(row["gflops"] / found["sgemm_gflops"])
        assert 0 <= row["error"] <= row["error_allowed"]
        (told,) = [text for text in lines if text.split()[:2] == [row["work"], "1x1x4x512"]]
        assert told.split()[-1 - len(row["peer"].split())] == f"{row['ratio']:.2f}"
        assert told.endswith(f"  {row['peer']}")
    asked = {aim["of"]: aim for aim in found["aims"]}
    for name, work in WORKS.items():
        (ratio,) = [row["ratio"] for row in found["rows"] if row["work"] == name]
        for of, wanted in (("geometric mean", work.mean), ("smallest", work.least)):
            aim = asked[f"{name} / {work.peer}, {of}"]
            assert aim["measured"] == pytest.approx(ratio)
            assert aim["asked"] == wanted
            assert aim["met"] == (None if wanted is None else ratio >= wanted)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--work", "lstm"], "--work: expected some of lstm-training, gru-training, "),
        (["--shapes", "35x20"], "--shapes: expected TxNxIxH, as 35x20x650x650, "),
        (["--shapes", "2x1x4x5", "--work", "lstm-bf16,lstm-step-ort"], "--shapes: none fits the works; "),
        (["--threads", 0], "--threads: expected 1 to 1024, got 0"),
        (["--threads", 1025], "--threads: expected 1 to 1024, got 1025"),
        (
            ["--json", "absent/found.json"],
            "--json: expected a file in an existing folder, got absent/found.json",
        ),
        (["--json", "/"], "--json: expected a file in an existing folder, got /"),
        (["--quik"], "No such option: --quik"),
    ],
)
def test_bad_options_are_one_line(program: Program, words: list[object], message: str) -> None:
    refused = program.run("bench", *words)
    assert refused.error.startswith(message), refused.err
    assert refused.out == ""


def test_the_process_of_the_runtime_imports_no_torch() -> None:
    """It would bring threads of its own."""
    code = "import sys, glassgate.bench.onnx_process; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
