"""The arithmetic of one unit at one step, as the notes write it, with the numbers that were recorded."""

from dataclasses import dataclass
from math import tanh

from glassgate.edits import numbers
from glassgate.errors import GlassgateError
from glassgate.trace import LayerTrace

__all__ = ["Arithmetic", "Line", "arithmetic"]

# Of the format in which the values were recorded: the distance from 1 to the next number.
_EPSILON = {"bfloat16": 2.0**-7, "float16": 2.0**-10, "float32": 2.0**-23, "float64": 2.0**-52}


@dataclass(frozen=True)
class Line:
    """One number and how it arose.

    Attributes
    ----------
    letter
        Its name in the notes, as ``C_t``.
    value
        As it was recorded.
    meaning
        In words.
    equation
        How it is computed, in letters; "" for a gate.
    computation
        The same with numbers between the signs.
    """

    letter: str
    value: float
    meaning: str
    equation: str = ""
    computation: tuple[float | str, ...] = ()

    def written(self, digits: int) -> str:
        """Return the number and how it arose, as ``h_t = o * tanh(C_t) = 0.5 * tanh(1) = 0.38``."""
        numbers = "".join(f"{p:.{digits}f}" if isinstance(p, float) else p for p in self.computation)
        return " = ".join(filter(None, (self.letter, self.equation, numbers, f"{self.value:.{digits}f}")))


@dataclass(frozen=True)
class Arithmetic:
    """The lines of one unit at one step; prints as text, and shows as Markdown in a notebook."""

    title: str
    lines: tuple[Line, ...]

    @property
    def values(self) -> dict[str, float]:
        """The recorded numbers by their letters."""
        return {line.letter: line.value for line in self.lines}

    def text(self, digits: int = 4) -> str:
        """Return it as plain text."""
        rows = [(line.written(digits), line.meaning) for line in self.lines]
        width = max(len(written) for written, _ in rows)
        return "\n".join([self.title, *(f"  {written:<{width}}   {meaning}" for written, meaning in rows)])

    def markdown(self, digits: int = 4) -> str:
        """Return it as a Markdown table."""
        rows = [f"| `{line.written(digits)}` | {line.meaning} |" for line in self.lines]
        return "\n".join([f"| {self.title} | |", "|---|---|", *rows])

    def __str__(self) -> str:
        return self.text()

    def _repr_markdown_(self) -> str:
        return self.markdown()


def arithmetic(
    layer: LayerTrace,
    step: int,
    unit: int,
    sequence: int = 0,
    words: "tuple[str, ...] | list[str] | None" = None,
    before: float = 0.0,
) -> Arithmetic:
    """Return how one unit of a recorded layer came to its state at one step.

    ::

        LSTM   C_t = f * C_{t-1} + i * g        GRU   h_t = u * g + (1 - u) * h_{t-1}
               h_t = o * tanh(C_t)

    Parameters
    ----------
    layer
        From `glassgate.record` or `glassgate.runtime.Model.trace`; with all of its steps.
    step, unit, sequence
        Which.
    words
        The words of the steps, for the title.
    before
        The unit's C (LSTM) or h (GRU) before the first step, where it was not 0.

    Returns
    -------
    Arithmetic
        Every number of it as it was recorded.

    Raises
    ------
    GlassgateError
        There is no such step, unit or sequence; or the recorded numbers do not give one another, because a
        state was edited, cleared or begun from another value.

    Notes
    -----
    Source: the notes, sections 1 and 3.

    Examples
    --------
    The notes' example, u = 0.8:

    >>> import numpy as np
    >>> from glassgate.trace import Chunk
    >>> layer = LayerTrace("l0", "gru")
    >>> r_z_g = np.array([0.5, 0.2, -0.5]).reshape(1, 1, 3, 1)
    >>> layer.add(Chunk(np.full((1, 1, 1), 0.8 * -0.5 + 0.2 * 1.0), r_z_g, None, None))
    >>> print(arithmetic(layer, step=0, unit=0, before=1.0).text(digits=2))
    l0, unit 0, step 0
      h_{t-1} = 1.00                                                         the memory so far
      r = 0.50                                                               reset gate: how much of it counts
      u = 0.80                                                               update gate: the share of the new
      g = -0.50                                                              candidate: what the new would be
      h_t = u * g + (1 - u) * h_{t-1} = 0.80 * -0.50 + 0.20 * 1.00 = -0.20   hidden state: the output
    """
    values = _Values(layer, step, unit, sequence)
    old = values.before(before)
    word = "" if words is None else f" ({words[step]})"
    title = f"{layer.name}, unit {unit}, step {step}{word}"
    lines = _lstm(values, old) if "cell" in layer.names else _gru(values, old)
    return Arithmetic(title, lines)


