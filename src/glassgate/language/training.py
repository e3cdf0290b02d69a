"""Training: truncated BPTT with carried state, from a text to a model folder."""

import json
import time
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from math import isfinite
from pathlib import Path
from typing import Any, TypeAlias

import torch
from rich.console import Console

from glassgate.errors import GlassgateError
from glassgate.folder import model as files
from glassgate.folder.files import reporting_disk_errors, write_atomically
from glassgate.folder.vocabulary import Vocabulary
from glassgate.language.corpus import Corpus, open_tokens, prepare
from glassgate.language.devices import DeviceChoice, choose_device, computing
from glassgate.language.options import Plan, TrainOptions
from glassgate.language.parallel import Ranks, joined
from glassgate.language.progress import ProgressDisplay
from glassgate.language.trainer import CHECKPOINT, SAVE_EVERY, WORK, Outcome, Trainer, discard

__all__ = ["train"]

How: TypeAlias = tuple[float, Console, Ranks, torch.device]  # what no result depends on
SOON = 5.0  # seconds after which whoever waits for the text to be read is told how far it is


def train(
    texts: Sequence[Path],
    out: Path,
    options: TrainOptions,
    *,
    valid: Sequence[Path] = (),
    test: Sequence[Path] = (),
    resume: bool = False,
    given: dict[str, Any] | None = None,
    save_every: float = SAVE_EVERY,
    device: DeviceChoice = "cpu",
    console: Console | None = None,
) -> Outcome:
    """Train a next-word model on a text and write its folder.

    Parameters
    ----------
    texts
        The training text, files and folders; on ``resume`` they may be left out.
    out
        The model folder to make.
    options
        Sizes, budget and the rest.
    valid, test
        Held-out texts; by default parts of ``texts``, by position.
    resume
        Go on with a training that was interrupted; where it left nothing yet, start it.
    given
        On ``resume`` the options that were given anew; they must be those of the training.
    save_every
        Seconds between checkpoints, at least 0: after every step. A training that is killed goes on
        from the last one; no result depends on them.
    device
        ``"cpu"`` or ``"cuda"``. A training may go on on another device than it began on.
    console
        Where progress is shown; by default standard error.

    Returns
    -------
    Outcome
        Whether it ran to its end, and the perplexities on what was held out.

    Raises
    ------
    GlassgateError
        For bad input, a full disk, or a loss that is no number. What was saved stays.

    Notes
    -----
    With ``epochs`` a resumed training ends with the very bits of an uninterrupted one, on the same
    machine with the same number of threads, on the CPU; CUDA adds in no fixed order. With ``minutes`` the
    schedule follows the clock, and no two runs are alike.
    """
    if not (isfinite(save_every) and save_every >= 0):
        raise GlassgateError(f"--save-every: must be at least 0, got {save_every}")
    place = choose_device(device)
    with computing(place), joined(place) as ranks:
        how = (save_every, console or Console(stderr=True), ranks, place)
        if ranks.rank == 0:
            return _first(texts, out, options, valid, test, resume, given or {}, how)
        if not ranks.first(0):
            return Outcome(True, {})
        options, split = _stored_options(out / WORK / "options.json", {}, ())
        corpus = open_tokens(Vocabulary.load(out / files.TOKENIZER), split["eos"], out / WORK, split["split"])
        return _run(out, options, corpus, (save_every, Console(quiet=True), ranks, place))


