"""How good a model is on a text: perplexity, recall, keystroke savings."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
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
from glassgate.language.text import Segment, find_files, read_segments
from glassgate.runtime import Model
from glassgate.runtime.prefixes import Prefixes

__all__ = ["Evaluation", "evaluate"]

BLOCK = 256  # tokens that are run at once: their logits over 33,278 words take 34 MB
SUGGESTIONS = 3  # that a keyboard shows
RANKS = (1, 3, 10)
NOT_TYPED = -1  # <eos>, and an <unk> that the text itself holds


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
        }
        adapted = {"cache_perplexity": self.cache_perplexity, "dynamic_perplexity": self.dynamic_perplexity}
        return figures | {name: value for name, value in adapted.items() if value is not None}


def evaluate(
    model: Model,
    texts: Sequence[Path],
    report: Callable[[int, float], None] | None = None,
    edits: Iterable[Edit] = (),
    cache: CacheOptions | None = None,
) -> Evaluation:
    """Read a text as one stream, the state carried from its first word to its last.

    An ``<eos>`` stands before the first token, where the model knows one; else that token is
    context alone. Nothing is dropped, and memory holds a block of the text at a time.

    Keystroke savings are those of a keyboard that shows the three most probable words before the
    first letter and after each (of the words that begin so; neither ``<unk>`` nor ``<eos>``) and
    enters a shown word, with its space, for one key; without it a word takes a key for each letter
    and one for the space. Unknown words are typed in full. An ``<unk>`` that stands in the text
    itself, and ``<eos>``, are left out.

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
    keyboard = _Keyboard(vocabulary, model.prefixes)
    unk = -1 if vocabulary.unk is None else vocabulary.unk
    state, total, count, unknown = network.initial_state(1), 0.0, 0, 0
    hits = np.zeros(len(RANKS), np.int64)
    remembered, with_cache = None if cache is None else Cache(cache), 0.0
    segments = read_segments(find_files(texts), model.config.eos)
    changes = list(edits)
    changing: dict[str, Any] = {"edits": for_layers(changes, network.targets)} if changes else {}
    for words, keys in _blocks(segments, vocabulary):
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
        ranks = (y > own[:, None]).sum(1) + ((y == own[:, None]) & (keyboard.numbers < targets[:, None])).sum(
            1
        )
        hits += [int(((ranks < k) & (targets != unk)).sum()) for k in RANKS]
        keyboard.type(y, targets, keys, ranks)
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
        keystroke_savings=1 - keyboard.pressed / max(keyboard.letter_by_letter, 1),
        keystroke_ceiling=1 - keyboard.words / max(keyboard.letter_by_letter, 1),
        cache_perplexity=None if cache is None else exponential(float(with_cache) / count),
    )


class _Keyboard:
    """Counts the keys that a text takes with and without suggestions."""

    def __init__(self, vocabulary: Vocabulary, prefixes: Prefixes) -> None:
        self.numbers = np.arange(len(vocabulary))
        self.unk = vocabulary.unk
        self.eos = vocabulary.eos
        self.spelling = vocabulary.words
        self.prefixes = prefixes
        self.ranges: dict[int, tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]] = {}
        self.pressed = self.letter_by_letter = self.words = 0

    def type(
        self,
        y: npt.NDArray[np.float32],
        targets: npt.NDArray[np.int64],
        keys: Iterable[int],
        ranks: npt.NDArray[np.int64],
    ) -> None:
        """Type the words ``targets``, each with its letters and rank, given log y [T, words]."""
        for row, (target, letters) in enumerate(zip(targets.tolist(), keys, strict=True)):
            if letters == NOT_TYPED:
                continue
            self.words += 1
            self.letter_by_letter += letters + 1
            typed = letters if target == self.unk else self._letters_needed(y[row], target, int(ranks[row]))
            self.pressed += min(typed, letters) + 1

    def _letters_needed(self, y: npt.NDArray[np.float32], target: int, rank: int) -> int:
        """Return how many letters of a word are typed before it is among the suggestions."""
        # With no letter typed all words compete; with one or more those that begin alike, which
        # stand together in alphabetical order, a range inside the range of one letter less.
        if rank - (self.eos is not None and _before(y, self.eos, target)) < SUGGESTIONS:
            return 0
        starts, stops = self._ranges(target)
        rivals = _before(y, self.prefixes.order[starts[0] : stops[0]], target)
        better = np.concatenate([[0], np.cumsum(rivals)])
        counts = better[stops - starts[0]] - better[starts - starts[0]]
        return 1 + int(np.argmax(np.append(counts, 0) < SUGGESTIONS))

    def _ranges(self, word: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Return where in alphabetical order the words with its first 1, 2, ... letters start and stop."""
        if word not in self.ranges:
            spans = np.array([self.prefixes.span(prefix) for prefix in accumulate(self.spelling[word])])
            self.ranges[word] = spans[:, 0], spans[:, 1]
        return self.ranges[word]


def _before(y: npt.NDArray[np.float32], words: Any, target: int) -> Any:
    """Tell which words come before a target: the more probable; of equals the more frequent."""
    return (y[words] > y[target]) | ((y[words] == y[target]) & (words < target))


def _blocks(
    segments: Iterable[Segment], vocabulary: Vocabulary
) -> Iterator[tuple[npt.NDArray[np.int64], list[int]]]:
    """Cut a text into blocks: words, of which the first stands before the block, and letters of the rest."""
    words: list[int] = [] if vocabulary.eos is None else [vocabulary.eos]
    keys: list[int] = [NOT_TYPED] * len(words)
    for segment, numbers in batches(segments, vocabulary):
        words += numbers
        keys += _letters(segment.text, numbers, vocabulary)
        if segment.ends and vocabulary.eos is not None:
            words.append(vocabulary.eos)
            keys.append(NOT_TYPED)
        while len(words) > BLOCK:
            yield np.array(words[: BLOCK + 1], np.int64), keys[1 : BLOCK + 1]
            words, keys = words[BLOCK:], keys[BLOCK:]
    if len(words) > 1:
        yield np.array(words, np.int64), keys[1:]


def _letters(text: str, numbers: Sequence[int], vocabulary: Vocabulary) -> list[int]:
    if vocabulary.unk not in numbers:
        return [len(vocabulary.words[n]) if n != vocabulary.eos else NOT_TYPED for n in numbers]
    return [NOT_TYPED if word in (UNK, "<eos>") else len(word) for word in vocabulary.cut(text)]
