"""The GRU that torch does not have: the reset gate acts before the matrix product."""

from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from glassgate.errors import GlassgateError

__all__ = ["GRU"]


class GRU(nn.GRU):
    r"""``torch.nn.GRU`` with a choice of where the reset gate acts.

    With ``reset="after"`` this is ``torch.nn.GRU`` itself. With ``reset="before"``, the form of the
    notes and of ONNX's default,

    .. code-block:: text

        r_t = sigmoid(W_ir x_t + b_ir + W_hr h_{t-1} + b_hr)
        z_t = sigmoid(W_iz x_t + b_iz + W_hz h_{t-1} + b_hz)
        n_t = tanh   (W_in x_t + b_in + W_hn (r_t * h_{t-1}) + b_hn)
        h_t = (1 - z_t) * n_t + z_t * h_{t-1}

    in torch's letters: z, the share of the old value, is 1 - u of the notes. Parameters, shapes and
    names are those of ``torch.nn.GRU``; the two forms are different functions all the same, no
    weights of one give the other.

    Parameters
    ----------
    *args, **kwargs
        As for ``torch.nn.GRU``: ``input_size``, ``hidden_size``, ``num_layers``, ``bias``,
        ``batch_first``, ``dropout``, ``bidirectional``, ``device``, ``dtype``.
    reset
        ``"after"``, torch's form and the default of this drop-in class, or ``"before"``.

    Raises
    ------
    GlassgateError
        When ``reset`` is neither; with ``reset="before"`` also for a PackedSequence, and where a
        shape does not fit.

    References
    ----------
    Cho et al. 2014, arXiv:1406.1078 (version 3 resets before the product, version 1 after).

    Examples
    --------
    >>> gru = GRU(10, 20, reset="before")
    >>> h, last = gru(torch.zeros(5, 3, 10))
    >>> tuple(h.shape), torch.equal(h[-1], last[0])
    ((5, 3, 20), True)
    """

    def __init__(self, *args: Any, reset: Literal["before", "after"] = "after", **kwargs: Any) -> None:
        if reset not in ("before", "after"):
            raise GlassgateError(f"reset: must be before or after, got {reset!r}")
        super().__init__(*args, **kwargs)
        self.reset = reset

    def forward(self, input: Any, hx: Tensor | None = None) -> Any:  # noqa: A002  # torch's own name
        """Run the whole sequence; arguments and results as for ``torch.nn.GRU``."""
        if self.reset == "after":
            return super().forward(input, hx)
        if isinstance(input, PackedSequence):
            raise GlassgateError("GRU: reset='before' takes a tensor, got a PackedSequence")
        unbatched = input.dim() == 2
        order = "T" if unbatched else "N, T" if self.batch_first else "T, N"
        time = order.find("T") // 3
        if input.dim() not in (2, 3) or input.shape[-1] != self.input_size or input.shape[time] == 0:
            raise GlassgateError(
                f"GRU: input must have shape [{order}, {self.input_size}] with T at least 1, "
                f"got {list(input.shape)}"
            )
        x = input.unsqueeze(1) if unbatched else input.transpose(0, 1) if self.batch_first else input
        directions = 2 if self.bidirectional else 1
        shape = [self.num_layers * directions, x.shape[1], self.hidden_size]
        if hx is None:
            hx = x.new_zeros(shape)
        elif list(hx.shape) != (shape[::2] if unbatched else shape):  # else it would be broadcast
            expected = str(shape[::2] if unbatched else shape)
            raise GlassgateError(f"GRU: hx must have shape {expected}, got {list(hx.shape)}")
        elif unbatched:
            hx = hx.unsqueeze(1)
        last = []
        for layer in range(self.num_layers):
            if layer and self.dropout:
                x = nn.functional.dropout(x, self.dropout, self.training)
            outputs = []
            for direction in range(directions):
                h = hx[layer * directions + direction]
                name = f"_l{layer}" + "_reverse" * direction
                steps = self._run(x.flip(0) if direction else x, h, name)
                last.append(steps[-1])
                outputs.append(steps.flip(0) if direction else steps)
            x = torch.cat(outputs, -1)
        h_last = torch.stack(last)
        if unbatched:
            return x.squeeze(1), h_last.squeeze(1)
        return (x.transpose(0, 1) if self.batch_first else x), h_last

    def _run(self, x: Tensor, h: Tensor, name: str) -> Tensor:
        """Run one layer in one direction: x [T, N, I], h [N, H] -> [T, N, H]."""
        size = self.hidden_size
        bias_ih, bias_hh = (
            getattr(self, f"bias_{side}{name}") if self.bias else None for side in ("ih", "hh")
        )
        from_x = nn.functional.linear(x, getattr(self, f"weight_ih{name}"), bias_ih)  # all steps at once
        weight_gates, weight_new = getattr(self, f"weight_hh{name}").split([2 * size, size])
        bias_gates, bias_new = (None, None) if bias_hh is None else bias_hh.split([2 * size, size])
        steps = []
        for step in from_x:
            gates_x, new_x = step.split([2 * size, size], -1)
            r, z = torch.sigmoid(gates_x + nn.functional.linear(h, weight_gates, bias_gates)).chunk(2, -1)
            n = torch.tanh(new_x + nn.functional.linear(r * h, weight_new, bias_new))
            h = torch.lerp(n, h, z)
            steps.append(h)
        return torch.stack(steps)
