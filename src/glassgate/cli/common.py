"""What several commands share."""

from importlib.util import find_spec

from glassgate.errors import GlassgateError

__all__ = ["needs"]


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