def _lstm(values: "_Values", old: float) -> tuple[Line, ...]:
    f, i, g, o = (values[name] for name in ("forget", "input", "candidate", "output"))
    C, h = values["cell"], values["hidden"]
    values.check("cell", f * old + i * g, abs(f * old) + abs(i * g))
    values.check("hidden", o * tanh(C), abs(o))
    return (
        Line("f", f, "forget gate: how much of the past to keep"),
        Line("C_{t-1}", old, "the memory so far"),
        Line("i", i, "input gate: how much of the new to let in"),
        Line("g", g, "candidate: what the new would be"),
        Line("C_t", C, "cell: the memory", "f * C_{t-1} + i * g", (f, " * ", old, " + ", i, " * ", g)),
        Line("o", o, "output gate: how much of it to show"),
        Line("h_t", h, "hidden state: the output", "o * tanh(C_t)", (o, " * tanh(", C, ")")),
    )


def _gru(values: "_Values", old: float) -> tuple[Line, ...]:
    r, u, g, h = (values[name] for name in ("reset", "update", "candidate", "hidden"))
    values.check("hidden", u * g + (1 - u) * old, abs(g) + abs(old))
    return (
        Line("h_{t-1}", old, "the memory so far"),
        Line("r", r, "reset gate: how much of it counts"),
        Line("u", u, "update gate: the share of the new"),
        Line("g", g, "candidate: what the new would be"),
        Line(
            "h_t",
            h,
            "hidden state: the output",
            "u * g + (1 - u) * h_{t-1}",
            (u, " * ", g, " + ", 1 - u, " * ", old),
        ),
    )


class _Values:
    """The numbers of one unit at one step of a layer."""

    def __init__(self, layer: LayerTrace, step: int, unit: int, sequence: int) -> None:
        self.layer = layer
        self.at = step, sequence, unit
        shape = tuple(layer.hidden.shape)
        for what, place, count in zip(("step", "sequence", "unit"), self.at, shape, strict=True):
            if not 0 <= place < count:
                raise GlassgateError(
                    f"arithmetic: {what} must be from 0 to {count - 1} in {layer.name}, got {place}"
                )
        # The step that was taken before this one.
        self.previous = step + 1 if layer.name.endswith("_reverse") else step - 1
        self.steps = shape[0]

    def __getitem__(self, name: str) -> float:
        return float(numbers(getattr(self.layer, name)[self.at]))

    def before(self, first: float) -> float:
        """Return the state that entered the step; ``first`` for the first one."""
        state = getattr(self.layer, "cell" if "cell" in self.layer.names else "hidden")
        if not 0 <= self.previous < self.steps:
            return float(first)
        return float(numbers(state[self.previous, self.at[1], self.at[2]]))

    def check(self, name: str, computed: float, size: float) -> None:
        """Refuse numbers that do not give one another up to rounding: five operations on rounded numbers."""
        dtype = str(getattr(self.layer, name).dtype).removeprefix("torch.")
        if abs(computed - self[name]) > 8 * _EPSILON[dtype] * size:
            step, _, unit = self.at
            raise GlassgateError(
                f"arithmetic: {name} of unit {unit} at step {step} was {self[name]:g}, the gates give "
                f"{computed:g}: a state was edited, cleared, or begun from another value (before=)"
            )
