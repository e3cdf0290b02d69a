"""Edits of gates and states: what changes, where and when."""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field, replace
from fractions import Fraction
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from glassgate.errors import GlassgateError
from glassgate.trace import NAMES, LayerTrace, Trace

__all__ = ["Edit", "Target", "for_layers", "numbers", "parse_edit"]

Floats: TypeAlias = npt.NDArray[np.floating[Any]]

_KINDS = ("set", "scale", "add", "clamp", "replace", "mean", "resample", "function")
_KNOWN = tuple(dict.fromkeys(name for names in NAMES.values() for name in names))


@dataclass(frozen=True)
class Edit:
    """One change of one gate or state while a network runs; all that is computed from it follows.

    An edited forget gate changes the cell that is computed from it. An edited cell is what the hidden state
    is computed from, and what is carried to the next step. An edited hidden state is what the next layer
    reads, and what is carried.

    Parameters
    ----------
    gate
        ``input``, ``forget``, ``candidate``, ``output``, ``cell`` or ``hidden`` of an LSTM; ``reset``,
        ``update`` (the share of the NEW value), ``candidate`` or ``hidden`` of a GRU.
    set, scale, add
        The new value, a factor, or what is added: a number, or one for each edited unit.
    clamp : (low, high)
        Bounds; an infinite one does not bind.
    replace : Trace, LayerTrace or array [T, H] or [T, N, H]
        Values of another run, step by step (N may be 1): patching.
    mean : Trace, LayerTrace or array [..., H]
        A recorded corpus; each unit gets its mean over it.
    resample : Trace, LayerTrace or array [..., H]
        A recorded corpus; each step gets the values of one of its steps, drawn at random.
    function
        Called with the value [N, H] of each step, returns the new one. In torch's layers only.
    units
        Which units, by default all.
    steps
        Which steps, by default all. With ``lengths`` they are counted in each sequence by itself, so that
        ``slice(-1, None)`` is its last step.
    layer
        The layer's name in a trace, as ``"l0"`` or ``"encoder.rnn.l1_reverse"``; by default every layer
        that has the gate.
    seed
        Of ``resample``.

    Attributes
    ----------
    kind
        Which change it is: ``"set"``, ``"scale"``, ...

    Raises
    ------
    GlassgateError
        The gate is unknown, not exactly one change is given, or a value is none that it may be.

    Examples
    --------
    >>> Edit("forget", set=0.5, units=[3, 7], steps=slice(5, None), layer="l0").units
    (3, 7)
    >>> Edit("forgot", set=0.5)
    Traceback (most recent call last):
    glassgate.errors.GlassgateError: edit: the gates and states are input, forget, candidate, output, cell,
    hidden, reset, update, got 'forgot'
    """

    gate: str
    _: KW_ONLY
    set: Any = None
    scale: Any = None
    add: Any = None
    clamp: tuple[float, float] | None = None
    replace: Any = None
    mean: Any = None
    resample: Any = None
    function: Callable[[Any], Any] | None = None
    units: Sequence[int] | None = None
    steps: slice | None = None
    layer: str | None = None
    seed: int = 0
    kind: str = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.gate not in _KNOWN:
            raise GlassgateError(f"edit: the gates and states are {', '.join(_KNOWN)}, got {self.gate!r}")
        given = [kind for kind in _KINDS if getattr(self, kind) is not None]
        if len(given) != 1:
            expected, came = ", ".join(_KINDS), ", ".join(given) or "none"
            raise self.error(f"exactly one of {expected} expected, got {came}")
        object.__setattr__(self, "kind", given[0])
        if self.kind in ("set", "scale", "add") and not np.isfinite(numbers(self.value)).all():
            raise self.error(f"{self.kind} must be finite numbers, got {_short(self.value)}")
        if self.clamp is not None:
            ends = numbers(self.clamp)
            if ends.shape != (2,) or not ends[0] <= ends[1]:
                raise self.error(f"clamp must be (low, high) with low <= high, got {_short(self.clamp)}")
        if self.function is not None and not callable(self.function):
            raise self.error(f"function must be callable, got {type(self.function).__name__}")
        if self.units is not None:
            object.__setattr__(self, "units", self._whole_units(self.units))
        self._check_steps()

    @property
    def value(self) -> Any:
        """What was given for the change."""
        return getattr(self, self.kind)

    @property
    def does_nothing(self) -> bool:
        """Whether it leaves every bit as it is: a factor of 1, nothing added, no bound, no unit."""
        if self.units is not None and not len(self.units):
            return True
        if getattr(self.value, "requires_grad", False):
            return False  # its gradient is wanted
        neutral = {"scale": 1, "add": 0}.get(self.kind)
        if neutral is not None:
            return bool((numbers(self.value) == neutral).all())
        return self.clamp is not None and tuple(self.clamp) == (-np.inf, np.inf)

    def error(self, message: str) -> GlassgateError:
        """Return an error that says of which gate the edit is."""
        return GlassgateError(f"edit of {self.gate}: {message}")

    def _whole_units(self, units: Iterable[Any]) -> tuple[int, ...]:
        listed = list(units) if isinstance(units, Iterable) else [-1]
        wrong = [u for u in listed if isinstance(u, bool) or not isinstance(u, int | np.integer) or u < 0]
        if wrong or len(dict.fromkeys(listed)) != len(listed):
            raise self.error(f"units must be different whole numbers from 0 on, got {_short(units)}")
        return tuple(map(int, listed))

    def _check_steps(self) -> None:
        if self.steps is None:
            return
        if not isinstance(self.steps, slice):
            raise self.error(f"steps must be a slice, got {_short(self.steps)}")
        ends = (self.steps.start, self.steps.stop, self.steps.step)
        if not all(end is None or isinstance(end, int) for end in ends) or (self.steps.step or 1) < 1:
            raise self.error(f"steps must be a slice of whole numbers that goes forward, got {self.steps}")


