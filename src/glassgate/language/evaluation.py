"""How good a model is on a text: perplexity, recall, keystroke savings."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from math import isfinite
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from glassgate.edits import Edit, for_layers
from glassgate.errors import GlassgateError
from glassgate.folder.vocabulary import UNK, Vocabulary
from glassgate.language.cache import Cache, CacheOptions
from glassgate.language.corpus import batches
from glassgate.language.figures import exponential
from glassgate.language.keyboard import SUGGESTIONS, Keyboard, Latency
from glassgate.language.text import Segment, find_files, read_segments
from glassgate.runtime import Model

__all__ = ["Evaluation", "evaluate"]

BLOCK = 256  # tokens that are run at once: their logits over 33,278 words take 34 MB
RANKS = (1, 3, 10)


@dataclass(frozen=True)
class Evaluation:
    """What `evaluate` measures.

    Attributes
    ----------
    perplexity
        exp(total negative log-likelihood in nats / tokens).
    tokens
        How many were predicted; ``<eos>`` and ``<unk>`` count.
    unk_rate
        The share of them that is ``<unk>``.
    recall
        For k = 1, 3, 10 the share of tokens that are among the k most probable; ``<unk>`` is never
        suggested, so that an unknown word is a miss.
    recall_in_vocabulary
        The same over the tokens that are known.
    keystroke_savings
        1 - keys with suggestions / keys letter by letter, over all words.
    keystroke_ceiling
        What it would be, were every word suggested before its first letter.
    cache_perplexity
        Of the model together with a neural cache, or None where none was asked for.
    dynamic_perplexity
        Of a model that learns while it reads, or None: `glassgate.language.dynamic` measures it.
    suggestions
        How many words the keyboard of the keystroke savings shows.
    latency
        How long that keyboard waits after a key, or None: `glassgate.language.keyboard.measure_latency`
        measures it.
    """

    perplexity: float
    tokens: int
    unk_rate: float
    recall: dict[int, float]
    recall_in_vocabulary: dict[int, float]
    keystroke_savings: float
    keystroke_ceiling: float
    cache_perplexity: float | None = None
    dynamic_perplexity: float | None = None
    suggestions: int = SUGGESTIONS
    latency: Latency | None = None

    def as_dict(self) -> dict[str, Any]:
        """Return the figures as ``--json`` prints them."""
        figures = {
            "perplexity": self.perplexity,
            "tokens": self.tokens,
            "unk_rate": self.unk_rate,
            **{f"recall@{k}": value for k, value in self.recall.items()},
            "keystroke_savings": self.keystroke_savings,
            **{f"recall@{k}_in_vocabulary": value for k, value in self.recall_in_vocabulary.items()},
            "keystroke_savings_ceiling": self.keystroke_ceiling,
            "suggestions": self.suggestions,
        }
        asked_for = {
            "cache_perplexity": self.cache_perplexity,
            "dynamic_perplexity": self.dynamic_perplexity,
            "latency_ms": None if self.latency is None else asdict(self.latency),
        }
        return figures | {name: value for name, value in asked_for.items() if value is not None}


def evaluate(
    model: Model,
    texts: Sequence[Path],
    report: Callable[[int, float], None] | None = None,
    edits: Iterable[Edit] = (),
    cache: CacheOptions | None = None,
    keyboard: Keyboard | None = None,
) -> Evaluation:
    """Read a text as one stream, the state carried from its first word to its last.

    An ``<eos>`` stands before the first token, where the model knows one; else that token is
    context alone. Nothing is dropped, and memory holds a block of the text at a time.

    Keystroke savings are those of a `glassgate.language.keyboard.Keyboard`. An ``<unk>`` that stands in
    the text itself, and ``<eos>``, are left out of them.

    Parameters
    ----------
    model
        From `glassgate.load`.
    texts
        Files and folders.
    report
        Called after each block with the tokens read and the perplexity so far.
    edits
        Changes of gates and states, made while the model reads; steps are counted from the text's first.
    cache
        Of a neural cache whose perplexity is measured beside the model's own; no other figure uses it.
    keyboard
        Whose keys are counted, a new one; by default one that shows three words.

    Returns
    -------
    Evaluation
        All figures.

    Raises
    ------
    GlassgateError
        When a text cannot be read or has nothing to predict, the model's perplexity on it is no finite
        number, or an edit names what is not there.

    References
    ----------
    Keystroke savings: Trnka and McCoy 2008.
    """
    vocabulary, network = model.vocabulary, model.network
    keyboard = keyboard or Keyboard(vocabulary, model.prefixes)
    order = np.arange(len(vocabulary))
    unk = -1 if vocabulary.unk is None else vocabulary.unk
    state, total, count, unknown = network.initial_state(1), 0.0, 0, 0
    hits = np.zeros(len(RANKS), np.int64)
    remembered, with_cache = None if cache is None else Cache(cache), 0.0
    segments = read_segments(find_files(texts), model.config.eos)
    changes = list(edits)
    changing: dict[str, Any] = {"edits": for_layers(changes, network.targets)} if changes else {}
    for words, spelled in _blocks(segments, vocabulary):
        if count == 0 and vocabulary.eos is None:
            keyboard.enter(int(words[0]), None)  # context alone
        if changes:
            changing["first"] = count
        h = network.run(words[:-1, None], state, **changing)[:, 0]
        y = network.output.log_probabilities(h)
        targets = words[1:]
        rows = np.arange(len(targets))
        own = y[rows, targets]
        total -= own.sum(dtype=np.float64)
        if remembered is not None:
            with_cache -= remembered.read(h, targets, own).sum()
        count += len(targets)
        unknown += int((targets == unk).sum())
        if unk >= 0:
            y[:, unk] = -np.inf  # never suggested
        # Of words that are equally probable the more frequent one comes first.
        ranks = ((y > own[:, None]) | ((y == own[:, None]) & (order < targets[:, None]))).sum(1)
        hits += [int(((ranks < k) & (targets != unk)).sum()) for k in RANKS]
        keyboard.type(y, targets, spelled, ranks)
        if report is not None:
            report(count, exponential(total / count))
    if count == 0:
        raise GlassgateError("the text: has no word to predict: expected a longer text")
    if not isfinite(exponential(total / count)):
        raise GlassgateError("the model: its perplexity is no finite number: it is damaged, or of no use")
    known = max(count - unknown, 1)
    return Evaluation(
        perplexity=exponential(total / count),
        tokens=count,
        unk_rate=unknown / count,
        recall={k: int(hit) / count for k, hit in zip(RANKS, hits, strict=True)},
        recall_in_vocabulary={k: int(hit) / known for k, hit in zip(RANKS, hits, strict=True)},
        keystroke_savings=keyboard.savings,
        keystroke_ceiling=keyboard.ceiling,
        cache_perplexity=None if cache is None else exponential(float(with_cache) / count),
        suggestions=keyboard.suggestions,
    )


def _blocks(
    segments: Iterable[Segment], vocabulary: Vocabulary
) -> Iterator[tuple[npt.NDArray[np.int64], list[str | None]]]:
    """Cut a text into blocks: words, the first as context alone, and how the others are spelled."""
    words: list[int] = [] if vocabulary.eos is None else [vocabulary.eos]
    spelled: list[str | None] = [None] * len(words)
    for segment, numbers in batches(segments, vocabulary):
        words += numbers
        spelled += _spelled(segment.text, numbers, vocabulary)
        if segment.ends and vocabulary.eos is not None:
            words.append(vocabulary.eos)
            spelled.append(None)
        while len(words) > BLOCK:
            yield np.array(words[: BLOCK + 1], np.int64), spelled[1 : BLOCK + 1]
            words, spelled = words[BLOCK:], spelled[BLOCK:]
    if len(words) > 1:
        yield np.array(words, np.int64), spelled[1:]


def _spelled(text: str, numbers: Sequence[int], vocabulary: Vocabulary) -> list[str | None]:
    """Return the words as the text spells them; None for what nobody types."""
    if vocabulary.unk not in numbers:
        return [vocabulary.words[n] if n != vocabulary.eos else None for n in numbers]
    return [None if word in (UNK, "<eos>") else word for word in vocabulary.cut(text)]
