"""A trace to explore: in a notebook, or as a page of its own; drawn by the modules of the server's page."""

import re
from base64 import b64encode
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from glassgate.edits import numbers
from glassgate.errors import GlassgateError
from glassgate.lens.blocks import SHOWN
from glassgate.trace import LayerTrace

if TYPE_CHECKING:
    import anywidget

__all__ = ["document", "module", "packed", "style", "widget"]

STEPS = 200  # that are shown of a long text
MOST_VALUES = 8 << 20  # 32 MB as float32, 43 MB as text
MODULES = ("figure.js", "panels.js", "heatmap.js", "explore.js")


def packed(values: npt.ArrayLike) -> dict[str, Any]:
    """Pack a matrix as its shape and the base64 of its float32 numbers, little-endian, row by row.

    Examples
    --------
    >>> packed([[1.0, 0.0]])
    {'shape': [1, 2], 'float32': 'AACAPwAAAAA='}
    """
    found = np.ascontiguousarray(values, "<f4")
    return {"shape": list(found.shape), "float32": b64encode(found.tobytes()).decode()}


def document(
    layers: Mapping[str, LayerTrace],
    words: Sequence[str] | None = None,
    *,
    sequence: int = 0,
    gates: Sequence[str] | None = None,
    units: Sequence[int] | None = None,
    mean: bool = False,
    next_words: Sequence[Sequence[tuple[str, float]]] | None = None,
) -> dict[str, Any]:
    """Return a trace in the form that the page draws: what ``POST /trace`` of the server answers.

    Parameters
    ----------
    layers
        A trace, or layers by name.
    words
        The T words; None: the steps' numbers.
    sequence
        Which of the batch.
    gates
        Gates and states that are drawn, by default all; of the others the numbers stand in the arithmetic.
    units
        Numbers of units, by default all.
    mean
        Whether their mean is shown instead of each.
    next_words
        For each step words with their probabilities; None: they are not known.

    Returns
    -------
    dict
        ``words`` and ``layers``; of a long text the first 200 steps, and in ``steps`` how many there are.
        Each layer has its ``values`` by gate, float32 [steps, units] as `packed` writes them.

    Raises
    ------
    GlassgateError
        A layer was not called, or has no such gate, unit or sequence; the words are not one for each step;
        or there are more than 8 million values.

    Examples
    --------
    >>> from glassgate.trace import Chunk
    >>> layer = LayerTrace("l0", "gru")
    >>> layer.add(Chunk(np.zeros((2, 1, 3)), np.full((2, 1, 3, 3), 0.25), None, None))
    >>> found = document({"l0": layer}, ["the", "gate"], units=[2])
    >>> found["words"], found["layers"][0]["labels"], found["layers"][0]["values"]["hidden"]["shape"]
    (['the', 'gate'], [2], [2, 1])
    """
    found: list[dict[str, Any]] = []
    total = 0
    for name, layer in layers.items():
        own = _Layer(name, layer, sequence)
        if total not in (0, own.steps):
            raise GlassgateError(
                f"explore: {name} has {own.steps} steps, the layers before {total}; name layers of one length"
            )
        total = own.steps
        found += own.written(gates, units, mean)
    if not found:
        raise GlassgateError("explore: the trace has no layer")
    if words is not None and len(words) != total:
        raise GlassgateError(f"explore: one word for each of {total} steps expected, got {len(words)}")
    size = sum(int(np.prod(v["shape"])) for layer in found for v in layer["values"].values())
    if size > MOST_VALUES:
        raise GlassgateError(
            f"explore: the trace has {size:,} values, at most {MOST_VALUES:,} are shown: name some units"
        )
    result: dict[str, Any] = {
        "words": list(words or map(str, range(total)))[:STEPS],
        "steps": total,
        "layers": found,
    }
    if next_words is not None:
        result["next"] = [
            [{"word": word, "probability": probability} for word, probability in best]
            for best in next_words[:STEPS]
        ]
    return result


