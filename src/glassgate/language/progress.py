"""What a long work shows: a bar on a terminal, plain lines elsewhere."""

import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn

__all__ = ["ProgressDisplay", "clock"]

LINE_EVERY = 10.0  # seconds between plain lines


class ProgressDisplay:
    """Show how far a work is, at its own pace: call `update` as often as you like.

    Parameters
    ----------
    console
        Where to show it; a bar where it is a terminal, else a line every ten seconds.
    label
        What is going on, in a word.

    Examples
    --------
    >>> import io
    >>> out = io.StringIO()
    >>> with ProgressDisplay(Console(file=out, width=80), "training") as display:
    ...     display.update(0.5, "perplexity 99.1")
    ...     display.say("epoch 1: perplexity 98.7")
    >>> print(out.getvalue().rstrip())
    training  50 %  perplexity 99.1
    epoch 1: perplexity 98.7
    """

    def __init__(self, console: Console, label: str) -> None:
        self.console = console
        self.label = label
        self.started = time.monotonic()
        self._last_line = float("-inf")
        self._bar: Progress | None = None
        if console.is_terminal:
            self._bar = Progress(
                TextColumn("{task.description}", markup=False),
                BarColumn(bar_width=None),
                TaskProgressColumn(),
                TextColumn("{task.fields[text]}", markup=False),
                console=console,
                expand=True,
            )
            self._task = self._bar.add_task(label, total=1.0, text="")

    def __enter__(self) -> "ProgressDisplay":
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def update(self, share: float, text: str) -> None:
        """Show that a share from 0 to 1 is done, with a few words."""
        if self._bar is not None:
            self._bar.update(self._task, completed=share, text=text)
        elif time.monotonic() - self._last_line >= LINE_EVERY:
            self._last_line = time.monotonic()
            self.say(f"{self.label} {share:4.0%}  {text}".replace("%", " %", 1))

    def say(self, line: str) -> None:
        """Print a line that stays."""
        (self._bar.console if self._bar is not None else self.console).print(
            line, highlight=False, markup=False, soft_wrap=True
        )


def clock(seconds: float) -> str:
    """Write a duration as people read it.

    Examples
    --------
    >>> clock(754), clock(8), clock(3700)
    ('12 min 34 s', '8 s', '1 h 01 min')
    """
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02} min"
