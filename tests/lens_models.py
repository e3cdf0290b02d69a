"""Small models with drawn weights, for what looks at gates."""

from typing import Any

import numpy as np

from by_hand import drawn_weights, embedding, runtime_model
from glassgate.folder.config import ModelConfig
from glassgate.folder.vocabulary import Vocabulary
from glassgate.runtime import Model

TEXT = "the keeper of the lamp opens the gate of glass . the gate , the lamp and the keeper wait"


def vocabulary(eos: bool = True) -> Vocabulary:
    return Vocabulary.build([TEXT], tokens="spaces", closed=True, eos=eos)


def config_and_weights(
    cell: str = "lstm", seed: int = 1, **options: Any
) -> tuple[ModelConfig, dict[str, Any]]:
    """Return a model of float64 weights; two layers of 5 units unless told."""
    given = {"embedding": 4, "hidden": 5, "layers": 2, "vocabulary": len(vocabulary())} | options
    config = ModelConfig(cell=cell, **given)  # type: ignore[arg-type]
    return config, drawn_weights(config, seed)


def model(cell: str = "lstm", seed: int = 1, **options: Any) -> Model:
    return runtime_model(*config_and_weights(cell, seed, **options), vocabulary())


def logit(config: ModelConfig, weights: dict[str, Any], h: Any, word: int) -> float:
    """Return V_w h + c_w, by way of P where there is one."""
    width = h if "projection.weight" not in weights else weights["projection.weight"] @ h
    V = embedding(config, weights) if config.tied else weights["output.weight"]
    return float(V[word] @ width + weights.get("output.bias", np.zeros(config.vocabulary))[word])
