"""The GRU, with the reset gate where the notes have it or where torch has it."""

from typing import Any, Literal

from torch import Tensor, nn

from glassgate.errors import GlassgateError
from glassgate.layers import reference
from glassgate.layers.recurrent import Precision, Recurrent

__all__ = ["GRU"]


class GRU(Recurrent, nn.GRU):
    r"""``torch.nn.GRU`` on glassgate's kernels, with a choice of where the reset gate acts.

    .. code-block:: text

        r_t = sigmoid(W_ir x_t + b_ir + W_hr h_{t-1} + b_hr)                 reset gate
        z_t = sigmoid(W_iz x_t + b_iz + W_hz h_{t-1} + b_hz)                 1 - update gate
        n_t = tanh   (W_in x_t + b_in + r_t * (W_hn h_{t-1} + b_hn))         candidate, reset="after"
        n_t = tanh   (W_in x_t + b_in + W_hn (r_t * h_{t-1}) + b_hn)         candidate, reset="before"
        h_t = (1 - z_t) * n_t + z_t * h_{t-1}

    in torch's letters: z, the share of the old value, is 1 - u of the notes. ``reset="after"`` is
    ``torch.nn.GRU``; ``reset="before"`` is the form of the notes and ONNX's default. Parameters, shapes and
    names are the same in both; they are different functions all the same, no weights of one give the other.

    Constructor, parameters, initial weights, results and shapes are those of ``torch.nn.GRU``, and a
    state_dict fits both ways. `glassgate.record` shows the gates; ``lengths`` and ``resets`` of `forward`
    replace packing. On a device or dtype without a kernel torch's own path computes, or plain torch
    operations where torch lacks the form; a warning says so once.

    Parameters
    ----------
    *args, **kwargs
        As for ``torch.nn.GRU``: ``input_size``, ``hidden_size``, ``num_layers``, ``bias``, ``batch_first``,
        ``dropout``, ``bidirectional``, ``device``, ``dtype``.
    reset
        ``"after"``, torch's form and the default of this drop-in class, or ``"before"``.
    precision
        ``"fp32"``, or ``"bf16"``: what enters the matrix products is rounded to bfloat16; weights, sums and
        states stay in float32. Under ``torch.autocast("cpu", torch.bfloat16)`` it is ``"bf16"``, and results
        have the dtype of the input, as torch's have there.
    weight_drop
        In training each weight on the hidden state is dropped with this probability, drawn once a call; the
        others are scaled up.

    Raises
    ------
    GlassgateError
        A keyword of glassgate's has no such value.

    References
    ----------
    The notes, section 3; Cho et al. 2014, arXiv:1406.1078 (version 3 resets before the product, version 1
    after it). ``weight_drop``: Wan et al. 2013; Merity et al. 2017, arXiv:1708.02182.

    Examples
    --------
    >>> import torch
    >>> gru = GRU(10, 20, reset="before")
    >>> h, last = gru(torch.zeros(5, 3, 10))
    >>> tuple(h.shape), torch.equal(h[-1], last[0])
    ((5, 3, 20), True)
    """

    reset: Literal["before", "after"] = "after"

    _own_options = ("reset", "precision", "weight_drop")

    def __init__(
        self,
        *args: Any,
        reset: Literal["before", "after"] = "after",
        precision: Precision = "fp32",
        weight_drop: float = 0.0,
        **kwargs: Any,
    ) -> None:
        if reset not in ("before", "after"):
            raise GlassgateError(f"reset: must be before or after, got {reset!r}")
        super().__init__(*args, **kwargs)
        self._options(precision, weight_drop)
        self.reset = reset

    def _cell(self) -> int:
        return reference.GRU_AFTER if self.reset == "after" else reference.GRU_BEFORE

    def _torch_has_it(self) -> bool:
        return self.reset == "after" and super()._torch_has_it()

    def _states(self, hx: Any, x: Tensor, unbatched: bool) -> list[Tensor | None]:
        return [None if hx is None else self._state("h_0", hx, x, unbatched, self.hidden_size)]
