"""What each input did for a result: gradient times input, and integrated gradients. On torch."""

from collections.abc import Callable
from pathlib import Path
from typing import Literal, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from glassgate.errors import GlassgateError
from glassgate.folder.model import WEIGHTS
from glassgate.folder.weights import load_weights
from glassgate.language.model import NextWordModel
from glassgate.lens.contextual import word_scores
from glassgate.runtime import load

__all__ = ["attribute", "gradient_times_input", "integrated_gradients", "logit_of"]

Function: TypeAlias = Callable[[Tensor], Tensor]
Method: TypeAlias = Literal["gradient", "integrated", "contextual"]


def gradient_times_input(function: Function, x: Tensor) -> Tensor:
    """Return x * d function / d x: how much a result would change with each input, to the first order.

    Parameters
    ----------
    function
        Takes x and returns a scalar, or one result for each sequence; layers in evaluation mode are fine.
    x
        Inputs, as embeddings [T, N, width].

    Returns
    -------
    Tensor
        Of the shape of x.

    Examples
    --------
    >>> gradient_times_input(lambda x: (x**2).sum(), torch.tensor([1.0, 3.0]))
    tensor([ 2., 18.])
    """
    x = x.detach().requires_grad_()
    with torch.enable_grad():
        (gradient,) = torch.autograd.grad(function(x).sum(), x)
    return x.detach() * gradient


def integrated_gradients(
    function: Function, x: Tensor, baseline: Tensor | float = 0.0, steps: int = 64
) -> Tensor:
    """Return the gradient along the straight line from a baseline to x, times the way gone.

    ::

        (x - x0) * integral over a from 0 to 1 of d function / d x at x0 + a (x - x0)

    summed over all inputs that is function(x) - function(x0), up to the error of the quadrature: that of
    Gauss and Legendre, exact for polynomials of degree 2 steps.

    Parameters
    ----------
    function, x
        As for `gradient_times_input`.
    baseline
        x0: what says nothing.
    steps
        How many gradients are computed.

    Returns
    -------
    Tensor
        Of the shape of x.

    Raises
    ------
    GlassgateError
        ``steps`` is below 1.

    References
    ----------
    Sundararajan, Taly and Yan, Axiomatic attribution for deep networks, 2017.

    Examples
    --------
    >>> integrated_gradients(lambda x: (x**2).sum(), torch.tensor([1.0, 3.0]), steps=1)
    tensor([1., 9.])
    """
    if steps < 1:
        raise GlassgateError(f"integrated_gradients: steps must be at least 1, got {steps}")
    x = x.detach()
    base = torch.as_tensor(baseline, dtype=x.dtype, device=x.device).expand_as(x)
    nodes, shares = np.polynomial.legendre.leggauss(steps)
    total = torch.zeros_like(x)
    for node, share in zip((nodes + 1) / 2, shares / 2, strict=True):
        point = (base + float(node) * (x - base)).requires_grad_()
        with torch.enable_grad():
            (gradient,) = torch.autograd.grad(function(point).sum(), point)
        total += float(share) * gradient
    return (x - base) * total


def logit_of(model: NextWordModel, word: int) -> Function:
    """Return the function from embeddings [T, N, width] to the logit V_w h + c_w of a next word, [N].

    Parameters
    ----------
    model
        In evaluation mode, or dropout plays in.
    word
        Its number.
    """

    def logit(x: Tensor) -> Tensor:
        zeros = [part.to(x.dtype) for part in model.initial_state(x.shape[1])]
        h = model.rnn(x, tuple(zeros) if model.config.cell == "lstm" else zeros[0])[0][-1]
        if model.projection is not None:
            h = model.projection(h)
        bias = model.output.bias
        found: Tensor = h @ model.output.weight[word]
        return found if bias is None else found + bias[word]

    return logit


def attribute(
    folder: Path | str,
    text: str,
    word: str,
    method: Method = "integrated",
    unknown: bool = False,
) -> tuple[tuple[str, ...], npt.NDArray[np.float64]]:
    """Return what each word of a text did for the logit of a next word, in float64.

    Parameters
    ----------
    folder
        A model folder.
    text
        What is read, after ``<eos>`` where the model knows it.
    word
        The next word in question.
    method
        ``"gradient"`` times input, ``"integrated"`` gradients from embeddings of 0, or ``"contextual"``
        decomposition with each word by itself as the phrase.
    unknown
        Whether unknown words are read as ``<unk>``; else they are an error.

    Returns
    -------
    tuple of words and array [T]
        The words as they were read, and a score for each.

    Raises
    ------
    GlassgateError
        The folder is damaged, a word is unknown, or the method is.
    """
    if method not in ("gradient", "integrated", "contextual"):
        raise GlassgateError(f"attribute: method must be gradient, integrated or contextual, got {method!r}")
    folder = Path(folder)
    reader = load(folder)
    config, vocabulary = reader.config, reader.vocabulary
    weights = {n: w.astype(np.float64) for n, w in load_weights(folder / WEIGHTS, config.tensors()).items()}
    numbers, targets = reader.numbers(text, unknown), reader.numbers(word, unknown)
    if len(targets) != 1:
        raise GlassgateError(f"attribute: one next word expected, got {word!r}")
    if vocabulary.eos is not None:
        numbers = [vocabulary.eos, *numbers]
    if not numbers:
        raise GlassgateError("the text: is empty: this model needs at least one word to go on from")
    words = tuple(vocabulary.words[number] for number in numbers)
    if method == "contextual":
        return words, np.asarray(word_scores(config, weights, numbers, targets[0]), np.float64)
    model = NextWordModel(config).double().eval()
    model.load_arrays(weights)
    x = model.embedding(torch.tensor(numbers)[:, None]).detach()
    function = logit_of(model, targets[0])
    found = gradient_times_input(function, x) if method == "gradient" else integrated_gradients(function, x)
    return words, found.sum(-1)[:, 0].numpy()
