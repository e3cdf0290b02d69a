"""What several commands share."""

import os
import re
from importlib.util import find_spec

from glassgate.errors import GlassgateError

__all__ = ["needs", "printable", "use_one_thread"]

# Control characters, line and paragraph separators, and what turns the direction of writing; not the
# joiners, which belong to the words of some scripts.
UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")


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


def printable(text: str) -> str:
    r"""Return a text with its control characters escaped, so that a terminal shows them and does nothing.

    The words of a model are whatever its tokenizer.json holds.

    Examples
    --------
    >>> print(printable("gate\x1b[2J\u202e"))
    gate\x1b[2J\u202e
    """
    return UNPRINTABLE.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def use_one_thread() -> None:
    """Let BLAS and the kernels use one thread, where the environment does not say otherwise.

    What takes one step a word is done before a second thread would have begun. To be called before
    NumPy is imported, which reads the environment then.
    """
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ.setdefault(name, "1")