class Target(NamedTuple):
    """What an edit must know of a layer."""

    cell: str  #: "lstm" or "gru"
    units: int  #: H
    hidden: int  #: units of the hidden state; other than H with a projection


def for_layers(edits: Iterable[Edit], targets: Mapping[str, Target]) -> dict[str, list[Edit]]:
    """Sort edits by the layers that they are for, and check them there.

    Parameters
    ----------
    edits
        In the order in which they are made.
    targets
        The layers by name.

    Returns
    -------
    dict
        For each layer that is edited at all its edits. What comes from a trace is cut out of it, what does
        nothing is left out.

    Raises
    ------
    GlassgateError
        A layer, gate or unit is not there, or values have another shape than the layer.
    """
    found: dict[str, list[Edit]] = {}
    for edit in edits:
        if not isinstance(edit, Edit):
            raise GlassgateError(f"edits: glassgate.edits.Edit expected, got {type(edit).__name__}")
        if edit.layer is not None and edit.layer not in targets:
            raise edit.error(f"the layers are {', '.join(targets)}, got {edit.layer!r}")
        names = list(targets) if edit.layer is None else [edit.layer]
        having = [name for name in names if edit.gate in NAMES[targets[name].cell]]
        if not having:
            known = dict.fromkeys(gate for name in names for gate in NAMES[targets[name].cell])
            raise edit.error(f"there is {', '.join(known)} in {edit.layer or ', '.join(names)}")
        for name in having:
            own = _of_layer(edit, name, targets[name])
            if not own.does_nothing:
                found.setdefault(name, []).append(own)
    return found


