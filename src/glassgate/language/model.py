"""The next-word model in torch: embedding, stack of LSTM or GRU layers, softmax."""

from collections.abc import Mapping
from typing import Any, TypeAlias, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from glassgate.folder.config import NARROWER, ModelConfig
from glassgate.layers import GRU, LSTM, AdaptiveEmbedding, AdaptiveSoftmax, Embedding, FullSoftmax, track
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
    weight_drop
        In training: the share of the recurrent weights that is dropped, one mask a call.

    References
    ----------
    The notes, section 2; the forget gate's bias: Gers et al. 2000; tied weights: Press and Wolf 2017;
    one mask a sequence: Gal and Ghahramani 2016; dropped weights: Merity et al. 2018.

    Examples
    --------
    >>> config = ModelConfig(cell="lstm", vocabulary=100, embedding=10, hidden=20, bias=False, tied=False)
    >>> model = NextWordModel(config)
    >>> sum(p.numel() for p in model.parameters()) - model.embedding.weight.numel()
    4400
    """

    def __init__(self, config: ModelConfig, weight_drop: float = 0.0) -> None:
        super().__init__()
        self.config = config
        self.embedding: Embedding | AdaptiveEmbedding
        adaptive = None
        if config.embedding_cutoffs:
            words = (config.vocabulary, config.embedding, config.embedding_cutoffs)
            self.embedding = adaptive = AdaptiveEmbedding(*words, div_value=NARROWER)
        else:
            self.embedding = Embedding(config.vocabulary, config.embedding)
        for E in self.word_matrices():
            nn.init.uniform_(E, -INITIAL_RANGE, INITIAL_RANGE)
        between = config.dropout if config.layers > 1 else 0.0  # torch warns of one that cannot act
        sizes = (config.embedding, config.hidden, config.layers, config.bias)
        self.rnn: LSTM | GRU
        if config.cell == "lstm":
            forget_bias = 1.0 if config.bias else None
            self.rnn = LSTM(*sizes, dropout=between, forget_bias=forget_bias, weight_drop=weight_drop)
        else:
            self.rnn = GRU(*sizes, dropout=between, reset=config.reset, weight_drop=weight_drop)
        narrower = config.tied and config.embedding != config.hidden
        self.projection = nn.Linear(config.hidden, config.embedding, bias=False) if narrower else None
        self.output: FullSoftmax | AdaptiveSoftmax
        if config.cutoffs:
            size = (config.width, config.vocabulary)
            self.output = AdaptiveSoftmax(*size, config.cutoffs, config.bias, embedding=adaptive)
        else:
            self.output = FullSoftmax(config.width, config.vocabulary, config.bias)
        if config.tied:
            self.output.weight = self.word_matrices()[0]

    def word_matrices(self) -> list[nn.Parameter]:
        """Return the embedding's matrices of a row for each word: one, or that of each band."""
        if isinstance(self.embedding, AdaptiveEmbedding):
            return [band.E for band in self.embedding.factors()]
        return [cast(nn.Parameter, self.embedding.weight)]

    def track_words(self) -> None:
        """Gather the gradients of the embedding and of V by rows: `glassgate.layers.track`."""
        for matrix in (*self.word_matrices(), self.output.weight):  # a tied one is tracked once
            track(matrix)

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
        h, last = self._run(words, state)
        return self._project(self._drop(h)), last

    def _run(self, words: Tensor, state: State) -> tuple[Tensor, State]:
        """Return the last layer's hidden states [T, N, hidden], and the state after the last step."""
        x = self._drop(self.embedding(words))
        h, last = self.rnn(x, state if self.config.cell == "lstm" else state[0])
        # Under autocast they are bfloat16; what is carried on to the next piece is not rounded so often.
        dtype = self.output.weight.dtype
        return h, tuple(part.to(dtype) for part in (last if isinstance(last, tuple) else (last,)))

    def _project(self, h: Tensor) -> Tensor:
        return h if self.projection is None else self.projection(h)

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

    def training_loss(
        self, words: Tensor, targets: Tensor, state: State, activation: float = 0.0, slowness: float = 0.0
    ) -> tuple[Tensor, Tensor, State]:
        r"""Return the mean loss, what regularises it, and the last state.

        .. code-block:: text

            AR   activation x mean (m h_t)^2            m: the mask that drops h_t
            TAR  slowness x mean (h_t - h_{t-1})^2      not dropped

        Parameters
        ----------
        words, targets : Tensor [T, N]
            Word numbers, and those that follow them.
        state
            As for `forward`.
        activation, slowness
            AR's alpha and TAR's beta.

        Returns
        -------
        tuple of Tensor, Tensor and State
            -log y_t[target] in nats, the sum of AR and TAR, the state after the last step.

        References
        ----------
        Merity, McCann and Socher 2017, arXiv:1708.01009.
        """
        h, last = self._run(words, state)
        dropped = self._drop(h)
        penalty = h.new_zeros(())
        if activation:
            penalty = penalty + activation * dropped.square().mean()
        if slowness and len(h) > 1:
            penalty = penalty + slowness * (h[1:] - h[:-1]).square().mean()
        loss = self.output.loss(self._project(dropped).flatten(0, 1), targets.flatten(), "mean")
        return loss, penalty, last

    def initial_state(self, batch: int) -> State:
        """Return the state before the first word: zeros, for ``batch`` sequences."""
        zeros = self.output.weight.new_zeros(self.config.layers, batch, self.config.hidden)
        return (zeros, zeros.clone()) if self.config.cell == "lstm" else (zeros,)

    def arrays(self) -> dict[str, npt.NDArray[np.float32]]:
        """Return the weights as model.safetensors holds them; a tied matrix once. On the CPU no copies."""
        tensors = self.state_dict()
        return {name: tensors[name].detach().cpu().numpy() for name in self.config.tensors()}

    def load_arrays(self, arrays: Mapping[str, npt.NDArray[Any]]) -> None:
        """Take weights over, as `arrays` returns them."""
        own = self.state_dict()
        with torch.no_grad():
            for name in self.config.tensors():
                own[name].copy_(torch.from_numpy(arrays[name]))
