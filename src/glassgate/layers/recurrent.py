"""What LSTM and GRU share: layers, directions, batches of every kind, and the choice of who computes."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from numbers import Real
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

from glassgate.layers import operators
from glassgate.layers.scanning import Scanning, say_once

__all__ = ["Lengths", "Precision", "Recurrent"]

Precision: TypeAlias = Literal["fp32", "bf16"]
Lengths: TypeAlias = Tensor | Sequence[int] | int


class Recurrent(Scanning, nn.RNNBase):
    """The body of `LSTM` and `GRU`; a subclass says which cell, and which states run through time."""

    precision: Precision = "fp32"
    weight_drop: float = 0.0
    _own_options: tuple[str, ...] = ("precision", "weight_drop")
    _state_names: tuple[str, ...] = ("h_0",)

    def _options(self, precision: Precision, weight_drop: float) -> None:
        if precision not in ("fp32", "bf16"):
            raise self._error(f"precision must be fp32 or bf16, got {precision!r}")
        if not (isinstance(weight_drop, Real) and 0 <= weight_drop < 1):
            raise self._error(f"weight_drop must be from 0 to below 1, got {weight_drop!r}")
        self.precision = precision
        self.weight_drop = weight_drop

    def extra_repr(self) -> str:
        """Return what torch shows, and glassgate's own keywords where they are not the defaults."""
        own = {name: getattr(self, name) for name in self._own_options}
        further = [f", {name}={value}" for name, value in own.items() if value != getattr(type(self), name)]
        return super().extra_repr() + "".join(further)

    def _cell(self) -> int:
        raise NotImplementedError

    def forward(
        self,
        input: Any,  # noqa: A002  # torch's own name
        hx: Any = None,
        *,
        lengths: Lengths | None = None,
        resets: Tensor | None = None,
    ) -> Any:
        """Run the whole sequence.

        Parameters
        ----------
        input : Tensor [T, N, I], [N, T, I] with ``batch_first``, [T, I] unbatched, or PackedSequence
        hx
            The state before the first step, as for torch's layer; None is zeros.
        lengths : Tensor [N] or sequence of int, optional
            How many steps of each sequence count, 0 to T, in any order. Outputs past the length are zero,
            final states are those at the length, and the reverse direction starts there. Unbatched: a number.
        resets : Tensor of bool [T, N], optional
            Where true, the state is cleared before the step, in the reverse direction too: there the step
            begins a piece with those before it in time. [N, T] with ``batch_first``, [T] unbatched.

        Returns
        -------
        tuple
            The outputs and the final state, with torch's shapes.

        Raises
        ------
        GlassgateError
            A shape or a dtype does not fit, or a length is not from 0 to T.
        """
        packed = input if isinstance(input, PackedSequence) else None
        x: Tensor = input if packed is None else packed.data
        if not isinstance(x, Tensor):
            raise self._error(f"the input must be a tensor or a PackedSequence, got {type(x).__name__}")
        dtype = self._autocast(x)
        self._check_dtype(x, self._weight("weight_ih_l0"), dtype)
        lacks = self._without_kernel(x, dtype)
        marked = lengths is not None or resets is not None
        if lacks and not marked and not self._watched and self._torch_has_it() and 0 not in x.shape[:-1]:
            say_once(f"{type(self).__name__}: no kernel for {lacks}, torch's own path computes")
            with self._some_dropped():
                return super().forward(input, hx)
        if lacks:
            say_once(f"{type(self).__name__}: no kernel for {lacks}, plain torch operations compute, slowly")
        if packed is not None:
            if marked:
                raise self._error(
                    "a PackedSequence carries its lengths; give a padded tensor for lengths or resets"
                )
            x, lengths = pad_packed_sequence(packed)
        unbatched = x.dim() == 2 and packed is None
        swap = self.batch_first and not unbatched and packed is None
        self._check_input(x, unbatched, swap)
        x = x.unsqueeze(1) if unbatched else x.transpose(0, 1) if swap else x
        lengths = self._lengths(lengths, x, unbatched)
        if resets is not None:
            resets = self._resets(resets, x, unbatched, swap)
        states = self._states(hx, x, unbatched)
        own = x.dtype
        if dtype is not None:
            x, states = x.float(), [s if s is None else s.float() for s in states]
        bf16 = dtype == torch.bfloat16 or self.precision == "bf16"
        if bf16 and x.dtype != torch.float32:
            raise self._error(f'precision="bf16" takes torch.float32, got {x.dtype}')
        x, last = self._stack(not lacks, x, states, lengths, resets, bf16, dtype is not None)
        if dtype is not None:
            given = self._autocast_result(dtype, own, packed is not None)
            x, last = x.to(given), [s.to(given) for s in last]
        if unbatched:
            x, last = x.squeeze(1), [s.squeeze(1) for s in last]
        final = last[0] if len(last) == 1 else tuple(last)
        if packed is not None:
            return _pack(x, lengths, packed), final
        return (x.transpose(0, 1) if swap else x), final

    def _stack(
        self,
        kernel: bool,
        x: Tensor,
        states: list[Tensor | None],
        lengths: Tensor | None,
        resets: Tensor | None,
        bf16: bool,
        autocast: bool,
    ) -> tuple[Tensor, list[Tensor]]:
        """Run all layers and directions: x [T, N, I] -> [T, N, D H] and the final states [L D, N, H]."""
        directions = 2 if self.bidirectional else 1
        lead = (self.num_layers * directions, x.shape[1])
        call = self._begin(kernel, self._cell(), x, states, lead, lengths, resets, bf16)
        for layer in range(self.num_layers):
            if layer and self.dropout:
                x = nn.functional.dropout(x, self.dropout, self.training)
            outputs = []
            for direction in range(directions):
                name = f"l{layer}_reverse" if direction else f"l{layer}"
                w_ih, w_hh = self._weight("weight_ih_" + name), self._weight("weight_hh_" + name)
                if self.weight_drop and self.training:
                    w_hh = _dropped(w_hh, self.weight_drop)
                b_ih = self._weight("bias_ih_" + name) if self.bias else None
                b_hh = self._weight("bias_hh_" + name) if self.bias else None
                w_hr = self._weight("weight_hr_" + name) if self.proj_size else None
                if autocast:
                    weights = (w_ih, w_hh, b_ih, b_hh, w_hr)
                    w_ih, w_hh, b_ih, b_hh, w_hr = (w if w is None else w.float() for w in weights)
                further = {} if w_hr is None else {"w_hr": w_hr}
                outputs.append(call.layer(name, x, (w_ih, w_hh, b_ih, b_hh), direction == 1, **further))
            x = outputs[0] if directions == 1 else torch.cat(outputs, -1)
        return x, call.finals()

    def _trace_names(self) -> Sequence[str]:
        ends = ("", "_reverse") if self.bidirectional else ("",)
        return [f"l{layer}{end}" for layer in range(self.num_layers) for end in ends]

    def _torch_has_it(self) -> bool:
        return self.precision == "fp32"

    @contextmanager
    def _some_dropped(self) -> Iterator[None]:
        """Let torch's own path find the weights on the hidden state with some dropped."""
        if not (self.weight_drop and self.training):
            yield
            return
        names, whole = self._flat_weights_names, self._flat_weights
        self._flat_weights = [
            _dropped(weight, self.weight_drop)
            if weight is not None and name.startswith("weight_hh")
            else weight
            for name, weight in zip(names, whole, strict=True)
        ]
        try:
            yield
        finally:
            self._flat_weights = whole

    def _autocast_result(self, autocast: torch.dtype, given: torch.dtype, packed: bool) -> torch.dtype:
        """Return the dtype of torch's own results under autocast; ``given`` is the input's."""
        return given

    def _without_kernel(self, x: Tensor, autocast: torch.dtype | None) -> str:
        """Return what the kernels lack for this call, in words; "" if nothing."""
        if x.device.type not in ("cpu", "meta"):
            return f"device {x.device.type}"
        if autocast is not None:
            return "" if autocast == torch.bfloat16 and not self.proj_size else f"autocast to {autocast}"
        if x.dtype not in operators.KERNEL_DTYPES:
            return str(x.dtype)
        return "proj_size" if self.proj_size else ""

    def _check_input(self, x: Tensor, unbatched: bool, swap: bool) -> None:
        if x.dim() in (2, 3) and x.shape[-1] == self.input_size:
            return
        order = "T, " if unbatched else "N, T, " if swap else "T, N, "
        raise self._error(f"the input must have shape [{order}{self.input_size}], got {list(x.shape)}")

    def _lengths(self, lengths: Lengths | None, x: Tensor, unbatched: bool) -> Tensor | None:
        if lengths is None:
            return None
        try:
            lengths = torch.as_tensor(lengths, device=x.device)
        except (TypeError, ValueError, RuntimeError):  # what torch says to a word, to a ragged list, to 2^70
            raise self._error(f"lengths must be whole numbers, got a {type(lengths).__name__}") from None
        whole = not (lengths.is_floating_point() or lengths.is_complex() or lengths.dtype == torch.bool)
        if not whole and lengths.numel():  # [] becomes a tensor of floats
            raise self._error(f"lengths must be whole numbers, got {lengths.dtype}")
        if unbatched and lengths.dim() == 0:
            lengths = lengths.unsqueeze(0)
        if lengths.shape != x.shape[1:2]:
            raise self._error(f"lengths must have shape [{x.shape[1]}], got {list(lengths.shape)}")
        return lengths.to(torch.int64)

    def _resets(self, resets: Tensor, x: Tensor, unbatched: bool, swap: bool) -> Tensor:
        if not isinstance(resets, Tensor):
            raise self._error(f"resets must be a tensor, got {type(resets).__name__}")
        T, N = x.shape[:2]
        if resets.shape != ((N, T) if swap else (T,) if unbatched else (T, N)):
            order = "[N, T]" if swap else "[T]" if unbatched else "[T, N]"
            raise self._error(f"resets must have shape {order} like the input, got {list(resets.shape)}")
        return (resets.unsqueeze(1) if unbatched else resets.transpose(0, 1) if swap else resets) != 0

    def _states(self, hx: Any, x: Tensor, unbatched: bool) -> list[Tensor | None]:
        """Return the initial states [L D, N, H], one for each state that runs through time."""
        raise NotImplementedError

    def _state(self, name: str, state: Any, x: Tensor, unbatched: bool, size: int) -> Tensor:
        if not isinstance(state, Tensor):
            raise self._error(f"{name} must be a tensor, got {type(state).__name__}")
        total = self.num_layers * (2 if self.bidirectional else 1)
        shape = (total, size) if unbatched else (total, x.shape[1], size)
        if state.shape != shape:
            raise self._error(f"{name} must have shape {list(shape)}, got {list(state.shape)}")
        return state.unsqueeze(1) if unbatched else state


def _pack(x: Tensor, lengths: Tensor | None, like: PackedSequence) -> PackedSequence:
    """Pack x [T, N, H] in the order of the input's own packing."""
    assert lengths is not None
    if like.sorted_indices is not None:
        x, lengths = x.index_select(1, like.sorted_indices), lengths[like.sorted_indices.to(lengths.device)]
    data = pack_padded_sequence(x, lengths.cpu()).data
    return PackedSequence(data, like.batch_sizes, like.sorted_indices, like.unsorted_indices)


def _dropped(weight: Tensor, share: float) -> Tensor:
    """Return a weight with a share of it 0 and the others larger by as much.

    16 bits of chance are enough for each: torch's dropout draws 32 for each, four times as often, and takes
    a sixth of the step of a GRU of 1,024 units.
    """
    words, cut = -(-weight.numel() // 4), min(round(2**16 * share), 2**16 - 1)
    drawn = torch.randint(-(2**63), 2**63 - 1, (words,), device=weight.device).view(torch.int16)
    kept = drawn[: weight.numel()].view(weight.shape) >= cut - 2**15
    return weight * kept.to(weight.dtype).div_(1 - cut / 2**16)
