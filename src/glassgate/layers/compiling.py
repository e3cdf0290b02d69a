"""Let ``torch.compile`` trace our layers.

Its tracer turns away every ``nn.LSTM`` and ``nn.GRU`` by class, ours with them, because it cannot trace
torch's own. Ours it can: one operator for each layer and direction. While it wraps one of ours, and only
then, the tracer's own switch ``allow_rnn`` is on; what it does with torch's layers stays as it is.

The tracer takes a second to import, so this waits until somebody imports it.
"""

import importlib.util
import sys
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

__all__ = ["allow"]

_TRACER = "torch._dynamo.variables.builder"


def allow(layer: type) -> None:
    """Let the tracer see into a class and its subclasses, from the tracer's import on."""
    if _TRACER in sys.modules:
        _open(sys.modules[_TRACER], layer)
    else:
        sys.meta_path.insert(0, _AtImport(layer))


class _AtImport(MetaPathFinder):
    """Finds nothing itself; sees the tracer being imported, and steps aside."""

    def __init__(self, layer: type) -> None:
        self.layer = layer

    def find_spec(self, fullname: str, path: Any, target: ModuleType | None = None) -> ModuleSpec | None:
        if fullname != _TRACER:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(fullname)
        if spec is None or spec.loader is None:
            return spec
        run = spec.loader.exec_module

        def run_and_open(module: ModuleType) -> None:
            run(module)
            _open(module, self.layer)

        spec.loader.exec_module = run_and_open  # type: ignore[method-assign]
        return spec


def _open(tracer: Any, layer: type) -> None:
    wrap = tracer.VariableBuilder.wrap_module

    def wrap_module(self: Any, value: Any) -> Any:
        if not isinstance(value, layer):
            return wrap(self, value)
        with tracer.config.patch(allow_rnn=True):
            return wrap(self, value)

    tracer.VariableBuilder.wrap_module = wrap_module
