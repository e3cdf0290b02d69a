"""Dynamic evaluation: a model that goes on learning from the text that it is measured on."""

from collections.abc import Callable, Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass
from functools import partial
from math import isfinite
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from glassgate.errors import GlassgateError
from glassgate.folder.model import WEIGHTS, read_folder
from glassgate.folder.vocabulary import Vocabulary
from glassgate.folder.weights import map_weights
from glassgate.language.corpus import encode_segments
from glassgate.language.figures import exponential
from glassgate.language.model import NextWordModel, State
from glassgate.language.text import find_files, read_segments
from glassgate.layers.rows import tracked

__all__ = ["GATHERED", "DynamicOptions", "dynamic_perplexity", "read_trainable"]

GATHERED = 100_000
"""How many tokens of the text of the statistics are read."""
RATES = {False: 0.002, True: 0.02}  # without and with statistics


@dataclass(frozen=True, kw_only=True)
class DynamicOptions:
    """How a model learns while it reads.

    Attributes
    ----------
    rate
        The learning rate, at least 0; by default 0.02 with statistics, 0.002 without.
    decay
        The share of the way back to the trained weights that each step goes, 0 to 1.
    segment
        How many words are read before the weights move, at least 1.
    """

    rate: float | None = None
    decay: float = 0.001
    segment: int = 50

    def __post_init__(self) -> None:
        if self.rate is not None and not (isfinite(self.rate) and self.rate >= 0):
            raise GlassgateError(f"--dynamic-rate: must be at least 0, got {self.rate}")
        if not 0 <= self.decay <= 1:
            raise GlassgateError(f"--dynamic-decay: must be from 0 to 1, got {self.decay}")
        if self.segment < 1:
            raise GlassgateError(f"--dynamic-segment: must be at least 1, got {self.segment}")


def dynamic_perplexity(
    model: NextWordModel,
    vocabulary: Vocabulary,
    texts: Sequence[Path],
    options: DynamicOptions,
    statistics: Sequence[Path] = (),
    report: Callable[[int, float, bool], None] | None = None,
) -> float:
    r"""Return the perplexity of a model that learns from each segment once it has predicted it.

    .. code-block:: text

        g    the gradient of the segment's negative log-likelihood, state carried, one segment deep
        p <- p - rate g             + decay (trained - p)                without statistics
        p <- p - rate g / (1 + r)   + min(1, decay r) (trained - p)      with them

    where r = s / (mean of s over all weights) and s is the root of the mean of g^2 over the segments of the
    text of the statistics. Every word is predicted before it is learnt
    from. Rows of the embedding and of V that are not in play have no gradient; their way back is made up
    for when they are next read.

    Parameters
    ----------
    model
        In evaluation mode, on the CPU. A copy learns; the model is left as it is.
    vocabulary
        Of the model.
    texts
        Read as one stream, as by `glassgate.language.evaluation.evaluate`.
    options
        Learning rate, decay and segment.
    statistics
        Training text, the first 100,000 tokens of which tell how large each weight's gradient is.
    report
        Called now and then with the tokens read, the perplexity so far, and whether they are those of
        the statistics, which are gathered first.

    Returns
    -------
    float
        exp(total negative log-likelihood in nats / tokens).

    Raises
    ------
    GlassgateError
        When a text cannot be read or has nothing to predict, or the perplexity is no finite number.

    References
    ----------
    Krause, Kahembwe, Murray and Renals 2018, "Dynamic evaluation of neural sequence models",
    arXiv:1709.07432. There the step is g / (s + epsilon); here epsilon is the mean of s, and the rate
    counts in units of it, as the size of gradients is each model's own.

    Examples
    --------
    >>> options = DynamicOptions(rate=0.05, segment=5)
    >>> options.decay
    0.001
    """
    moving = deepcopy(model)
    trained = dict(model.named_parameters())
    parameters = dict(moving.named_parameters())
    moving.track_words()
    scales, total, count = None, 0.0, 0
    if statistics:
        scales = _gather(moving, parameters, _segments(vocabulary, moving, statistics, options), report)
    learning = _Learning(parameters, trained, options, scales)
    state = moving.initial_state(1)
    for words in _segments(vocabulary, moving, texts, options):
        value, state = _differentiate(moving, words, state)
        learning.step()
        total, count = total + value, count + len(words) - 1
        if not isfinite(exponential(total / count)):
            raise GlassgateError(
                f"--dynamic-rate: the perplexity grew beyond all numbers at a rate of {learning.rate:g}, "
                f"after {count:,} tokens: expected a lower rate"
            )
        if report is not None:
            report(count, exponential(total / count), False)
    if count == 0:
        raise GlassgateError("the text: has no word to predict: expected a longer text")
    return exponential(total / count)


def read_trainable(folder: Path) -> NextWordModel:
    """Read a model folder as a torch model in evaluation mode, compressed or not.

    Raises
    ------
    GlassgateError
        When the folder or a file of it is missing, damaged or foreign.

    Examples
    --------
    >>> read_trainable(Path("no-such-folder"))
    Traceback (most recent call last):
    glassgate.errors.GlassgateError: no-such-folder: no such model folder
    """
    config, _ = read_folder(folder)
    stored = map_weights(folder / WEIGHTS, config.tensors())
    model = NextWordModel(config).eval()
    model.load_arrays({name: np.array(tensor.unpacked()) for name, tensor in stored.items()})
    return model


def _segments(
    vocabulary: Vocabulary, model: NextWordModel, texts: Sequence[Path], options: DynamicOptions
) -> Iterator[npt.NDArray[np.int64]]:
    """Cut a text into segments, each with the word before it; ``<eos>`` stands before the first."""
    rest = np.array([] if vocabulary.eos is None else [vocabulary.eos], np.int64)
    for numbers in encode_segments(read_segments(find_files(texts), model.config.eos), vocabulary):
        rest = np.concatenate((rest, numbers.astype(np.int64)))
        while len(rest) > options.segment:
            yield rest[: options.segment + 1]
            rest = rest[options.segment :]
    if len(rest) > 1:
        yield rest


