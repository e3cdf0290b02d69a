"""The next-word model in torch: embedding, stack of LSTM or GRU layers, softmax."""

from collections.abc import Mapping
from typing import Any, TypeAlias, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from glassgate.folder.config import ModelConfig
from glassgate.layers import GRU, LSTM, AdaptiveSoftmax, Embedding, FullSoftmax
from glassgate.layers.output import Reduction

__all__ = ["NextWordModel", "State"]

State: TypeAlias = tuple[Tensor, ...]
"""What runs through time: (h, C) of an LSTM, (h,) of a GRU, each [layers, N, hidden]."""

INITIAL_RANGE = 0.1  # of the embedding's weights; torch's own unit normal is too wide to be tied


class NextWordModel(nn.Module):
    r"""Predict the next word: y_t = softmax(V h_t + c).

    .. code-block:: text

        x_t      = embedding[word_t]
        h_t, C_t = LSTM or GRU layers, on x_t and the state of t-1
        y_t      = softmax(V h_t + c), or softmax(V P h_t + c) where V is the embedding and
                   narrower than h

    Dropout acts on x_t, between layers and on the last h_t; on x_t and the last h_t with one mask
    for all steps of a sequence. With biases the LSTM's forget gate starts
    at sigmoid(1): a new network remembers.

    Parameters
    ----------
    config
        Sizes and forms.

    References
    ----------
    The notes, section 2; the forget gate's bias: Gers et al. 2000; tied weights: Press and Wolf 2017;
    one mask a sequence: Gal and Ghahramani 2016.

    Examples
    --------
    >>> config = ModelConfig(cell="lstm", vocabulary=100, embedding=10, hidden=20, bias=False, tied=False)
    >>> model = NextWordModel(config)
    >>> sum(p.numel() for p in model.parameters()) - model.embedding.weight.numel()
    4400
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.embedding = Embedding(config.vocabulary, config.embedding)
        nn.init.uniform_(self.embedding.weight, -INITIAL_RANGE, INITIAL_RANGE)
        between = config.dropout if config.layers > 1 else 0.0  # torch warns of one that cannot act
        sizes = (config.embedding, config.hidden, config.layers, config.bias)
        self.rnn: LSTM | GRU
        if config.cell == "lstm":
            self.rnn = LSTM(*sizes, dropout=between, forget_bias=1.0 if config.bias else None)
        else:
            self.rnn = GRU(*sizes, dropout=between, reset=config.reset)
        narrower = config.tied and config.embedding != config.hidden
        self.projection = nn.Linear(config.hidden, config.embedding, bias=False) if narrower else None
        self.output: FullSoftmax | AdaptiveSoftmax
        if config.cutoffs:
            self.output = AdaptiveSoftmax(config.width, config.vocabulary, config.cutoffs, config.bias)
        else:
            self.output = FullSoftmax(config.width, config.vocabulary, config.bias)
        if config.tied:
            self.output.weight = cast(nn.Parameter, self.embedding.weight)

    def forward(self, words: Tensor, state: State) -> tuple[Tensor, State]:
        """Run the stack over a sequence.

        Parameters
        ----------
        words : Tensor [T, N]
            Word numbers, time first.
        state
            From `initial_state` or an earlier call.

        Returns
        -------
        tuple of Tensor [T, N, width] and State
            What V multiplies at each step, and the state after the last.
        """
        x = self._drop(self.embedding(words))
        h, last = self.rnn(x, state if self.config.cell == "lstm" else state[0])
        h = self._drop(h)
        if self.projection is not None:
            h = self.projection(h)
        return h, last if isinstance(last, tuple) else (last,)

    def _drop(self, x: Tensor) -> Tensor:
        """Drop the same units of a sequence at all its steps: [T, N, width]."""
        keep = 1 - self.config.dropout
        if not self.training or keep == 1:
            return x
        return x * x.new_empty(1, *x.shape[1:]).bernoulli_(keep).div_(keep)

    def loss(
        self, words: Tensor, targets: Tensor, state: State, reduction: Reduction = "none"
    ) -> tuple[Tensor, State]:
        """Return -log y_t[target] in nats, and the last state.

        By default for each position, row by row of [T, N]; ``"mean"`` or ``"sum"`` over all is what
        trains fast.
        """
        h, state = self(words, state)
        return self.output.loss(h.flatten(0, 1), targets.flatten(), reduction), state

    def initial_state(self, batch: int) -> State:
        """Return the state before the first word: zeros, for ``batch`` sequences."""
        zeros = torch.zeros(self.config.layers, batch, self.config.hidden)
        return (zeros, zeros.clone()) if self.config.cell == "lstm" else (zeros,)

    def arrays(self) -> dict[str, npt.NDArray[np.float32]]:
        """Return the weights as model.safetensors holds them; a tied matrix once. No copies."""
        tensors = self.state_dict()
        return {name: tensors[name].detach().numpy() for name in self.config.tensors()}

    def load_arrays(self, arrays: Mapping[str, npt.NDArray[Any]]) -> None:
        """Take weights over, as `arrays` returns them."""
        own = self.state_dict()
        with torch.no_grad():
            for name in self.config.tensors():
                own[name].copy_(torch.from_numpy(arrays[name]))
