"""The instruction set and the number of threads."""

from collections.abc import Iterator
from contextlib import contextmanager

from glassgate.errors import GlassgateError
from glassgate.kernels import _native

try:
    _ISA = _native.isa()
except RuntimeError as error:
    raise GlassgateError(str(error)) from None

_wanted = 0  # what set_num_threads said


def isa() -> str:
    """Name the instruction set that the kernels use.

    ``"baseline"``, ``"avx2"``, ``"avx512"``, or for bf16 beyond it ``"avx512bf16"`` and ``"amx"``: the best
    that the machine has, or the one that ``GLASSGATE_ISA`` named at the first import.

    Examples
    --------
    >>> isa() in ("baseline", "avx2", "avx512", "avx512bf16", "amx")
    True
    """
    return _ISA


def num_threads() -> int:
    """Tell how many threads a call may use.

    What `set_num_threads` said, else what OpenMP would use (``OMP_NUM_THREADS``, ``torch.set_num_threads``).

    Examples
    --------
    >>> num_threads() >= 1
    True
    """
    return _native.threads()


def set_num_threads(count: int) -> None:
    """Set how many threads a call may use; 0 follows OpenMP again. Results do not depend on it.

    Small calls use fewer. In a process with torch the kernels share torch's OpenMP threads.

    Parameters
    ----------
    count : int
        0 to 1024.

    Raises
    ------
    GlassgateError
        The count lies outside.

    Examples
    --------
    >>> set_num_threads(2)
    >>> num_threads()
    2
    >>> set_num_threads(0)
    """
    global _wanted
    if not 0 <= count <= 1024:
        raise GlassgateError(f"set_num_threads: count must be from 0 to 1024, got {count}")
    _wanted = count
    _native.set_threads(count)


@contextmanager
def using_threads(count: int) -> Iterator[None]:
    """Let the calls of a block use so many threads; afterwards what `set_num_threads` said holds again.

    A call that another Python thread makes meanwhile may use the block's number: its results do not
    depend on it.

    Parameters
    ----------
    count : int
        0 to 1024; 0 follows OpenMP.

    Examples
    --------
    >>> with using_threads(1):
    ...     num_threads()
    1
    """
    _native.set_threads(count)
    try:
        yield
    finally:
        _native.set_threads(_wanted)
