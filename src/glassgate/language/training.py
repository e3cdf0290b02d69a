"""Training: truncated BPTT with carried state, from a text to a model folder."""

import fcntl
import json
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from functools import partial
from math import isfinite
from pathlib import Path
from typing import Any, TypeAlias

import torch
from rich.console import Console

from glassgate.errors import GlassgateError
from glassgate.folder import model as files
from glassgate.folder.config import ModelConfig
from glassgate.folder.files import reporting_disk_errors, write_atomically
from glassgate.folder.vocabulary import Vocabulary
from glassgate.language.corpus import Corpus, open_tokens, prepare
from glassgate.language.devices import DeviceChoice, choose_device, computing
from glassgate.language.options import Plan, TrainOptions
from glassgate.language.parallel import Ranks, joined
from glassgate.language.progress import ProgressDisplay
from glassgate.language.trainer import (
    CHECKPOINT,
    SAVE_EVERY,
    WORK,
    Outcome,
    Trainer,
    discard,
    how_to_resume,
)

__all__ = ["train"]

How: TypeAlias = tuple[float, Console, Ranks, torch.device]  # what no result depends on
OPTIONS = "options.json"  # what was asked for, and of which text; written when all is tokenised
LOCK = "lock"  # a file of the work folder, locked as long as a process trains there
SOON = 5.0  # seconds after which whoever waits for the text to be read is told how far it is


@dataclass(frozen=True)
class _Task:
    """What `train` was called with; ``given`` are the options that a resumed training is told anew."""

    out: Path
    options: TrainOptions
    texts: Sequence[Path]
    valid: Sequence[Path]
    test: Sequence[Path]
    resume: bool
    given: dict[str, Any]

    @property
    def all_texts(self) -> list[Path]:
        return [*self.texts, *self.valid, *self.test]

    def folders_to_make(self) -> list[Path]:
        """Return the folders that it will have made, the innermost first."""
        work = self.out / WORK
        if self.resume and work.exists() and not (work / OPTIONS).exists():
            return [self.out]  # by a run that was killed while it tokenised
        return [folder for folder in (self.out, *self.out.parents) if not folder.exists()]


class _TakenError(GlassgateError):
    """Another process trains in the folder: nothing in it is ours."""


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
        For bad input, a folder that is being trained already, a full disk, or a loss that is no number.
        What was saved stays.
    KeyboardInterrupt
        When it is interrupted before there is anything to resume; then nothing is left.

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
            return _first(_Task(out, options, texts, valid, test, resume, given or {}), how)
        if not ranks.first(False):  # there is nothing to train, and the first process has said why
            return Outcome(True, {})
        options, split = _stored_options(out / WORK / OPTIONS, {}, ())
        corpus = open_tokens(Vocabulary.load(out / files.TOKENIZER), split["eos"], out / WORK, split["split"])
        return _run(out, options, corpus, (save_every, Console(quiet=True), ranks, place))


def _first(task: _Task, how: How) -> Outcome:
    """Prepare the text, tell the other processes whether it is there, and train."""
    _, console, ranks, _ = how
    out, made = task.out, task.folders_to_make()
    with ExitStack() as held:
        try:
            found = _find(task, made, console, held)
        except BaseException:
            with suppress(GlassgateError):  # that another process is gone as well
                ranks.first(False)
            raise
        ranks.first(found is not None)
        if found is None:
            return Outcome(True, {})
        try:
            return _run(out, *found, how)
        except GlassgateError:
            if not (out / WORK / CHECKPOINT).exists() and not (out / files.WEIGHTS).exists():
                _withdraw(out, made)
            raise
        except KeyboardInterrupt:
            if not (out / WORK / OPTIONS).exists():
                raise
            _say(console, f"interrupted; what was saved stays. {how_to_resume(out)}")
            return Outcome(False, {})


