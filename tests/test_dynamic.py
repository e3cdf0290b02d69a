"""Dynamic evaluation against its equations: dense, plain autograd, float64."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional

from by_hand import drawn_weights, model_in_float64
from glassgate import GlassgateError
from glassgate.folder.config import ModelConfig
from glassgate.folder.vocabulary import Vocabulary
from glassgate.language import dynamic
from glassgate.language.dynamic import DynamicOptions, dynamic_perplexity
from glassgate.language.held_out import perplexity
from glassgate.language.model import NextWordModel

LINES = [
    "the gate opens and the gate closes",
    "the baker opens the door",
    "a door and the baker closes",
    "a b c",
]
TEXT = "\n".join(LINES * 3) + "\n"
OTHER = "the door closes and a baker opens\nthe gate and the door and a gate opens\n" * 2


def example(
    output: str = "adaptive", tied: bool = True, narrow: tuple[int, ...] = ()
) -> tuple[NextWordModel, Vocabulary]:
    vocabulary = Vocabulary.build([TEXT], tokens="spaces")
    config = ModelConfig(
        cell="lstm",
        vocabulary=len(vocabulary),
        embedding=4,
        hidden=5,
        tied=tied,
        output=output,  # type: ignore[arg-type]
        cutoffs=(4, 7, 9) if output == "adaptive" else (),
        embedding_cutoffs=narrow,
    )
    return model_in_float64(config, drawn_weights(config, 7)), vocabulary


def stream(text: str, vocabulary: Vocabulary) -> Any:
    words = [vocabulary.eos]
    for line in text.splitlines():
        words += [*vocabulary.encode([line])[0], vocabulary.eos]
    return torch.tensor(words)


class ByHand:
    """The weights, their dense gradients and the docstring's updates."""

    def __init__(self, model: NextWordModel, segment: int) -> None:
        self.model, self.segment = NextWordModel(model.config).double().eval(), segment
        self.model.load_arrays({name: np.array(values) for name, values in model.arrays().items()})
        self.trained = {name: p.detach().clone() for name, p in self.model.named_parameters()}

    def read(self, words: Any, change: Any) -> float:
        """Predict each segment, then call ``change`` with the gradients; return the mean of -log p."""
        state, total = tuple(part.double() for part in self.model.initial_state(1)), 0.0
        for start in range(0, len(words) - 1, self.segment):
            piece = words[start : start + self.segment + 1, None]
            h, state = self.model(piece[:-1], state)
            logs = self.model.output.log_probabilities(h.flatten(0, 1))
            loss = functional.nll_loss(logs, piece[1:, 0], reduction="sum")
            parameters = dict(self.model.named_parameters())
            gradients = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True)
            found = {
                n: torch.zeros_like(p) if g is None else g
                for (n, p), g in zip(parameters.items(), gradients, strict=True)
            }
            with torch.no_grad():
                change(parameters, found)
            state, total = tuple(part.detach() for part in state), total + float(loss.detach())
        return total / (len(words) - 1)


@pytest.mark.parametrize(
    ("output", "tied", "narrow"),
    [("adaptive", True, ()), ("adaptive", False, ()), ("full", True, ()), ("adaptive", True, (7,))],
)
@pytest.mark.parametrize("with_statistics", [False, True])
@pytest.mark.parametrize("segment", [1, 6])
def test_the_equations(
    tmp_path: Path, output: str, tied: bool, narrow: tuple[int, ...], with_statistics: bool, segment: int
) -> None:
    model, vocabulary = example(output, tied, narrow)
    text, other = tmp_path / "text.txt", tmp_path / "other.txt"
    text.write_text(TEXT)
    other.write_text(OTHER)
    rate, decay = 0.05, 0.4  # a decay so large that r is cut off for some weights
    hand = ByHand(model, segment)
    s = {name: torch.ones_like(p) for name, p in hand.trained.items()}
    mean = 0.0
    if with_statistics:
        met: list[dict[str, Any]] = []
        hand.read(stream(OTHER, vocabulary), lambda _, g: met.append(g))
        s = {name: torch.stack([g[name] ** 2 for g in met]).mean(0).sqrt() for name in s}
        every = torch.cat([values.flatten() for values in s.values()])
        mean = float(every.mean())
        assert (every / mean).max() > 1 / decay

    def change(parameters: Any, gradients: Any) -> None:
        for name, p in parameters.items():
            if with_statistics:
                scaled, r = gradients[name] / (s[name] / mean + 1), (s[name] / mean).clamp(max=1 / decay)
            else:
                scaled, r = gradients[name], torch.ones_like(p)
            p += -rate * scaled + decay * r * (hand.trained[name] - p)

    expected = float(np.exp(hand.read(stream(TEXT, vocabulary), change)))
    found = dynamic_perplexity(
        model,
        vocabulary,
        [text],
        DynamicOptions(rate=rate, decay=decay, segment=segment),
        [other] if with_statistics else (),
    )
    # Some 60 steps, each off by a few eps of the weights, of which the next step forgets 40 %, and sums of 60
    # losses: below 1e-13 of the mean; the network may carry that on tenfold.
    assert found == pytest.approx(expected, rel=1e-12)
    still = perplexity(model, stream(TEXT, vocabulary)[1:].numpy().astype(np.uint16), vocabulary.eos)
    assert found != pytest.approx(still, rel=1e-5)  # far beyond the tolerance


