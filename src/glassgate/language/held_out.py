"""The perplexity of a model in training, on what is held out."""

from itertools import pairwise

import numpy as np
import torch

from glassgate.language.corpus import TokenArray
from glassgate.language.figures import exponential
from glassgate.language.model import NextWordModel

__all__ = ["perplexity"]

BLOCK = 256  # tokens that are run at once: their logits over 33,278 words take 34 MB
LOGITS = 1 << 24  # that are held at once, unless a single token has more; of an adaptive softmax at the most


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
    device = model.embedding.weight.device
    words = torch.from_numpy(padded[places]).to(device)
    counted = torch.from_numpy(places[1:] <= count).to(device)
    state, total = model.initial_state(streams), 0.0
    widest = max(end - start for start, end in pairwise(model.output.layout.bounds))
    step = max(1, min(BLOCK, LOGITS // widest) // streams)
    with torch.inference_mode():
        for start in range(0, length, step):
            stop = min(start + step, length)
            loss, state = model.loss(words[start:stop], words[start + 1 : stop + 1], state)
            total += float(loss[counted[start:stop].flatten()].sum(dtype=torch.float64))
    return exponential(total / count)
