"""The sample corpus: its form, and that its ending takes more than the last word to foresee."""

import math
import string
from collections.abc import Iterable, Iterator

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor, nn

from glassgate.language.exercise import sample_text

Matrix = npt.NDArray[np.float64]

TRAINED = 900  # words; the other 100 are held out
EMBEDDING, HIDDEN = 10, 20  # the notes' sizes

# The training of the 4,400 weights. Found on these 900 words, and chosen by the held-out 100, which
# are therefore no unseen test of the recipe; the margin over the bigram is far wider than the choice.
BATCH, UNROLL, EPOCHS, PEAK_RATE, DROPOUT = 6, 25, 150, 0.03, 0.1


@pytest.fixture(scope="module")
def words() -> list[str]:
    return sample_text().split()


@pytest.fixture(scope="module")
def numbers(words: list[str]) -> list[int]:
    vocabulary = {word: number for number, word in enumerate(sorted(set(words)))}
    return [vocabulary[word] for word in words]


def test_a_thousand_words_of_a_hundred(words: list[str]) -> None:
    assert len(words) == 1000
    assert len(set(words)) == 100


def test_lower_case_letters_in_lines_and_stanzas() -> None:
    text = sample_text()
    assert set(text) == {*string.ascii_lowercase, " ", "\n"} - set("jqxz")
    assert text.endswith("\n")
    stanzas = text.removesuffix("\n").split("\n\n")
    assert len(stanzas) == 18
    for line in (line for stanza in stanzas for line in stanza.split("\n")):
        assert line
        assert line == " ".join(line.split())
        assert len(line) <= 60


def test_the_ending_has_no_new_words(words: list[str]) -> None:
    assert set(words[:TRAINED]) == set(words)


def test_the_ending_is_no_copy(words: list[str]) -> None:
    """Of its 100 words at most 20 in a row, two lines and a half, stand anywhere before."""
    before = f" {' '.join(words[:TRAINED])} "
    runs = (
        stop - start
        for start in range(TRAINED, len(words))
        for stop in range(start + 1, len(words) + 1)
        if f" {' '.join(words[start:stop])} " in before
    )
    assert max(runs) == 20


def _perplexity(model: Matrix, numbers: list[int]) -> float:
    """Return the perplexity of the held-out words; model[a, b] is the probability of b after a."""
    np.testing.assert_allclose(model.sum(1), 1, rtol=1e-12)  # 100 addends: 100 x 1.1e-16, and spare
    previous, following = numbers[TRAINED - 1 : -1], numbers[TRAINED:]
    return float(np.exp(-np.log(model[previous, following]).mean()))


def _bigrams(numbers: list[int]) -> dict[str, float]:
    """Return the held-out perplexity of three bigram models, each tuned on the held-out words.

    With c(a, b) the count of b after a, c(a) that of a as a context:

        add k          (c(a, b) + k) / (c(a) + 100 k)
        interpolated   l c(a, b) / c(a) + (1 - l) p(b)
        Kneser-Ney     max(c(a, b) - d, 0) / c(a) + d N(a, .) / c(a) x N(., b) / N(., .)

    where p(b) is the share of b among the words and N counts distinct pairs (Kneser and Ney 1995,
    in the interpolated form of Chen and Goodman 1999).
    """
    trained = np.array(numbers[:TRAINED])
    count = np.zeros((100, 100))
    np.add.at(count, (trained[:-1], trained[1:]), 1)
    context = count.sum(1, keepdims=True)
    share = np.bincount(trained, minlength=100) / TRAINED
    pairs = count > 0
    continuation = pairs.sum(0) / pairs.sum()
    novel = pairs.sum(1, keepdims=True) / context

    def best(models: Iterable[Matrix]) -> float:
        return min(_perplexity(model, numbers) for model in models)

    grid = np.linspace(0.01, 0.99, 99)
    return {
        "add k": best((count + k) / (context + 100 * k) for k in np.geomspace(1e-4, 1, 81)),
        "interpolated": best(l * count / context + (1 - l) * share for l in grid),
        "Kneser-Ney": best(np.maximum(count - d, 0) / context + d * novel * continuation for d in grid),
    }


class _Exercise(nn.Module):
    """The notes' network, y = V h, in plain torch; time first."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(100, EMBEDDING)
        self.lstm = nn.LSTM(EMBEDDING, HIDDEN, bias=False)
        self.V = nn.Linear(HIDDEN, 100, bias=False)
        self.dropout = nn.Dropout(DROPOUT)

    def forward(self, x: Tensor, state: tuple[Tensor, Tensor] | None) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        h, state = self.lstm(self.dropout(self.embedding(x)), state)
        return self.V(self.dropout(h)), state


@pytest.fixture
def one_thread() -> Iterator[None]:
    # The sums of one thread have one order, and at this size a second thread gains nothing.
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.random.fork_rng(devices=[]):
            yield
    finally:
        torch.set_num_threads(threads)


def _train(text: Tensor, seed: int) -> _Exercise:
    """Train by truncated BPTT with carried state, AdamW and a one-cycle schedule."""
    torch.manual_seed(seed)
    model = _Exercise()
    length = (len(text) - 1) // BATCH
    x, target = (text[first : first + BATCH * length].view(BATCH, length).T for first in (0, 1))
    steps = EPOCHS * math.ceil(length / UNROLL)
    optimizer = torch.optim.AdamW(model.parameters(), PEAK_RATE, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, PEAK_RATE, total_steps=steps)
    for _ in range(EPOCHS):
        state = None
        for start in range(0, length, UNROLL):
            y, (h, C) = model(x[start : start + UNROLL], state)
            state = h.detach(), C.detach()
            loss = nn.functional.cross_entropy(y.flatten(0, 1), target[start : start + UNROLL].flatten())
            optimizer.zero_grad()
            torch.autograd.backward(loss)
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
    return model.eval()


def _lstm(numbers: list[int], seed: int) -> float:
    """Return the held-out perplexity of a trained exercise that has read the 900 words before."""
    text = torch.tensor(numbers)
    model = _train(text[:TRAINED], seed)
    with torch.no_grad():
        y, _ = model(text[:-1, None], None)
    return float(nn.functional.cross_entropy(y[TRAINED - 1 :, 0], text[TRAINED:]).exp())


def test_bigrams(numbers: list[int]) -> None:
    # The text is fixed, and so are these figures; they are printed to three digits after the point.
    expected = {"add k": 4.438, "interpolated": 4.510, "Kneser-Ney": 4.365}
    assert _bigrams(numbers) == pytest.approx(expected, abs=0.0005)


@pytest.mark.usefixtures("one_thread")
def test_the_exercise_beats_the_best_bigram(numbers: list[int]) -> None:
    # Measured over seeds 1 to 20: perplexity 2.04 to 2.81, geometric mean 2.37; the best bigram's is
    # 4.37. That is 0.47 to 0.64 of the bigram's, 0.54 in the mean, with a standard deviation of the
    # logarithm of 0.10. Other processors round differently, which is as good as another seed: the
    # bound, 0.7, lies 2.6 standard deviations above the mean. An interpolated trigram, its two
    # weights tuned on the held-out words, has 3.14 (0.72). A training takes 1.6 s.
    assert _lstm(numbers, seed=1) < 0.7 * min(_bigrams(numbers).values())
