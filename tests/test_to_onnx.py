"""The exported graph in ONNX Runtime against the runtime, at several batch sizes and lengths."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest

import glassgate
from by_hand import drawn_weights, runtime_model
from glassgate import GlassgateError
from glassgate.exchange import to_onnx
from glassgate.folder.compact import Stored
from glassgate.folder.config import ModelConfig
from glassgate.folder.vocabulary import Vocabulary
from glassgate.folder.weights import save_weights
from glassgate.language.compress import compress
from program import Program

# Both round float32 sums of at most 40 products behind logits below 20; see test_runtime.py.
CLOSE = 1e-5

FORMS: dict[str, dict[str, Any]] = {
    "lstm": {"cell": "lstm"},
    "lstm, stack": {"cell": "lstm", "layers": 3},
    "lstm, no bias, untied": {"cell": "lstm", "bias": False, "tied": False},
    "lstm, tied at one width": {"cell": "lstm", "embedding": 11},
    "lstm, adaptive": {"cell": "lstm", "output": "adaptive", "cutoffs": (7, 8, 20)},
    "lstm, adaptive, no bias": {"cell": "lstm", "output": "adaptive", "cutoffs": (5,), "bias": False},
    "lstm, adaptive embedding": {
        **{"cell": "lstm", "output": "adaptive", "cutoffs": (7, 8, 20)},
        **{"embedding": 16, "embedding_cutoffs": (8, 20)},
    },
    "gru, before": {"cell": "gru", "reset": "before"},
    "gru, before, stack, adaptive": {
        **{"cell": "gru", "reset": "before", "layers": 2, "output": "adaptive"},
        **{"cutoffs": (3, 9), "tied": False},
    },
    "gru, after": {"cell": "gru", "reset": "after"},
    "gru, after, stack, no bias": {"cell": "gru", "reset": "after", "layers": 2, "bias": False},
}


def drawn(**form: Any) -> tuple[ModelConfig, dict[str, Any]]:
    config = ModelConfig(**{"vocabulary": 30, "embedding": 6, "hidden": 11, "eos": "none", **form})
    return config, {name: w.astype(np.float32) for name, w in drawn_weights(config, 8).items()}


def write(folder: Path, config: ModelConfig, weights: dict[str, Any]) -> Path:
    eos = config.eos == "line"
    folder.mkdir()
    (folder / "config.json").write_text(config.to_json())
    words = " ".join(f"w{n}" for n in range(29 - eos))
    Vocabulary.build([words], tokens="spaces", eos=eos).save(folder / "tokenizer.json")
    save_weights(folder / "model.safetensors", weights)
    return folder


def session(model: Any) -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )


@pytest.mark.parametrize("form", FORMS)
def test_onnx_runtime_finds_the_same_probabilities_and_states(form: str) -> None:
    config, weights = drawn(**FORMS[form])
    vocabulary = Vocabulary.build([" ".join(f"w{n}" for n in range(29))], tokens="spaces", eos=False)
    network = runtime_model(config, weights, vocabulary).network
    model = to_onnx.onnx_model(config, weights)
    onnx.checker.check_model(model, full_check=True)
    logs_of, shares_of = session(model), session(to_onnx.onnx_model(config, weights, probabilities=True))
    names = ["h", "c"] if config.cell == "lstm" else ["h"]
    generator = np.random.default_rng(2)
    for T, N in ((1, 1), (1, 5), (7, 1), (4, 3), (12, 2)):
        state = tuple(part + generator.uniform(-1, 1, part.shape).astype(np.float32)
                      for part in network.initial_state(N))  # fmt: skip
        for length in (T, 3):  # the states that came out go in again
            words = generator.integers(30, size=(length, N))
            feeds = {"words": words, **{name: part.copy() for name, part in zip(names, state, strict=True)}}
            logs, *after = logs_of.run(None, feeds)
            expected = network.output.log_probabilities(network.run(words, state).reshape(length * N, -1))
            np.testing.assert_allclose(logs, expected.reshape(length, N, 30), rtol=CLOSE, atol=CLOSE)
            for own, came in zip(state, after, strict=True):
                np.testing.assert_allclose(came, own, rtol=CLOSE, atol=CLOSE)
            np.testing.assert_allclose(shares_of.run(None, feeds)[0], np.exp(logs), rtol=CLOSE)
            state = tuple(after)


@pytest.mark.parametrize("dtype", ["bf16", "int8"])
def test_a_compressed_folder_is_exported_as_what_it_stores(tmp_path: Path, dtype: Any) -> None:
    config, weights = drawn(cell="gru", layers=2, output="adaptive", cutoffs=(7, 20))
    compress(write(tmp_path / "m", config, weights), tmp_path / "small", dtype)
    to_onnx.export_onnx(tmp_path / "small", tmp_path / "model.onnx")
    network = glassgate.load(tmp_path / "small").network
    state = network.initial_state(2)
    words = np.random.default_rng(4).integers(30, size=(6, 2))
    logs, after = session(onnx.load(tmp_path / "model.onnx")).run(
        None, {"words": words, "h": state[0].copy()}
    )
    expected = network.output.log_probabilities(network.run(words, state).reshape(12, -1))
    np.testing.assert_allclose(logs, expected.reshape(6, 2, 30), rtol=CLOSE, atol=CLOSE)
    np.testing.assert_allclose(after, state[0], rtol=CLOSE, atol=CLOSE)
    assert logs.std() > 0.1  # not one probability for all


def test_eos_is_fed_first(tmp_path: Path) -> None:
    """What `predict` does by itself a caller of the graph does: the text begins with <eos>."""
    config, weights = drawn(cell="gru", eos="line")
    model = glassgate.load(write(tmp_path / "m", config, weights))
    assert model.vocabulary.eos is not None
    words = [model.vocabulary.eos, *model.numbers("w3 w5")]
    graph, h = (
        session(to_onnx.onnx_model(config, weights, probabilities=True)),
        model.network.initial_state(1)[0],
    )
    y = graph.run(None, {"words": np.array(words)[:, None], "h": h})[0][-1, 0]
    found = dict(model.predict("w3 w5", 100))
    for number, word in enumerate(model.vocabulary.words[1:], 1):
        assert found[word] == pytest.approx(y[number], rel=CLOSE)
    bare = graph.run(None, {"words": np.array(words[1:])[:, None], "h": h})[0][-1, 0]
    assert np.abs(bare / y - 1).max() > 100 * CLOSE


def test_the_command_writes_the_file_whole_or_not_at_all(program: Program, tmp_path: Path) -> None:
    config, weights = drawn(cell="gru")
    folder = write(tmp_path / "m", config, weights)
    file = tmp_path / "model.onnx"
    ended = program.run("export", folder, file)
    assert (ended.code, ended.out) == (0, "")
    assert ended.err == f"{file}: {file.stat().st_size:,} bytes\n"
    assert onnx.load(file) == to_onnx.onnx_model(config, weights)
    assert program.run("export", folder, file, "--probabilities").code == 0
    assert onnx.load(file) == to_onnx.onnx_model(config, weights, probabilities=True)
    before = file.read_bytes()
    assert program.run("export", folder, file, largest_file=1000).error.startswith(f"{file}: cannot be wri")
    assert file.read_bytes() == before
    assert program.run("export", folder, tmp_path / "m.pt").error == (
        f"{tmp_path}/m.pt: expected a name that ends with .onnx"
    )
    assert program.run("export", tmp_path, file).error == (
        f"{tmp_path}: is no model folder: config.json is missing"
    )


def test_a_model_beyond_two_gigabytes_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config, weights = drawn(cell="lstm")
    monkeypatch.setattr(to_onnx, "LARGEST", sum(w.nbytes for w in weights.values()) - 1)
    monkeypatch.setattr(to_onnx, "read_folder", lambda folder: (config, None))
    monkeypatch.setattr(
        to_onnx, "map_weights", lambda path, shapes: {n: Stored(w) for n, w in weights.items()}
    )
    with pytest.raises(GlassgateError, match=r"^m: is too large for one ONNX file"):
        to_onnx.export_onnx(Path("m"), tmp_path / "m.onnx")
    assert not list(tmp_path.iterdir())


def test_without_onnx_the_command_names_what_brings_it(tmp_path: Path) -> None:
    code = "import sys; sys.modules['onnx'] = None; from glassgate.cli import main; main(sys.argv[1:])"
    words = [sys.executable, "-c", code, "export", "m", "m.onnx"]
    done = subprocess.run(words, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr == "glassgate: error: onnx is not installed: pip install 'glassgate[export]'\n"