def _differentiate(model: NextWordModel, words: npt.NDArray[np.int64], state: State) -> tuple[float, State]:
    """Return the negative log-likelihood of a segment and the state after it; its gradient is left behind."""
    read = torch.from_numpy(words)[:, None]
    loss, state = model.loss(read[:-1], read[1:], state, "sum")
    loss.backward()  # type: ignore[no-untyped-call]
    return float(loss.detach()), tuple(part.detach() for part in state)


def _gradient(parameter: nn.Parameter) -> tuple[Tensor | None, Tensor | None]:
    """Return the rows that have a gradient (None: all), and a matrix with it; None where there is none."""
    gradient = tracked(parameter)
    return (None, parameter.grad) if gradient is None else (gradient.rows(), gradient.values)


def _forget(parameter: nn.Parameter) -> None:
    parameter.grad = None
    gradient = tracked(parameter)
    if gradient is not None:
        gradient.clear()


def _gather(
    model: NextWordModel,
    parameters: dict[str, nn.Parameter],
    segments: Iterator[npt.NDArray[np.int64]],
    report: Callable[[int, float, bool], None] | None,
) -> dict[str, Tensor]:
    """Return s, the root of the mean squared gradient, of each parameter, in units of the mean of all s."""
    squares = {name: torch.zeros_like(parameter) for name, parameter in parameters.items()}
    state, total, count, met = model.initial_state(1), 0.0, 0, 0
    for words in segments:
        value, state = _differentiate(model, words, state)
        for name, parameter in parameters.items():
            rows, values = _gradient(parameter)
            if values is not None:
                for run in _runs(rows, len(values)):
                    squares[name][run].addcmul_(values[run], values[run])
            _forget(parameter)
        total, count, met = total + value, count + len(words) - 1, met + 1
        if report is not None:
            report(count, exponential(total / count), True)
        if count >= GATHERED:
            break
    roots = {name: values.div_(max(met, 1)).sqrt_() for name, values in squares.items()}
    sizes = sum(values.numel() for values in roots.values())
    mean = sum(float(values.sum(dtype=torch.float64)) for values in roots.values()) / sizes
    if not (isfinite(mean) and mean > 0):
        raise GlassgateError("the text of the statistics: has no finite gradient: expected a training text")
    return {name: values.div_(mean) for name, values in roots.items()}


class _Learning:
    """Moves weights by their gradients and back towards what was trained."""

    def __init__(
        self,
        parameters: dict[str, nn.Parameter],
        trained: dict[str, nn.Parameter],
        options: DynamicOptions,
        scales: dict[str, Tensor] | None,
    ) -> None:
        self.rate = RATES[scales is not None] if options.rate is None else options.rate
        self.slots = []
        self.count = 0
        for name, parameter in parameters.items():
            one = torch.ones((), dtype=parameter.dtype)
            back = (options.decay * (one if scales is None else scales[name])).clamp(max=1)
            step = self.rate * (one if scales is None else 1 / (1 + scales[name]))
            stamp = torch.zeros(len(parameter), dtype=torch.int64)
            slot = _Slot(parameter, trained[name].detach(), back, step, stamp)
            self.slots.append(slot)
            gradient = tracked(parameter)
            if gradient is not None:
                gradient.before_read = partial(self._return, slot)

    @torch.no_grad()
    def step(self) -> None:
        """Move every weight that has a gradient; the others' way back waits until they are read."""
        for slot in self.slots:
            rows, values = _gradient(slot.parameter)
            if values is not None:
                self._return(slot, rows)  # of what was not read through a layer
                for run in _runs(rows, len(values)):
                    part = slot.parameter[run].lerp_(slot.trained[run], _of(slot.back, run))
                    part.addcmul_(values[run], _of(slot.step, run), value=-1)
                slot.stamp[slice(None) if rows is None else rows] = self.count + 1
            _forget(slot.parameter)
        self.count += 1

    @torch.no_grad()
    def _return(self, slot: "_Slot", rows: Tensor | None) -> None:
        """Do the steps back that rows lag behind: after k of them (1 - back)^k of what was learnt is left."""
        lag = self.count - slot.stamp
        late = lag.nonzero().squeeze(1) if rows is None else rows[lag[rows] > 0]
        for run in _runs(late, len(slot.stamp)):
            back, steps = _of(slot.back, run), lag[run].to(slot.back.dtype)
            if int(steps.max()) > 1:
                back = 1 - (1 - back) ** steps.reshape(-1, *[1] * (slot.parameter.dim() - 1))
            slot.parameter[run].lerp_(slot.trained[run], back)
        slot.stamp[late] = self.count


def _runs(rows: Tensor | None, height: int) -> list[slice]:
    """Cut rising row numbers (None: all) where they do not follow each other: views, and no copies."""
    if rows is None:
        return [slice(0, height)]
    numbers = rows.numpy()
    cuts = np.flatnonzero(np.diff(numbers) != 1) + 1
    return [slice(int(run[0]), int(run[-1]) + 1) for run in np.split(numbers, cuts) if run.size]


def _of(values: Tensor, run: slice) -> Tensor:
    return values[run] if values.dim() else values


@dataclass
class _Slot:
    parameter: nn.Parameter
    trained: Tensor
    back: Tensor  # the share of the way to ``trained`` that a step goes: one for all or one each
    step: Tensor  # by which a gradient is multiplied
    stamp: Tensor  # the step to which each row is up to date