def _first(
    texts: Sequence[Path],
    out: Path,
    options: TrainOptions,
    valid: Sequence[Path],
    test: Sequence[Path],
    resume: bool,
    given: dict[str, Any],
    how: How,
) -> Outcome:
    """Prepare the text, tell the other processes that it is there, and train."""
    _, console, ranks, _ = how
    made = [folder for folder in (out, *out.parents) if not folder.exists()]
    work = out / WORK
    stored = work / "options.json"
    if resume and stored.exists():
        options, split = _stored_options(stored, given, [*texts, *valid, *test])
        vocabulary = Vocabulary.load(out / files.TOKENIZER)
        corpus = open_tokens(vocabulary, split["eos"], work, split["split"])
    else:
        if resume and (out / files.WEIGHTS).exists() and not work.exists():
            discard(out)
            line = f"{out}: the training is finished, there is nothing to resume"
            console.print(line, highlight=False, markup=False, emoji=False, soft_wrap=True)
            ranks.first(False)
            return Outcome(True, {})
        if not texts:
            raise GlassgateError(f"{out}: holds no training to resume, and no text was given to start one")
        if resume and work.exists():
            made = [out]  # by the run that was killed
        else:
            files.make_folder(out)
        with reporting_disk_errors(work):
            work.mkdir(exist_ok=True)
        corpus = _prepare(texts, valid, test, options, out, made, console)
    ranks.first(True)
    try:
        return _run(out, options, corpus, how)
    except GlassgateError:
        if not (work / CHECKPOINT).exists() and not (out / files.WEIGHTS).exists():
            _withdraw(out, made)
        raise


def _run(out: Path, options: TrainOptions, corpus: Corpus, how: How) -> Outcome:
    save_every, console, ranks, device = how
    threads = torch.get_num_threads()
    torch.set_num_threads(options.threads or threads)
    try:
        return Trainer(out, options, corpus, console, save_every, ranks, device).run()
    finally:
        torch.set_num_threads(threads)


def _prepare(
    texts: Sequence[Path],
    valid: Sequence[Path],
    test: Sequence[Path],
    options: TrainOptions,
    out: Path,
    made: Sequence[Path],
    console: Console,
) -> Corpus:
    """Tokenise; options.json, written last, says that all is there."""
    work = out / WORK

    def report(line: str) -> None:
        console.print(line, highlight=False, markup=False, emoji=False, soft_wrap=True)

    try:
        with ExitStack() as shown:
            display: list[ProgressDisplay] = []

            def progress(share: float, text: str) -> None:
                if not display and time.monotonic() - started > SOON:
                    display.append(shown.enter_context(ProgressDisplay(console, "tokenising")))
                if display:
                    display[0].update(share, text)

            started = time.monotonic()
            corpus = prepare(
                texts, valid, test, options.text, work, report, processes=options.threads, progress=progress
            )
        Plan.make(options, corpus)
        corpus.vocabulary.save(out / files.TOKENIZER)
        names = [str(path.resolve()) for path in (*texts, *valid, *test)]
        record = {"options": options.as_dict(), "texts": names, "eos": corpus.eos, "split": corpus.split}
        write_atomically(work / "options.json", json.dumps(record, indent=2) + "\n")
    except BaseException:
        _withdraw(out, made)
        raise
    return corpus


def _withdraw(out: Path, made: Sequence[Path]) -> None:
    """Leave nothing behind of a training that came to nothing: the next try would trip over it.

    ``made`` are the folders that were not there before, the innermost first.
    """
    discard(out)
    for name in (files.CONFIG, files.TOKENIZER, files.METRICS):
        (out / name).unlink(missing_ok=True)
    for folder in made:
        with suppress(OSError):  # another program may have put something there
            folder.rmdir()


def _stored_options(
    path: Path, given: dict[str, Any], texts: Sequence[Path]
) -> tuple[TrainOptions, dict[str, Any]]:
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        options = TrainOptions(**record["options"])
        names = record["texts"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise GlassgateError(f"{path}: is damaged: {error}") from error
    if differing := options.differing(given):
        name = differing[0]
        raise GlassgateError(
            f"--{name.replace('_', '-')}: a resumed training keeps its options: "
            f"expected {getattr(options, name)}, got {given[name]}"
        )
    if texts and [str(text.resolve()) for text in texts] != names:
        raise GlassgateError(
            f"{path.parent.parent}: a resumed training keeps its texts: expected {', '.join(names)}"
        )
    return options, record
