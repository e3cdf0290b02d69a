"""Traces in files, in labelled arrays and in tables: the same words and the same bits."""

from pathlib import Path

import numpy as np
import pytest
import torch

import glassgate
from glassgate import GlassgateError
from glassgate.lens.handover import load_trace, save_trace, to_frame, to_labelled
from lens_models import model

TEXT = "the keeper of the lamp"


@pytest.mark.parametrize("form", ["npz", "safetensors"])
@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_a_file_gives_the_same_words_and_bits(cell: str, form: str, tmp_path: Path) -> None:
    traced = model(cell).trace(TEXT)
    save_trace(tmp_path / f"trace.{form}", traced.layers, traced.words)
    found = load_trace(tmp_path / f"trace.{form}")
    assert found.words == traced.words
    assert list(found.layers) == list(traced.layers)
    for name, layer in traced.layers.items():
        assert found.layers[name].names == layer.names
        for gate in layer.names:
            np.testing.assert_array_equal(getattr(found.layers[name], gate), getattr(layer, gate))
            assert getattr(found.layers[name], gate).dtype == getattr(layer, gate).dtype
    assert found._repr_html_() == traced._repr_html_()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_ragged_batch_of_torch_keeps_its_zeros(dtype: torch.dtype, tmp_path: Path) -> None:
    gru = glassgate.GRU(3, 4, 2, bidirectional=True, dtype=dtype)
    with glassgate.record(gru) as trace:
        gru(torch.randn(6, 3, 3, dtype=dtype), lengths=[6, 0, 2])
    save_trace(tmp_path / "t.npz", trace)
    found = load_trace(tmp_path / "t.npz").layers
    for name, layer in trace.items():
        for gate in layer.names:
            values = getattr(found[name], gate)
            np.testing.assert_array_equal(values, getattr(layer, gate).detach())
            assert not values[2:, 2].any()


@pytest.mark.filterwarnings("ignore:LSTM. no kernel for proj_size")
def test_a_hidden_state_that_is_projected(tmp_path: Path) -> None:
    lstm = glassgate.LSTM(3, 4, proj_size=2)
    with glassgate.record(lstm) as trace:
        lstm(torch.randn(5, 1, 3))
    save_trace(tmp_path / "t.safetensors", trace)
    assert torch.equal(torch.from_numpy(load_trace(tmp_path / "t.safetensors").layers.hidden), trace.hidden)


def test_numpy_and_safetensors_read_the_files_by_themselves(tmp_path: Path) -> None:
    from safetensors.numpy import load_file

    traced = model().trace(TEXT)
    for form in ("npz", "safetensors"):
        save_trace(tmp_path / f"t.{form}", traced.layers)
    expected = traced.layers["l1"].cell
    np.testing.assert_array_equal(np.load(tmp_path / "t.npz")["l1.cell"], expected)
    np.testing.assert_array_equal(load_file(tmp_path / "t.safetensors")["l1.cell"], expected)


def test_a_table_of_pandas_has_words_on_its_rows() -> None:
    traced = model("gru").trace(TEXT)
    frame = to_frame(traced.layers, traced.words)
    assert frame.index.get_level_values("word").tolist() == list(traced.words)
    assert frame.columns.names == ["layer", "gate", "unit"]
    assert len(frame.columns) == 2 * 4 * 5
    for name, layer in traced.layers.items():
        for gate in layer.names:
            np.testing.assert_array_equal(frame[name][gate].to_numpy(), getattr(layer, gate)[:, 0])
    keeper = frame.xs("keeper", level="word")[("l0", "update", 3)].item()
    assert keeper == traced.layers["l0"].update[2, 0, 3]


def test_xarray_takes_the_labelled_arrays() -> None:
    import xarray

    traced = model().trace(TEXT)
    found = xarray.Dataset.from_dict(to_labelled(traced.layers, traced.words))
    assert found["l1.forget"].dims == ("time", "sequence", "l1.unit")
    np.testing.assert_array_equal(found["l1.forget"], traced.layers["l1"].forget)
    lamp = found["l0.cell"].isel(sequence=0)[found["word"] == "lamp"]
    np.testing.assert_array_equal(lamp[0], traced.layers["l0"].cell[5, 0])


def test_bad_files_are_told_in_one_line(tmp_path: Path) -> None:
    traced = model().trace(TEXT)
    with pytest.raises(GlassgateError, match="one word for each of 6 steps expected, got 1"):
        save_trace(tmp_path / "t.npz", traced.layers, ["a"])
    assert not list(tmp_path.iterdir())
    for form in ("npz", "safetensors"):
        path = tmp_path / f"t.{form}"
        save_trace(path, traced.layers, traced.words)
        whole = path.read_bytes()
        for damage in (
            b"",
            b"junk",
            whole[: len(whole) // 2],
            whole[:200].replace(b"0", b"9") + whole[200:300],
        ):
            path.write_bytes(damage)
            with pytest.raises(GlassgateError, match=f"t.{form}: is damaged or no trace"):
                load_trace(path)
    np.savez(tmp_path / "other.npz", a=np.zeros(3))
    with pytest.raises(GlassgateError, match=r"other.npz: is damaged or no trace"):
        load_trace(tmp_path / "other.npz")


def test_no_pickle_is_loaded(tmp_path: Path) -> None:
    np.savez(tmp_path / "t.npz", about=np.array([{"format": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(GlassgateError, match=r"is damaged or no trace: Object arrays cannot be loaded"):
        load_trace(tmp_path / "t.npz")
