"""The LSTM: torch's, with every gate visible."""

from numbers import Real
from typing import Any

import torch
from torch import Tensor, nn

from glassgate.layers import reference
from glassgate.layers.recurrent import Precision, Recurrent

__all__ = ["LSTM"]


class LSTM(Recurrent, nn.LSTM):
    r"""``torch.nn.LSTM`` on glassgate's kernels: faster on a CPU, every gate and cell state visible.

    .. code-block:: text

        i_t = sigmoid(W_ii x_t + b_ii + W_hi h_{t-1} + b_hi)     input gate
        f_t = sigmoid(W_if x_t + b_if + W_hf h_{t-1} + b_hf)     forget gate
        g_t = tanh   (W_ig x_t + b_ig + W_hg h_{t-1} + b_hg)     candidate
        o_t = sigmoid(W_io x_t + b_io + W_ho h_{t-1} + b_ho)     output gate
        c_t = f_t * c_{t-1} + i_t * g_t
        h_t = o_t * tanh(c_t)

    Constructor, parameters, initial weights, results and shapes are those of ``torch.nn.LSTM``, and a
    state_dict fits both ways. `glassgate.record` shows the gates; ``lengths`` and ``resets`` of `forward`
    replace packing. On a device or dtype without a kernel, and with ``proj_size``, torch's own path computes;
    a warning says so once.

    Parameters
    ----------
    *args, **kwargs
        As for ``torch.nn.LSTM``: ``input_size``, ``hidden_size``, ``num_layers``, ``bias``, ``batch_first``,
        ``dropout``, ``bidirectional``, ``proj_size``, ``device``, ``dtype``.
    forget_bias
        Where the forget gate starts: the sum of its two biases; 1 lets a new network remember. None leaves
        torch's random values.
    precision
        ``"fp32"``, or ``"bf16"``: what enters the matrix products is rounded to bfloat16; weights, sums and
        cell states stay in float32. Under ``torch.autocast("cpu", torch.bfloat16)`` it is ``"bf16"``, and
        results have the dtype that torch's have there: bfloat16, of a PackedSequence that of the input.
    weight_drop
        In training each weight on the hidden state is dropped with this probability, drawn once a call; the
        others are scaled up.

    Raises
    ------
    GlassgateError
        A keyword of glassgate's has no such value.

    References
    ----------
    The notes, section 1. ``forget_bias``: Gers et al. 2000, "Learning to forget". ``weight_drop``:
    Wan et al. 2013 (DropConnect); Merity et al. 2017, arXiv:1708.02182.

    Examples
    --------
    >>> lstm = LSTM(10, 20, forget_bias=1.0)
    >>> x = torch.randn(5, 3, 10)
    >>> y, (h, c) = lstm(x, lengths=[5, 0, 2])  # ragged, no packing
    >>> torch.equal(h[0, 2], y[1, 2]), y[2:, 2].abs().max().item()
    (True, 0.0)
    """

    forget_bias: float | None = None

    _own_options = ("forget_bias", "precision", "weight_drop")
    _state_names = ("h_0", "c_0")
    _trace_cell = "lstm"

    def __init__(
        self,
        *args: Any,
        forget_bias: float | None = None,
        precision: Precision = "fp32",
        weight_drop: float = 0.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self._options(precision, weight_drop)
        if forget_bias is not None and not isinstance(forget_bias, Real):
            raise self._error(f"forget_bias must be a number, got {forget_bias!r}")
        if forget_bias is not None and not self.bias:
            raise self._error("forget_bias needs bias=True")
        self.forget_bias = forget_bias
        self._fill_forget_bias()

    def reset_parameters(self) -> None:
        """Draw new weights as torch does; ``forget_bias`` holds."""
        super().reset_parameters()
        self._fill_forget_bias()

    def _fill_forget_bias(self) -> None:
        if self.forget_bias is None:
            return
        forget = slice(self.hidden_size, 2 * self.hidden_size)
        with torch.no_grad():
            for name in self._trace_names():
                getattr(self, f"bias_ih_{name}")[forget] = self.forget_bias
                getattr(self, f"bias_hh_{name}")[forget] = 0

    def _cell(self) -> int:
        return reference.LSTM

    def _states(self, hx: Any, x: Tensor, unbatched: bool) -> list[Tensor | None]:
        if hx is None:
            return [None, None]
        if not isinstance(hx, (tuple, list)) or len(hx) != 2:
            raise self._error(f"hx must be the pair (h_0, c_0), got {type(hx).__name__}")
        wide = self.proj_size or self.hidden_size
        return [
            self._state("h_0", hx[0], x, unbatched, wide),
            self._state("c_0", hx[1], x, unbatched, self.hidden_size),
        ]

    def _autocast_result(self, autocast: torch.dtype, given: torch.dtype, packed: bool) -> torch.dtype:
        return given if packed else autocast
