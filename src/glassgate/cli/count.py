"""``glassgate count``: which trainable weights there are, matrix by matrix."""


def command() -> None:
    """Count the trainable weights, matrix by matrix."""