class _Layer:
    """One layer's values of one sequence."""

    def __init__(self, name: str, layer: LayerTrace, sequence: int) -> None:
        self.name, self.cell, self.reset = name, layer.cell_kind, layer.reset_kind
        self.reverse = name.endswith("_reverse")
        self.values: dict[str, npt.NDArray[Any]] = {}
        for gate in (gate for gate in SHOWN if gate in layer.names):
            values = getattr(layer, gate)
            self.steps, N, _ = values.shape
            if not 0 <= sequence < N:
                raise GlassgateError(f"sequence: must be from 0 to {N - 1}, got {sequence}")
            # One step more than is shown: of a layer that reads backwards it came before the last one.
            self.values[gate] = numbers(values[: STEPS + 1, sequence])
        if not self.steps:
            raise GlassgateError(f"explore: {name} has no steps")

    def written(
        self, gates: Sequence[str] | None, units: Sequence[int] | None, mean: bool
    ) -> list[dict[str, Any]]:
        """Return the layer; where a projection makes the hidden state another size, that by itself."""
        unknown = [gate for gate in gates or () if gate not in self.values]
        if unknown:
            raise GlassgateError(f"trace: {self.name} has {', '.join(self.values)}, got {unknown[0]!r}")
        parts: dict[int, dict[str, npt.NDArray[Any]]] = {}
        for gate, values in self.values.items():
            parts.setdefault(values.shape[1], {})[gate] = values
        return [
            self._part(self.name if n == 0 else f"{self.name} {'/'.join(part)}", part, gates, units, mean)
            for n, part in enumerate(parts.values())
        ]

    def _part(
        self,
        name: str,
        values: dict[str, npt.NDArray[Any]],
        gates: Sequence[str] | None,
        units: Sequence[int] | None,
        mean: bool,
    ) -> dict[str, Any]:
        H = next(iter(values.values())).shape[1]
        wrong = [unit for unit in units or () if not 0 <= unit < H]
        if wrong:
            raise GlassgateError(f"units: must be from 0 to {H - 1}, got {wrong[0]}")
        if units is not None:
            values = {gate: matrix[:, list(units)] for gate, matrix in values.items()}
        if mean:
            values = {gate: matrix.mean(axis=1, keepdims=True) for gate, matrix in values.items()}
        result: dict[str, Any] = {
            "name": name,
            "cell": self.cell,
            "reset": self.reset,
            "units": next(iter(values.values())).shape[1],
            "values": {gate: packed(matrix) for gate, matrix in values.items()},
        }
        if self.reverse:
            result["reverse"] = True
        if gates is not None:
            result["shown"] = [gate for gate in gates if gate in values]
        if mean:
            result |= {"labels": ["mean"], "averaged": True}
        elif units is not None:
            result["labels"] = list(units)
        return result


@cache
def module() -> str:
    """Return the page's modules that draw as one ES module; ``export default { render }`` is anywidget's.

    Examples
    --------
    >>> "import " in module(), "function explore(" in module()
    (False, True)
    """
    folder = files("glassgate").joinpath("server", "page")  # named so, the server itself is not loaded
    whole = "".join(folder.joinpath(name).read_text(encoding="utf-8") for name in MODULES)
    whole = re.sub(r'^import .* from "\./\w+\.js";\n', "", whole, flags=re.MULTILINE)
    return re.sub(r"^export (?!default)", "", whole, flags=re.MULTILINE)


@cache
def style() -> str:
    """Return the style sheet that belongs to `module`.

    Examples
    --------
    >>> ".glass" in style()
    True
    """
    return files("glassgate").joinpath("server", "page", "parts.css").read_text(encoding="utf-8")


def widget(trace: Mapping[str, Any]) -> "anywidget.AnyWidget":
    """Return a widget that shows a trace; see `glassgate.trace.Trace.explore`.

    Parameters
    ----------
    trace
        From `document`.

    Returns
    -------
    anywidget.AnyWidget
        ``widget.cell`` is the chosen cell, as ``{"layer": "l0", "gate": "forget", "unit": 3, "step": 2}``;
        it can be set too. ``widget.trace`` is the document.

    Raises
    ------
    GlassgateError
        When anywidget is not installed.
    """
    made: anywidget.AnyWidget = _widget_class()(trace=dict(trace))
    return made


@cache
def _widget_class() -> Any:
    try:
        import anywidget
        import traitlets
    except ModuleNotFoundError:
        raise GlassgateError("anywidget is not installed: pip install 'glassgate[notebook]'") from None

    members = {
        "__doc__": "A trace in a notebook.",
        "__module__": __name__,
        "_esm": module(),
        "_css": style(),
        "trace": traitlets.Dict().tag(sync=True),
        "cell": traitlets.Dict().tag(sync=True),
    }
    return type("Explorer", (anywidget.AnyWidget,), members)