def _find(
    task: _Task, made: Sequence[Path], console: Console, held: ExitStack
) -> tuple[TrainOptions, Corpus] | None:
    """Return what to train, with the folder locked in ``held``; None where the training is finished."""
    out, work = task.out, task.out / WORK
    if task.resume and (out / files.WEIGHTS).exists() and not work.exists():
        unseen = _check_finished(out, task.given)
        discard(out)
        line = f"{out}: the training is finished, there is nothing to resume"
        _say(console, line + (f"; without effect: {', '.join(unseen)}" if unseen else ""))
        return None
    if task.resume and (work / OPTIONS).exists():
        held.enter_context(_alone(work))
        options, split = _stored_options(work / OPTIONS, task.given, task.all_texts)
        vocabulary = Vocabulary.load(out / files.TOKENIZER)
        return options, open_tokens(vocabulary, split["eos"], work, split["split"])
    if not task.texts:
        raise GlassgateError(f"{out}: holds no training to resume, and no text was given to start one")
    if not (task.resume and work.exists()):
        files.make_folder(out)
    try:
        with reporting_disk_errors(work):
            work.mkdir(exist_ok=True)
        held.enter_context(_alone(work))
        return task.options, _prepare(task, console)
    except _TakenError:
        raise
    except BaseException:
        _withdraw(out, made)
        raise


@contextmanager
def _alone(work: Path) -> Iterator[None]:
    """Hold the lock of a work folder; the system takes it back from a process that ends in any way."""
    path, taken = work / LOCK, False
    with reporting_disk_errors(path):
        file = path.open("ab")
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            taken = True
        except OSError:  # a file system without locks is no reason not to train
            pass
        if taken or not path.exists():  # it goes with the folder when the other one ends
            raise _TakenError(f"{work.parent}: another process trains there: wait for its end, or stop it")
        yield


def _check_finished(out: Path, given: dict[str, Any]) -> list[str]:
    """Refuse options that the finished model tells were others; name those of which it tells nothing."""
    known = asdict(ModelConfig.load(out / files.CONFIG)) if given else {}
    for name, value in given.items():
        if name in known and value not in (known[name], "auto"):
            raise _kept(name, known[name], value)
    return [_option(name) for name in given if name not in known]


def _run(out: Path, options: TrainOptions, corpus: Corpus, how: How) -> Outcome:
    save_every, console, ranks, device = how
    threads = torch.get_num_threads()
    torch.set_num_threads(options.threads or threads)
    try:
        return Trainer(out, options, corpus, console, save_every, ranks, device).run()
    finally:
        torch.set_num_threads(threads)


def _prepare(task: _Task, console: Console) -> Corpus:
    """Tokenise; options.json, written last, says that all is there."""
    out, options = task.out, task.options
    work = out / WORK
    with ExitStack() as shown:
        display: list[ProgressDisplay] = []

        def progress(share: float, text: str) -> None:
            if not display and time.monotonic() - started > SOON:
                display.append(shown.enter_context(ProgressDisplay(console, "tokenising")))
            if display:
                display[0].update(share, text)

        started = time.monotonic()
        texts = (task.texts, task.valid, task.test)
        report = partial(_say, console)
        corpus = prepare(*texts, options.text, work, report, processes=options.threads, progress=progress)
    chosen = Plan.make(options, corpus).recipe
    corpus.vocabulary.save(out / files.TOKENIZER)
    names = [str(path.resolve()) for path in task.all_texts]
    # The recipe that was chosen stays, though another machine might read the text less often.
    record = {"options": options.as_dict(), "recipe": chosen, "texts": names}
    record |= {"eos": corpus.eos, "split": corpus.split}
    write_atomically(work / OPTIONS, json.dumps(record, indent=2) + "\n")
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
        names, recipe = record["texts"], record["recipe"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise GlassgateError(f"{path}: is damaged: {error}") from error
    for name in options.differing(given):
        raise _kept(name, getattr(options, name), given[name])
    if texts and [str(text.resolve()) for text in texts] != names:
        raise GlassgateError(
            f"{path.parent.parent}: a resumed training keeps its texts: expected {', '.join(names)}"
        )
    return replace(options, recipe=recipe), record


def _kept(name: str, expected: object, came: object) -> GlassgateError:
    return GlassgateError(
        f"{_option(name)}: a resumed training keeps its options: expected {expected}, got {came}"
    )


def _option(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _say(console: Console, line: str) -> None:
    console.print(line, highlight=False, markup=False, emoji=False, soft_wrap=True)
