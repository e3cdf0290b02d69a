"""The one exception that users meet."""

__all__ = ["GlassgateError"]


class GlassgateError(Exception):
    """Bad input, told in one line: where, and the rule with what was expected and came.

    What is missing, damaged or cannot be read is told with the reason alone.

    The command line prints the message and ends with exit code 2; anything else that is
    raised is a defect of glassgate and shows its traceback.

    Examples
    --------
    >>> raise GlassgateError("--hidden: must be at least 1, got -3")
    Traceback (most recent call last):
    glassgate.errors.GlassgateError: --hidden: must be at least 1, got -3
    """