def _of_layer(edit: Edit, name: str, target: Target) -> Edit:
    count = target.hidden if edit.gate == "hidden" else target.units
    if edit.units and max(edit.units) >= count:
        raise edit.error(f"units must be from 0 to {count - 1} in {name}, got {max(edit.units)}")
    if edit.kind in ("set", "scale", "add"):
        shape, own = np.shape(numbers(edit.value)), count if edit.units is None else len(edit.units)
        if shape not in ((), (own,)):
            raise edit.error(f"{edit.kind} must be a number or {own} in {name}, got shape {list(shape)}")
        return edit
    if edit.kind in ("clamp", "function"):
        return edit
    values = edit.value[name] if isinstance(edit.value, Trace) else edit.value
    if isinstance(values, LayerTrace):
        values = getattr(values, edit.gate) if edit.kind == "replace" else values.rows(edit.gate)
    if not hasattr(values, "detach"):
        values = np.asarray(values)  # no copy: a corpus may be a file larger than memory
        if values.dtype.kind not in "fiu":
            raise edit.error(f"{edit.kind} must be numbers for {name}, got {values.dtype}")
    shape = tuple(values.shape)
    ranks = (2, 3) if edit.kind == "replace" else (1, 2, 3)
    if len(shape) not in ranks or shape[-1] != count or 0 in shape[:-1]:
        expected = f"[T, {count}] or [T, N, {count}]" if edit.kind == "replace" else f"[..., {count}]"
        raise edit.error(f"{edit.kind} must have shape {expected} for {name}, got {list(shape)}")
    if edit.kind == "replace":
        return replace(edit, replace=values[:, None] if len(shape) == 2 else values)
    rows = (numbers(values) if hasattr(values, "detach") else values).reshape(-1, count)
    if edit.kind == "resample":
        return replace(edit, resample=rows)
    mean = rows.mean(0, dtype=np.float64)
    return replace(edit, mean=None, set=mean if edit.units is None else mean[list(edit.units)])


def numbers(values: Any) -> Floats:
    """Return numbers, arrays or tensors as a float64 array."""
    if hasattr(values, "detach"):
        values = values.detach().cpu().double().numpy()
    try:
        return np.asarray(values, np.float64)
    except (TypeError, ValueError):
        raise GlassgateError(f"edit: numbers expected, got {_short(values)}") from None


def _short(value: Any) -> str:
    """Return a value as it stands in a message of one line."""
    whole = " ".join(repr(value).split())
    return whole if len(whole) <= 60 else whole[:57] + "..."


_WRITTEN = re.compile(
    r"\s*(?:(?P<layer>\S+)\.)?(?P<gate>\w+)\s*(?:\[(?P<units>[\d,\s]*)\])?\s*(?P<change>[*+]?)=\s*(?P<value>\S+)\s*"
)


def parse_edit(text: str) -> Edit:
    """Read an edit as the command line writes it.

    Parameters
    ----------
    text
        ``forget=0.5``, ``forget=1/2``, ``l0.forget[3,7]=1`` (units 3 and 7 of layer l0), ``forget*=0.5``
        (scaled) or ``cell+=0.1`` (added).

    Raises
    ------
    GlassgateError
        It is written otherwise, or the gate is unknown.

    Examples
    --------
    >>> edit = parse_edit("l0.forget[3,7]=1/2")
    >>> edit.layer, edit.gate, edit.units, edit.set
    ('l0', 'forget', (3, 7), 0.5)
    """
    found = _WRITTEN.fullmatch(text)
    try:
        if found is None:
            raise ValueError
        value = float(Fraction(found["value"]))
        listed = found["units"]
        units = None if listed is None else [int(unit) for unit in listed.split(",")]
    except (ValueError, ZeroDivisionError, OverflowError):
        raise GlassgateError(
            f"--set: expected forget=0.5, l0.forget[3,7]=1, forget*=0.5 or cell+=0.1, got {text!r}"
        ) from None
    changes: dict[str, Any] = {{"": "set", "*": "scale", "+": "add"}[found["change"]]: value}
    return Edit(found["gate"], units=units, layer=found["layer"], **changes)
