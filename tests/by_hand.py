"""A next-word model computed by the notes' equations alone, and a model in float64 to hold beside it."""

from typing import Any

import numpy as np

from glassgate import equations
from glassgate.folder.config import ModelConfig
from glassgate.folder.vocabulary import Vocabulary
from glassgate.language.model import NextWordModel
from glassgate.runtime import Model


def drawn_weights(config: ModelConfig, seed: int) -> dict[str, Any]:
    generator = np.random.default_rng(seed)
    return {name: generator.uniform(-1, 1, shape) for name, shape in config.tensors().items()}


def embedding(config: ModelConfig, weights: dict[str, Any]) -> Any:
    """Return the vectors of all words; those of the bands of an adaptive embedding are Q E."""
    parts = []
    for band in config.bands:
        E = weights[band.table]
        parts.append(E if band.projection is None else np.einsum("wj,dj->wd", E, weights[band.projection]))
    return np.concatenate(parts)


def probabilities(config: ModelConfig, weights: dict[str, Any], words: Any) -> Any:
    """Return y [T, N, words] from the notes' equations; words [T, N], from the initial state."""
    E = embedding(config, weights)
    x = E[words]
    zeros = np.zeros((words.shape[1], config.hidden))
    for layer in range(config.layers):
        names = ["weight_ih", "weight_hh", "bias_ih", "bias_hh"][: 4 if config.bias else 2]
        arrays = [weights[f"rnn.{name}_l{layer}"] for name in names]
        letters = equations.from_torch_layout(*arrays, reset=config.reset)
        if config.cell == "lstm":
            x = equations.run_lstm(x, zeros, zeros, **letters).h
        else:
            x = equations.run_gru(x, zeros, **letters).h
    if config.tied and config.embedding != config.hidden:
        x = x @ weights["projection.weight"].T
    V = E if config.tied else weights["output.weight"]
    c = weights.get("output.bias", np.zeros(config.vocabulary))
    if config.output == "full":
        return equations.output(x, V, c)
    first, clusters = config.cutoffs[0], len(config.cutoffs)
    c_clusters = weights.get("output.clusters.bias", np.zeros(clusters))
    head = equations.output(
        x, np.concatenate([V[:first], weights["output.clusters.weight"]]), np.append(c[:first], c_clusters)
    )
    parts = [head[..., :first]]
    for number, (start, stop) in enumerate(
        zip(config.cutoffs, [*config.cutoffs[1:], config.vocabulary], strict=True)
    ):
        within = equations.output(x, V[start:stop], c[start:stop])
        parts.append(head[..., first + number, None] * within)
    return np.concatenate(parts, -1)


def gates_over(config: ModelConfig, weights: dict[str, Any], numbers: list[int]) -> list[Any]:
    """Return what the gates and states of each layer are over a text, by the notes' equations alone."""
    x = weights["embedding.weight"][list(numbers)]
    zeros = np.zeros(config.hidden, x.dtype)
    layers: list[Any] = []
    for layer in range(config.layers):
        ih, hh = weights[f"rnn.weight_ih_l{layer}"], weights[f"rnn.weight_hh_l{layer}"]
        biases = weights.get(f"rnn.bias_ih_l{layer}"), weights.get(f"rnn.bias_hh_l{layer}")
        letters = equations.from_torch_layout(ih, hh, *biases, config.reset)
        if config.cell == "lstm":
            steps = equations.run_lstm(x, zeros, zeros, **letters)
        else:
            steps = equations.run_gru(x, zeros, **letters)
        layers.append(steps)
        x = steps.h
    return layers


def model_in_float64(config: ModelConfig, weights: dict[str, Any]) -> NextWordModel:
    """Return a model in evaluation mode, its weights and states in float64."""
    model = NextWordModel(config).double().eval()
    model.load_arrays(weights)
    zeros = model.initial_state
    model.initial_state = lambda batch: tuple(part.double() for part in zeros(batch))  # type: ignore[method-assign]
    return model


def runtime_model(config: ModelConfig, weights: dict[str, Any], vocabulary: Vocabulary) -> Model:
    """Return a model of the runtime with copies of the weights, in their own dtype."""
    return Model(config, vocabulary, {name: values.copy() for name, values in weights.items()})
