"""ONNX Runtime, in a process of its own that ends before anything else is timed.

Its threads spin between calls and would slow others.
"""

import json
import subprocess
import sys
from collections.abc import Mapping
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from glassgate.bench.timing import Timed

__all__ = ["UnavailableError", "graph", "measure", "missing"]

Arrays = dict[str, NDArray[np.float32]]

# ONNX keeps the gates as i o f c and z r h; torch as i f g o and r z n.
ORDER = {"lstm": (0, 3, 1, 2), "gru": (1, 0, 2)}
OPSET, IR = 14, 8  # old enough for every runtime that the extra allows


class UnavailableError(Exception):
    """ONNX Runtime cannot be measured here, and why."""


def missing() -> str | None:
    """Say in one line what is not installed; None where all is there.

    Examples
    --------
    >>> missing() in (None, "onnx is not installed: pip install 'glassgate[bench]'",
    ...               "onnxruntime is not installed: pip install 'glassgate[bench]'")
    True
    """
    for library in ("onnx", "onnxruntime"):
        if find_spec(library) is None:
            return f"{library} is not installed: pip install 'glassgate[bench]'"
    return None


def graph(cell: str, weights: Mapping[str, Tensor], states: bool) -> bytes:
    """Make a model of a single LSTM or GRU node from the weights of torch's layer.

    Parameters
    ----------
    cell
        ``"lstm"`` or ``"gru"``, with torch's reset after the product.
    weights
        A state_dict of one layer.
    states
        LSTM: whether it is a step, with states h and c in and out, instead of x in and ``output`` out.

    Returns
    -------
    bytes
        The model.
    """
    helper, numpy_helper = import_module("onnx.helper"), import_module("onnx.numpy_helper")
    order = ORDER[cell]

    def blocks(name: str) -> NDArray[np.float32]:
        parts = np.split(weights[name].numpy(), len(order))
        return np.concatenate([parts[k] for k in order])[None]

    biases = np.concatenate((blocks("bias_ih_l0"), blocks("bias_hh_l0")), 1)
    constants = {"W": blocks("weight_ih_l0"), "R": blocks("weight_hh_l0"), "B": biases}
    node = helper.make_node(
        cell.upper(),
        ["x", "W", "R", "B", *(("", "h", "c") if states else ())],
        ["", "h_out", "c_out"] if states else ["output"],
        hidden_size=weights["weight_hh_l0"].shape[1],
        **({"linear_before_reset": 1} if cell == "gru" else {}),
    )
    inputs, outputs = (["x", "h", "c"], ["h_out", "c_out"]) if states else (["x"], ["output"])
    model = helper.make_model(
        helper.make_graph(
            [node],
            cell,
            [_value(helper, name, 3) for name in inputs],
            [_value(helper, name, 3 if states else 4) for name in outputs],
            [numpy_helper.from_array(np.ascontiguousarray(a), name) for name, a in constants.items()],
        ),
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR,
    )
    serialised: bytes = model.SerializeToString()
    return serialised


def _value(helper: Any, name: str, dimensions: int) -> Any:
    return helper.make_tensor_value_info(name, 1, [None] * dimensions)  # 1 is float32


def measure(
    model: bytes, feeds: Mapping[str, NDArray[np.float32]], threads: int, seconds: float
) -> tuple[Arrays, dict[str, Timed]]:
    """Run a model in a process of its own, to its end.

    Parameters
    ----------
    model, feeds
        The graph and its inputs by name.
    threads
        One thread and so many are tried; the faster counts.
    seconds
        How long to measure each form.

    Returns
    -------
    dict of str to array
        The outputs by name, ``_out`` left off.
    dict of str to Timed
        The forms' times.

    Raises
    ------
    UnavailableError
        The process failed; its last line says why.
    """
    with TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "model.onnx").write_bytes(model)
        arrays: dict[str, Any] = dict(feeds)
        np.savez(folder / "feeds.npz", **arrays)
        words = [sys.executable, "-m", "glassgate.bench.onnx_process", name, str(threads), str(seconds)]
        done = subprocess.run(words, capture_output=True, text=True, check=False)
        if done.returncode:
            lines = done.stderr.strip().splitlines() or [f"ended with code {done.returncode}"]
            raise UnavailableError(f"ONNX Runtime failed: {lines[-1]}")
        with np.load(folder / "outputs.npz") as found:
            outputs = {key.removesuffix("_out"): found[key] for key in found.files}
        times = json.loads((folder / "times.json").read_text())
    return outputs, {form: Timed(*values) for form, values in times.items()}
