"""The perplexity of a model in training, on what is held out."""

from itertools import pairwise

import numpy as np
import torch

from glassgate.language.corpus import TokenArray
from glassgate.language.devices import has_kernels
from glassgate.language.figures import exponential
from glassgate.language.model import NextWordModel

__all__ = ["perplexity"]

BLOCK = 2048  # tokens that are run at once: V is read once for each
LOGITS = 1 << 26  # where there is no kernel, which holds few: those of so many tokens at the most


def perplexity(model: NextWordModel, tokens: TokenArray, first: int | None, streams: int = 1) -> float:
    """Return exp(mean negative log-likelihood) of a text, every token of it counted.

    Parameters
    ----------
    model
        In evaluation mode.
    tokens
        The text.
    first
        What stands before its first token, ``<eos>``; with None the first is context alone.
    streams
        Into how many pieces the text is cut, each read from the initial state. One is exact; some
        are faster and cost a little warm-up at each start.

    Returns
    -------
    float
        In nats to the power of e: the perplexity. Infinite where it is beyond the largest float.

    Examples
    --------
    >>> from glassgate.folder.config import ModelConfig
    >>> config = ModelConfig(cell="lstm", vocabulary=8, embedding=4, hidden=4, bias=False, tied=False)
    >>> model = NextWordModel(config).eval()
    >>> _ = torch.nn.init.zeros_(model.output.weight)  # every word is as probable as any other
    >>> round(perplexity(model, np.array([3, 1, 4, 1, 5], np.uint16), first=0), 4)
    8.0
    """
    text = np.asarray(tokens) if first is None else np.concatenate([np.array([first], tokens.dtype), tokens])
    count = len(text) - 1
    length = -(-count // streams)
    padded = np.zeros(streams * length + 1, np.int64)
    padded[: count + 1] = text
    places = np.arange(streams) * length + np.arange(length + 1)[:, None]
    device = model.output.weight.device
    words = torch.from_numpy(padded[places]).to(device)
    counted = torch.from_numpy(places[1:] <= count).to(device)
    state, total = model.initial_state(streams), 0.0
    block = BLOCK
    if not has_kernels(device):
        widest = max(end - start for start, end in pairwise(model.output.layout.bounds))
        block = min(BLOCK, LOGITS // widest)
    step = max(1, block // streams)
    with torch.inference_mode():
        for start in range(0, length, step):
            stop = min(start + step, length)
            h, state = model(words[start:stop], state)
            read = counted[start:stop]
            total += float(model.output.loss(h[read], words[start + 1 : stop + 1][read], "sum"))
    return exponential(total / count)
