"""The state of a training in one file: all that the next step depends on."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.numpy import load_file

from glassgate.errors import GlassgateError
from glassgate.folder.weights import read_header, save_weights
from glassgate.language.averaging import Average
from glassgate.language.model import NextWordModel, State
from glassgate.language.optimizer import AdamW

__all__ = ["Progress", "load_checkpoint", "save_checkpoint"]


@dataclass(kw_only=True)
class Progress:
    """Where a training stands.

    Attributes
    ----------
    step
        Steps done.
    seconds
        Time spent on them, over all runs.
    best, best_step
        The lowest validation perplexity and the step of it.
    validated
        The step of the last validation.
    loss, tokens, row_seconds
        The sum of the loss since the last row of metrics.jsonl, over how many tokens, and the time
        that their steps took.
    averaged
        How many weights went into their average.
    metrics_bytes
        The length of metrics.jsonl; what a killed run wrote after it is cut off.
    """

    step: int = 0
    seconds: float = 0.0
    best: float | None = None
    best_step: int = 0
    validated: int = 0
    loss: float = 0.0
    tokens: int = 0
    row_seconds: float = 0.0
    averaged: int = 0
    metrics_bytes: int = 0


def save_checkpoint(
    path: Path, model: NextWordModel, optimizer: AdamW, average: Average, state: State, progress: Progress
) -> None:
    """Write weights, optimiser, carried hidden state and progress; whole or not at all.

    There are no generators to save: what a step draws depends on the seed and its number alone.

    Parameters
    ----------
    path
        The file to write or replace.
    model, optimizer, average, state, progress
        What the next step depends on.

    Raises
    ------
    GlassgateError
        When the file system refuses.
    """
    arrays = {f"model.{name}": values for name, values in model.arrays().items()}
    arrays |= {f"optimizer.{name}": values for name, values in optimizer.arrays().items()}
    arrays |= {f"average.{name}": values for name, values in average.means.items()}
    progress.averaged = average.count
    arrays |= {f"state.{number}": part.cpu().numpy() for number, part in enumerate(state)}
    save_weights(path, arrays, {"progress": json.dumps(asdict(progress))})


def load_checkpoint(
    path: Path, model: NextWordModel, optimizer: AdamW, average: Average
) -> tuple[State, Progress]:
    """Put a training back to where `save_checkpoint` left it.

    Parameters
    ----------
    path
        The file.
    model, optimizer, average
        Built as for the run that saved, on the CPU; they take over what it held, on whatever device that was.

    Returns
    -------
    tuple of State and Progress
        The carried hidden state and where the training stands.

    Raises
    ------
    GlassgateError
        When the file is damaged or belongs to another training.
    """
    header = read_header(path)
    try:
        arrays = load_file(path)
        progress = Progress(**json.loads(header["__metadata__"]["progress"]))
        model.load_arrays({name: arrays[f"model.{name}"] for name in model.config.tensors()})
        optimizer.load_arrays(_under("optimizer.", arrays))
        average.load_arrays(_under("average.", arrays), progress.averaged)
        count = len(model.initial_state(1))
        state = tuple(torch.from_numpy(np.array(arrays[f"state.{number}"])) for number in range(count))
    except (SafetensorError, OSError, KeyError, TypeError, ValueError, RuntimeError) as error:
        raise GlassgateError(f"{path}: is damaged or of another training: {error}") from error
    return state, progress


def _under(prefix: str, arrays: dict[str, Any]) -> dict[str, Any]:
    return {name.removeprefix(prefix): values for name, values in arrays.items() if name.startswith(prefix)}
