"""What several commands share."""

import os
from importlib.util import find_spec

from glassgate.errors import GlassgateError

__all__ = ["needs", "use_one_thread"]


def needs(module: str, extra: str) -> None:
    """Tell which extra brings a missing library, instead of a traceback.

    Raises
    ------
    GlassgateError
        When ``module`` is not installed.

    Examples
    --------
    >>> needs("no_such_library", "train")
    Traceback (most recent call last):
    glassgate.errors.GlassgateError: no_such_library is not installed: pip install 'glassgate[train]'
    """
    if find_spec(module) is None:
        raise GlassgateError(f"{module} is not installed: pip install 'glassgate[{extra}]'")


def use_one_thread() -> None:
    """Let BLAS and the kernels use one thread, where the environment does not say otherwise.

    What takes one step a word is done before a second thread would have begun. To be called before
    NumPy is imported, which reads the environment then.
    """
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ.setdefault(name, "1")
