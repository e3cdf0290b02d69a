"""Gates and states of a model over a text, computed by the equations themselves."""

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from glassgate.equations import GRUStep, LSTMStep, from_torch_layout, run_gru, run_lstm
from glassgate.folder.config import ModelConfig

__all__ = ["gates_over"]


def gates_over(
    config: ModelConfig, weights: Mapping[str, npt.NDArray[np.float32]], numbers: Sequence[int]
) -> list[LSTMStep | GRUStep]:
    """Run a model over a text and return what its gates and states were.

    Parameters
    ----------
    config, weights
        As a model folder holds them.
    numbers
        The words of the text, from the initial state on.

    Returns
    -------
    list of LSTMStep or GRUStep
        One for each layer, from the first up; each field is [T, hidden].

    Examples
    --------
    >>> config = ModelConfig(cell="lstm", vocabulary=8, embedding=3, hidden=2, bias=False, tied=False)
    >>> weights = {name: np.zeros(shape, np.float32) for name, shape in config.tensors().items()}
    >>> gates_over(config, weights, [1, 5])[0].f  # no weights, no opinion
    array([[0.5, 0.5],
           [0.5, 0.5]], dtype=float32)
    """
    x = weights["embedding.weight"][list(numbers)]
    zeros = np.zeros(config.hidden, x.dtype)
    layers: list[LSTMStep | GRUStep] = []
    for layer in range(config.layers):
        ih, hh = weights[f"rnn.weight_ih_l{layer}"], weights[f"rnn.weight_hh_l{layer}"]
        biases = weights.get(f"rnn.bias_ih_l{layer}"), weights.get(f"rnn.bias_hh_l{layer}")
        letters = from_torch_layout(ih, hh, *biases, config.reset)
        steps = (
            run_lstm(x, zeros, zeros, **letters) if config.cell == "lstm" else run_gru(x, zeros, **letters)
        )
        layers.append(steps)
        x = steps.h
    return layers
