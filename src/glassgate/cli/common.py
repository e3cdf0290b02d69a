"""What several commands share."""

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

from glassgate.errors import GlassgateError

__all__ = ["naming_options", "needs", "printable", "size_of_texts", "use_one_thread", "word_numbers"]

# Control characters, line and paragraph separators, and what turns the direction of writing; not the
# joiners, which belong to the words of some scripts.
UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")


@contextmanager
def naming_options(*names: str) -> Iterator[None]:
    """Let an error that begins with the name of a parameter begin with that of the option.

    Raises
    ------
    GlassgateError
        When the block raises it.

    Examples
    --------
    >>> with naming_options("k", "top_p"):
    ...     raise GlassgateError("top_p: must be above 0 and at most 1, got 2.0")
    Traceback (most recent call last):
    glassgate.errors.GlassgateError: --top-p: must be above 0 and at most 1, got 2.0
    """
    try:
        yield
    except GlassgateError as error:
        name, _, rest = str(error).partition(":")
        if name not in names:
            raise
        dashes = "-" if len(name) == 1 else "--"
        raise GlassgateError(f"{dashes}{name.replace('_', '-')}:{rest}") from error


def needs(module: str, extra: str | None = None) -> None:
    """Tell what brings a missing library, instead of a traceback: an extra, or else the library itself.

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
        bringing = module if extra is None else f"'glassgate[{extra}]'"
        raise GlassgateError(f"{module} is not installed: pip install {bringing}")


def printable(text: str) -> str:
    r"""Return a text with its control characters escaped, so that a terminal shows them and does nothing.

    The words of a model are whatever its tokenizer.json holds.

    Examples
    --------
    >>> print(printable("gate\x1b[2J\u202e"))
    gate\x1b[2J\u202e
    """
    return UNPRINTABLE.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def size_of_texts(paths: Sequence[Path]) -> int:
    """Return how many bytes texts have, from which a display of progress guesses their words.

    Raises
    ------
    GlassgateError
        When there is no such text, or it cannot be looked at.

    Examples
    --------
    >>> size_of_texts([Path("no-such-text")])
    Traceback (most recent call last):
    glassgate.errors.GlassgateError: no-such-text: no such file or folder
    """
    from glassgate.language.text import find_files

    return sum(file.stat().st_size for file in find_files(paths))


def word_numbers(option: str, text: str) -> tuple[int, ...]:
    """Read what an option was given: word numbers between commas.

    Raises
    ------
    GlassgateError
        It is something else.

    Examples
    --------
    >>> word_numbers("--embedding-cutoffs", "20000,100_000")
    (20000, 100000)
    """
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise GlassgateError(f"{option}: must be whole numbers between commas, got {text!r}") from None


def use_one_thread() -> None:
    """Let BLAS and the kernels use one thread, where the environment does not say otherwise.

    What takes one step a word is done before a second thread would have begun. To be called before
    NumPy is imported, which reads the environment then.
    """
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ.setdefault(name, "1")
