"""The process in which ONNX Runtime is measured.

``python -m glassgate.bench.onnx_process DIR THREADS SECONDS`` reads ``model.onnx`` and ``feeds.npz`` from the
folder and writes ``outputs.npz`` and ``times.json`` there.
"""

import json
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from glassgate.bench.timing import Call, in_turns, trial

__all__ = ["main"]

NEAR = 1.5  # forms whose trial takes more times the fastest's are not measured


def main(folder: Path, threads: int, seconds: float) -> None:
    """Measure one thread and ``threads``, by plain calls and with bound memory; each form alone."""
    runtime = import_module("onnxruntime")
    with np.load(folder / "feeds.npz") as arrays:
        feeds = {name: arrays[name] for name in arrays.files}
    times: dict[str, tuple[float, int]] = {}
    outputs: dict[str, Any] = {}
    forms: dict[str, Call] = {}
    for count in sorted({1, threads}):
        options = runtime.SessionOptions()
        options.intra_op_num_threads = count
        options.log_severity_level = 3
        session = runtime.InferenceSession(
            str(folder / "model.onnx"), options, providers=["CPUExecutionProvider"]
        )
        names = [output.name for output in session.get_outputs()]
        outputs = dict(zip(names, session.run(names, feeds), strict=True))
        for form, call in _forms(session, runtime, names, feeds, outputs).items():
            forms[f"{form}, {count} thread{'s' * (count > 1)}"] = call
    trials = {form: trial(call) for form, call in forms.items()}
    fastest = min(trials.values())
    kept = {form: forms[form] for form in forms if trials[form] <= NEAR * fastest}
    for form, call in kept.items():  # not in turns: the threads of one form would spin beside the next
        timed = in_turns(None, {form: call}, seconds / len(kept))[form]
        times[form] = (timed.seconds, timed.rounds)
    np.savez(folder / "outputs.npz", **outputs)
    (folder / "times.json").write_text(json.dumps(times))


def _forms(
    session: Any, runtime: Any, names: list[str], feeds: dict[str, Any], outputs: dict[str, Any]
) -> dict[str, Call]:
    binding = session.io_binding()
    for name, array in feeds.items():
        binding.bind_cpu_input(name, array)
    for name in names:
        binding.bind_ortvalue_output(name, runtime.OrtValue.ortvalue_from_numpy(outputs[name].copy()))
    return {
        "ORT run": lambda: session.run(names, feeds),
        "ORT bound": lambda: session.run_with_iobinding(binding),
    }


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]))