@pytest.mark.parametrize("with_statistics", [False, True])
def test_what_is_not_given_is_what_the_documentation_says(tmp_path: Path, with_statistics: bool) -> None:
    """A rate of 0.002, of 0.02 with statistics, a decay of 0.001, segments of 50."""
    model, vocabulary = example()
    text = tmp_path / "text.txt"
    text.write_text(TEXT * 2)
    statistics = [text] if with_statistics else []
    said = DynamicOptions(rate=0.02 if with_statistics else 0.002, decay=0.001, segment=50)
    found, expected = (
        dynamic_perplexity(model, vocabulary, [text], options, statistics)
        for options in (DynamicOptions(), said)
    )
    assert found == expected


def test_so_many_tokens_of_the_statistics_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whole segments, until there are as many: the rest of a long text changes nothing."""
    model, vocabulary = example()
    text, long, short = tmp_path / "text.txt", tmp_path / "long.txt", tmp_path / "short.txt"
    text.write_text(TEXT)
    long.write_text(OTHER + "a b c\n" * 9)
    short.write_text(OTHER)
    options = DynamicOptions(rate=0.1, segment=9)
    assert len(stream(OTHER, vocabulary)) - 1 == 4 * 9
    values = []
    for statistics, most in ((long, 28), (short, 36), (long, 37), (short, 27)):
        monkeypatch.setattr(dynamic, "GATHERED", most)
        values.append(dynamic_perplexity(model, vocabulary, [text], options, [statistics]))
    assert values[0] == values[1] != values[2]
    assert values[3] != values[1]


def test_a_rate_of_nothing_is_the_model_and_the_model_stays(tmp_path: Path) -> None:
    model, vocabulary = example()
    text = tmp_path / "text.txt"
    text.write_text(TEXT)
    before = {name: values.copy() for name, values in model.arrays().items()}
    plain = perplexity(model, stream(TEXT, vocabulary)[1:].numpy().astype(np.uint16), vocabulary.eos)
    still = dynamic_perplexity(model, vocabulary, [text], DynamicOptions(rate=0, segment=7))
    assert still == pytest.approx(plain, rel=1e-12)  # a mean over segments instead of blocks
    learnt = dynamic_perplexity(model, vocabulary, [text], DynamicOptions(rate=0.1, segment=7))
    assert learnt < 0.9 * plain  # the text repeats itself
    for name, values in model.arrays().items():
        np.testing.assert_array_equal(values, before[name])


def test_what_cannot_be_measured_is_one_line(tmp_path: Path) -> None:
    model, vocabulary = example()
    text, empty = tmp_path / "text.txt", tmp_path / "empty.txt"
    text.write_text(TEXT)
    with pytest.raises(GlassgateError, match=r"^--dynamic-rate: the perplexity grew beyond all numbers"):
        dynamic_perplexity(model, vocabulary, [text], DynamicOptions(rate=1e9))
    empty.write_text("")
    with pytest.raises(GlassgateError):
        dynamic_perplexity(model, vocabulary, [empty], DynamicOptions())


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"rate": -1.0}, "--dynamic-rate: must be at least 0, got -1.0"),
        ({"decay": 1.5}, "--dynamic-decay: must be from 0 to 1, got 1.5"),
        ({"segment": 0}, "--dynamic-segment: must be at least 1, got 0"),
    ],
)
def test_options_out_of_bounds_are_one_line(options: dict[str, Any], line: str) -> None:
    with pytest.raises(GlassgateError) as caught:
        DynamicOptions(**options)
    assert str(caught.value) == line
