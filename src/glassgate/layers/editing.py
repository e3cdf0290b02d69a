"""Change gates and states while a model runs."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from glassgate.edit_tables import chosen, compile_edits, drawn
from glassgate.edits import Edit, Target, for_layers, numbers
from glassgate.layers import operators, reference
from glassgate.layers.direct import may_pass_torch_by
from glassgate.layers.operators import Maybe, Weights
from glassgate.layers.record import named_layers, target
from glassgate.layers.scanning import Call, Scanning, has_gradient

__all__ = ["Edited", "Scope", "edit"]


class Scope:
    """What one ``with glassgate.edit`` changes in one module.

    Attributes
    ----------
    edits
        By the names of the module's own layers.
    calls
        How often the module was called in it; the number of a cell's next step.
    """

    def __init__(self, edits: Mapping[str, list[Edit]]) -> None:
        self.edits = edits
        self.calls = 0


@contextmanager
def edit(model: nn.Module, gate: str | Edit | Iterable[Edit], **change: Any) -> Iterator[None]:
    """Change a gate or state of the glassgate layers inside a model while the ``with`` lasts.

    All that is computed from an edited value follows. Edits may be nested, the outer ones come first; after
    the ``with``, and after an exception in it, nothing stays on the model. With `record` the trace holds the
    edited values. An edit that changes nothing (``scale=1``, ``add=0``, infinite bounds, no units or steps)
    changes no bit.

    Where no gradient is wanted, all but ``function`` runs on the kernels. Where one is, plain torch
    operations compute the edited layers: slower, and differentiable in every order, with respect to values
    that were given as tensors as well.

    Parameters
    ----------
    model
        A layer, or any module with layers inside.
    gate
        Its name; or an `Edit`, or several.
    **change
        With a name: ``set``, ``scale``, ``add``, ``clamp``, ``replace``, ``mean``, ``resample`` or
        ``function``; and ``units``, ``steps``, ``layer``, ``seed``. `glassgate.edits.Edit` explains them.
        Steps are those of each call by itself; for an LSTMCell or GRUCell a call is a step, counted from
        the beginning of the ``with``.

    Raises
    ------
    GlassgateError
        There is no glassgate layer in the model, a layer, gate or unit is not there, or values do not fit.

    Examples
    --------
    >>> import torch, glassgate
    >>> lstm = glassgate.LSTM(4, 3)
    >>> with glassgate.edit(lstm, "forget", set=0.5, units=[1]), glassgate.record(lstm) as trace:
    ...     y, (h, c) = lstm(torch.randn(5, 2, 4))
    >>> trace.forget[:, :, 1].unique().tolist()
    [0.5]
    """
    if isinstance(gate, str):
        edits: Iterable[Edit] = [Edit(gate, **change)]
    else:
        edits = [gate] if isinstance(gate, Edit) else gate
        if change:
            edits = [replace(one, **change) for one in edits]
    layers = named_layers(model, "edit")
    found = for_layers(edits, {full: target(module) for module, _, full in layers})
    own: dict[Scanning, dict[str, list[Edit]]] = {}
    for module, name, full in layers:
        if full in found:
            own.setdefault(module, {})[name] = found[full]
    scopes = [(module, Scope(by_name)) for module, by_name in own.items()]
    try:
        for module, scope in scopes:
            module._edits = (*module._edits, scope)
        yield
    finally:
        for module, scope in scopes:
            left = tuple(other for other in module._edits if other is not scope)
            if left:
                module._edits = left
            else:
                module.__dict__.pop("_edits", None)


class Edited(Call):
    """A call of a module with edits."""

    def __init__(self, kernel: bool, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.kernel = kernel
        self.scopes = [(scope, scope.calls) for scope in self.module._edits]
        for scope, _ in self.scopes:
            scope.calls += 1

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def layer(self, name: str, x: Tensor, weights: Weights, reverse: bool, **projection: Any) -> Tensor:
        """Run the next layer or direction, with its edits."""
        self.edits = list(self._edits_of(name, x.shape[1]))
        return super().layer(name, x, weights, reverse, **projection)

    def _scan(self, cell: int, x: Tensor, *arguments: Any, **projection: Any) -> reference.Scan:
        steps, batch = x.shape[:2]
        lengths = None if self.lengths is None else self.lengths.cpu().numpy()
        edits, layer = self.edits, target(self.module)
        if edits and self._on_kernel(x, arguments[:6]):
            dtype = "float64" if x.dtype == torch.float64 else "float32"
            table = compile_edits(edits, layer.cell, steps, batch, layer.units, dtype, lengths)
            if table is not None:
                return operators.edited_scan(table, cell, x, *arguments)
        edits = [edit for edit in edits if chosen(edit, steps, batch, lengths).any()]
        if edits:
            projection["edit"] = _Editor(edits, layer, x, lengths)
        if self.kernel and not edits:
            return operators.scan(cell, x, *arguments)
        return reference.scan(cell, x, *arguments, **projection)

    def _edits_of(self, name: str, batch: int) -> Iterator[Edit]:
        """Return the edits of a layer; for a cell those of the step which this call is."""
        for scope, first in self.scopes:
            for edit in scope.edits.get(name, ()):
                if not isinstance(self.module, nn.RNNCellBase):
                    yield edit
                elif chosen(edit, 1, batch, first=first).any():
                    yield _at_step(edit, batch, first)

    def _on_kernel(self, x: Tensor, inputs: tuple[Maybe, ...]) -> bool:
        values = [edit.value for edit in self.edits if isinstance(edit.value, Tensor)]
        if not self.kernel or has_gradient((x, *inputs, *values)) or any(e.function for e in self.edits):
            return False
        return may_pass_torch_by(x, inputs, self.lengths, self.resets)


def _at_step(edit: Edit, batch: int, first: int) -> Edit:
    """Return the edit of one step of a cell."""
    if edit.kind == "replace":
        return replace(edit, steps=None, replace=edit.replace[first : first + 1])
    if edit.kind == "resample":
        return replace(edit, steps=None, resample=None, replace=drawn(edit, 1, batch, first))
    return replace(edit, steps=None)


class _Editor:
    """Makes edits one after another in plain torch operations; for `reference.scan`."""

    def __init__(self, edits: list[Edit], layer: Target, x: Tensor, lengths: Any) -> None:
        self.changes: dict[str, list[tuple[Edit, Tensor, Tensor | None]]] = {}
        steps, batch = x.shape[:2]
        for edit in edits:
            count = layer.hidden if edit.gate == "hidden" else layer.units
            inside = torch.zeros(count, dtype=torch.bool, device=x.device)
            inside[slice(None) if edit.units is None else list(edit.units)] = True
            when = torch.from_numpy(chosen(edit, steps, batch, lengths)).to(x.device)
            value = None
            if edit.kind in ("set", "scale", "add", "replace"):
                value = _tensor(edit.value, x)
            elif edit.kind == "resample":
                value = _tensor(drawn(edit, steps, batch), x)
            if value is not None and value.dim() == 1 and edit.units is not None:
                places = torch.tensor(edit.units, device=x.device)
                value = value.new_zeros(count).index_copy(0, places, value)
            self.changes.setdefault(edit.gate, []).append((edit, when.unsqueeze(-1) & inside, value))

    def __call__(self, t: int, name: str, now: Tensor) -> Tensor:
        for edit, where, value in self.changes.get(name, ()):
            at = value[t] if value is not None and value.dim() == 3 else value
            # The operations keep z = 1 - u.
            new = 1 - _changed(edit, 1 - now, at) if name == "update" else _changed(edit, now, at)
            now = torch.where(where[t], new, now)
        return now


def _changed(edit: Edit, now: Tensor, value: Tensor | None) -> Tensor:
    if edit.clamp is not None:
        return torch.clamp(now, *edit.clamp)
    if edit.function is not None:
        new = edit.function(now)
        if not isinstance(new, Tensor) or new.shape != now.shape:
            came = list(new.shape) if isinstance(new, Tensor) else type(new).__name__
            raise edit.error(f"function must return a tensor of shape {list(now.shape)}, got {came}")
        return new
    assert value is not None
    if edit.kind == "scale":
        return now * value
    return now + value if edit.kind == "add" else value.expand_as(now)


def _tensor(value: Any, like: Tensor) -> Tensor:
    if isinstance(value, Tensor):
        return value.to(like)
    return torch.as_tensor(numbers(value), dtype=like.dtype, device=like.device)
