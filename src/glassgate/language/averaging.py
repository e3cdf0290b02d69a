"""The mean of a model's weights over the end of its training."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt

from glassgate.language.model import NextWordModel

__all__ = ["EVERY", "Average"]

EVERY = 20  # steps between two that count: each costs a visit of every row

Arrays = Mapping[str, npt.NDArray[Any]]


class Average:
    r"""A running mean: mean_n = mean_{n-1} + (w_n - mean_{n-1}) / n.

    Parameters
    ----------
    model
        Whose weights are averaged.

    Attributes
    ----------
    count
        How many weights went in.

    References
    ----------
    Polyak and Juditsky 1992; for language models Merity et al. 2018, arXiv:1708.02182, section 3.

    Examples
    --------
    >>> import torch
    >>> from glassgate.folder.config import ModelConfig
    >>> model = NextWordModel(ModelConfig(cell="gru", vocabulary=3, embedding=2, hidden=2, tied=False))
    >>> average = Average(model)
    >>> for value in (1.0, 2.0):
    ...     _ = torch.nn.init.constant_(model.output.bias, value)
    ...     average.add()
    >>> with average.in_place():
    ...     print(model.output.bias.tolist())
    [1.5, 1.5, 1.5]
    >>> model.output.bias.tolist()
    [2.0, 2.0, 2.0]
    """

    def __init__(self, model: NextWordModel) -> None:
        self.model, self.count = model, 0
        self.means: dict[str, npt.NDArray[Any]] = {}

    def add(self) -> None:
        """Take the model's weights in; all rows must be up to date."""
        self.count += 1
        for name, values in self.model.arrays().items():
            if self.count == 1:
                self.means[name] = values.copy()
            else:
                self.means[name] += (values - self.means[name]) / np.float32(self.count)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Give the model the mean for the length of a ``with``."""
        own = {name: values.copy() for name, values in self.model.arrays().items()}
        self.model.load_arrays(self.means)
        try:
            yield
        finally:
            self.model.load_arrays(own)

    def load_arrays(self, means: Arrays, count: int) -> None:
        """Take over what a checkpoint held."""
        self.means, self.count = {name: np.array(values) for name, values in means.items()}, count
