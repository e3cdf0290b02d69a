"""The training loop: one run, from the last checkpoint to the end or to an interruption."""

import json
import os
import shutil
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from math import exp, isfinite
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from glassgate.errors import GlassgateError
from glassgate.folder import model as files
from glassgate.folder.card import write_card
from glassgate.folder.files import reporting_disk_errors, write_atomically
from glassgate.folder.weights import load_weights, save_weights
from glassgate.language import averaging
from glassgate.language.checkpoint import Progress, load_checkpoint, save_checkpoint
from glassgate.language.corpus import Corpus, TokenArray, count_words
from glassgate.language.devices import has_kernels
from glassgate.language.held_out import perplexity
from glassgate.language.model import NextWordModel
from glassgate.language.optimizer import AdamW
from glassgate.language.options import Plan, TrainOptions
from glassgate.language.parallel import Ranks
from glassgate.language.picture import draw_loss
from glassgate.language.progress import ProgressDisplay, clock
from glassgate.language.schedule import Streams, one_cycle
from glassgate.language.spectral import spectral_embedding
from glassgate.language.summary import introduction, training_rows

__all__ = ["CHECKPOINT", "SAVE_EVERY", "WORK", "Outcome", "Trainer", "discard", "how_to_resume"]

WORK = "training"  # the folder of what an unfinished training needs; gone when it ends
CHECKPOINT = "checkpoint.safetensors"
CPU = torch.device("cpu")
SAVE_EVERY = 60.0  # seconds between checkpoints, where it is not given
VALIDATED = 100_000  # tokens of the validation part that are read while training
TESTED = 1_000_000  # tokens of each held-out part that are read at the end
STRENGTHS = ("weight_decay", "activation_penalty", "slowness_penalty")  # too large, they diverge as well
LARGEST_LOSS = 700.0  # nats a word; the perplexity of ten more is beyond the largest float


@dataclass(frozen=True)
class Outcome:
    """How a training ended: whether it is finished, and its perplexities by name."""

    finished: bool
    figures: dict[str, float]


class Trainer:
    """Trains a model on a corpus and keeps its folder up to date.

    Parameters
    ----------
    out
        The model folder; its folder ``training`` may hold a checkpoint to go on from.
    options, corpus
        What was asked for, and the text.
    console
        Where progress is shown.
    save_every
        Seconds between checkpoints; 0: one after every step. They cost time and change no result.
    ranks
        The processes that train together. Each reads its part of the streams; what they decide by the
        clock or by a measurement the first decides for all, and it alone writes.
    device
        Where steps are computed. Weights are drawn, and files written and read, on the CPU.
    """

    def __init__(
        self,
        out: Path,
        options: TrainOptions,
        corpus: Corpus,
        console: Console,
        save_every: float = SAVE_EVERY,
        ranks: Ranks | None = None,
        device: torch.device = CPU,
    ) -> None:
        self.out, self.options, self.corpus, self.console = out, options, corpus, console
        self.save_every, self.device = save_every, device
        self.ranks = ranks or Ranks()
        self.writes = self.ranks.rank == 0
        self.checkpoint = out / WORK / CHECKPOINT
        self.metrics = out / files.METRICS
        self.plan = Plan.make(options, corpus)
        if options.precision == "auto" and not has_kernels(device):
            self.plan = replace(self.plan, precision="fp32")  # the rule knows the processor alone
        torch.manual_seed(options.seed)
        plan = self.plan
        self.model = NextWordModel(plan.config, plan.weight_drop)
        self.streams = Streams(corpus.train, plan.batch, plan.unroll, options.seed, plan.random_unroll)
        self.optimizer = _optimizer(self.model, plan.weight_decay)
        self.average = averaging.Average(self.model)
        if plan.batch < self.ranks.count:
            raise GlassgateError(
                f"--batch: must be at least 1 for each of {self.ranks.count} processes, got {plan.batch}"
            )
        self.own = self.ranks.part(plan.batch)
        self.state = self.model.initial_state(self.own.stop - self.own.start)
        self.progress = Progress()
        if self.checkpoint.exists():
            state, self.progress = load_checkpoint(self.checkpoint, self.model, self.optimizer, self.average)
            self.state = tuple(part[:, self.own].contiguous() for part in state)
        else:
            self._begin()
        if not has_kernels(device):
            self.optimizer.to(device)
            self.model.to(device)
            self.state = tuple(part.to(device) for part in self.state)
        self.display = ProgressDisplay(console, "training")
        self.ticked = self.saved = 0.0

    def _begin(self) -> None:
        """Let the weights begin with what the text says at a glance; the time it takes is of the budget."""
        started, plan, tokens = time.monotonic(), self.plan, self.corpus.train
        if plan.config.bias:
            counts = count_words(tokens, plan.config.vocabulary)
            self.model.output.start_at(torch.from_numpy(counts))
        if plan.spectral:
            if self.writes:
                with self.console.status("reading which words stand together"):
                    size = plan.config.vocabulary, plan.config.embedding
                    rows = spectral_embedding(tokens, *size, self.options.seed)
                if rows is not None:
                    self.model.embedding.start_at(rows)
            for parameter in self.model.embedding.parameters():
                self.ranks.share(parameter.detach())
        self.progress.seconds = time.monotonic() - started

    def run(self) -> Outcome:
        """Train until the budget is spent or a signal asks to stop."""
        if self.writes:
            self._cut_metrics()
            write_atomically(self.out / files.CONFIG, self.plan.config.to_json())
        self.display.say(introduction(self.plan, self._weights(), self.progress.step))
        self.ticked = self.saved = time.monotonic()
        with _stop_requested() as stop, self.display:
            stopped = bool(self.ranks.first(stop.is_set()))
            # One step at least: the start alone may take longer than the minutes that were asked for.
            while (self._spent() < 1 or self.progress.step == 0) and not stopped:
                rate = self._rate()
                self.step(rate)
                self._average()
                if self.progress.step % self.plan.log_every == 0:
                    self._log_training(rate)
                if self.progress.step % self.plan.validate_every == 0:
                    self._validate()
                if self.ranks.first(time.monotonic() - self.saved) >= self.save_every:
                    self._save()
                stopped = bool(self.ranks.first(stop.is_set()))
            if stopped:
                return self._interrupted()
            if self.progress.validated != self.progress.step:
                self._validate()
            self._save()
        return self._finish()

    def _spent(self) -> float:
        """Return the share of the budget that is spent, after bringing the clock up to date."""
        now = time.monotonic()
        self.progress.seconds = self.ranks.first(self.progress.seconds + now - self.ticked)
        self.ticked = now
        return self.plan.progress(self.progress.step, self.progress.seconds)

    def step(self, rate: float) -> None:
        """Read T words of each stream and move the weights once."""
        progress, started = self.progress, time.monotonic()
        # Dropout draws from the seed and the step alone: there is no generator to save.
        # Each process draws its own, the first what a single one would.
        torch.manual_seed((self.options.seed << 32) + progress.step + (self.ranks.rank << 24))
        if progress.step % len(self.streams) == 0:
            self.state = self.model.initial_state(self.own.stop - self.own.start)
        words, targets = (part[:, self.own].to(self.device) for part in self.streams.read(progress.step))
        self.model.train()
        plan = self.plan
        with torch.autocast(self.device.type, torch.bfloat16, enabled=plan.precision == "bf16"):
            loss, penalty, state = self.model.training_loss(
                words, targets, self.state, plan.activation_penalty, plan.slowness_penalty
            )
        share = words.shape[1] / plan.batch  # of a single process: 1, exactly
        ((loss + penalty) * share).backward()  # type: ignore[no-untyped-call]
        value = self.ranks.add_gradients(self.model.parameters(), float(loss.detach()) * share)
        rate *= len(words) / plan.unroll if plan.random_unroll else 1
        if not value < LARGEST_LOSS or not isfinite(self.optimizer.step(rate, self.options.clip)):
            raise self._diverged()
        self.state = tuple(part.detach() for part in state)
        progress.step += 1
        tokens = len(targets) * self.plan.batch
        progress.loss += value * tokens
        progress.tokens += tokens
        progress.row_seconds += time.monotonic() - started

    def _average(self) -> None:
        """Take the weights into their average, should the training have come to its last part."""
        if self.progress.step % averaging.EVERY == 0 and self._spent() > 1 - self.plan.average:
            self.optimizer.catch_up()
            self.average.add()

    def _rate(self) -> float:
        return self.plan.learning_rate * one_cycle(self._spent())

    def _diverged(self) -> GlassgateError:
        suspects = [name for name in STRENGTHS if getattr(self.options, name)]
        names = " or ".join(f"--{name.replace('_', '-')}" for name in [*suspects, "learning_rate"])
        return GlassgateError(
            f"training: the loss grew beyond all numbers at step {self.progress.step + 1}, learning rate "
            f"{self._rate():.3g}: try a lower {names}; what was saved before stays"
        )

    def _log_training(self, rate: float) -> None:
        progress = self.progress
        loss = progress.loss / progress.tokens
        speed = progress.tokens / max(progress.row_seconds, 1e-9)
        spent = self._spent()
        self._append(
            {"loss": loss, "perplexity": exp(loss), "words_per_second": speed, "learning_rate": rate}
        )
        progress.loss, progress.tokens, progress.row_seconds = 0.0, 0, 0.0
        left = progress.seconds * (1 - spent) / spent
        best = "" if progress.best is None else f"  validation {progress.best:,.1f}"
        text = f"perplexity {exp(loss):,.1f}{best}  {speed:,.0f} words/s  {clock(left)} left"
        self.display.update(spent, text)

    def _validate(self) -> None:
        """Measure the perplexity on held-out text; the weights that do best are the model."""
        progress = self.progress
        self.model.eval()
        self.optimizer.catch_up()
        value = self._compare()
        if self.average.count:
            with self.average.in_place():
                value = min(value, self._compare())
        self._spent()
        progress.validated = progress.step
        self._append({"valid_perplexity": value})
        if not self.console.is_terminal or self.plan.validate_every >= 500:
            self.display.say(
                f"step {progress.step:,}, epoch {self._epoch():.1f}: validation perplexity {value:,.1f}"
            )

    def _compare(self) -> float:
        """Return the validation perplexity of the weights, which are kept if they are the best so far."""
        progress = self.progress
        value = self.ranks.first(self._measure(self.corpus.valid[:VALIDATED]))
        if not isfinite(value):
            raise self._diverged()
        if progress.best is None or value < progress.best:
            progress.best, progress.best_step = value, progress.step
            if self.writes:
                save_weights(self.out / files.WEIGHTS, self.model.arrays())
                self._write_card({})
        return value

    def _save(self) -> None:
        self.saved = time.monotonic()
        state = tuple(self.ranks.together(part, self.plan.batch) for part in self.state)
        if not self.writes:
            return
        with reporting_disk_errors(self.metrics), self.metrics.open("ab") as file:
            os.fsync(file.fileno())
            self.progress.metrics_bytes = file.tell()
        save_checkpoint(self.checkpoint, self.model, self.optimizer, self.average, state, self.progress)
        self.saved = time.monotonic()

    def _write_card(self, figures: dict[str, float]) -> None:
        progress, plan = self.progress, self.plan
        measured = [(name, f"{value:,.2f}") for name, value in figures.items()]
        if progress.best is not None:
            measured.append(
                (
                    f"validation perplexity while training (step {progress.best_step:,})",
                    f"{progress.best:,.2f}",
                )
            )
        text = f"{len(self.corpus.train):,} tokens; {self.corpus.split}"
        training = training_rows(plan, self.options, text, progress)
        card = write_card(plan.config, self._weights(), self.corpus.vocabulary.lowercase, training, measured)
        write_atomically(self.out / files.CARD, card)

    def _interrupted(self) -> Outcome:
        self._save()
        if not self.writes:
            return Outcome(False, {})
        if not (self.out / files.WEIGHTS).exists():
            self.optimizer.catch_up()  # after saving: that must not depend on an interruption
            save_weights(self.out / files.WEIGHTS, self.model.arrays())
            self._write_card({})
        self._draw()
        self.display.say(
            f"interrupted at step {self.progress.step:,}; all is saved. {how_to_resume(self.out)}"
        )
        return Outcome(False, {})

    def _finish(self) -> Outcome:
        """Measure the best weights on all that was held out, and tidy up."""
        if not self.writes:
            return Outcome(True, {})
        self.model.load_arrays(load_weights(self.out / files.WEIGHTS, self.plan.config.tensors()))
        self.model.eval()
        figures: dict[str, float] = {}
        for name, tokens in (("validation", self.corpus.valid), ("test", self.corpus.test)):
            if tokens is not None:
                with self.console.status(f"measuring on the {name} part"):
                    figures[f"{name} perplexity"] = self._measure(tokens[:TESTED])
        self._write_card(figures)
        self._draw()
        discard(self.out)
        for name, value in figures.items():
            self.console.print(f"{name} {value:,.2f}", highlight=False, markup=False)
        return Outcome(True, figures)

    def _measure(self, tokens: TokenArray) -> float:
        """Read a text as up to ten streams of a thousand tokens or more: several times faster than one."""
        streams = max(1, min(10, len(tokens) // 1_000))
        return perplexity(self.model, tokens, self.corpus.vocabulary.eos, streams) if self.writes else 0.0

    def _weights(self) -> int:
        return sum(parameter.numel() for parameter in self.model.parameters())

    def _epoch(self) -> float:
        return self.progress.step / self.plan.steps_per_epoch

    def _append(self, values: dict[str, Any]) -> None:
        row = {"step": self.progress.step, "epoch": round(self._epoch(), 4), **values}
        row["seconds"] = round(self.progress.seconds, 3)
        if not self.writes:
            return
        with reporting_disk_errors(self.metrics), self.metrics.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")

    def _cut_metrics(self) -> None:
        """Drop the rows of steps that a killed run did but had not saved."""
        with reporting_disk_errors(self.metrics), self.metrics.open("ab") as file:
            file.truncate(min(self.progress.metrics_bytes, file.tell()))

    def _draw(self) -> None:
        rows = [json.loads(line) for line in self.metrics.read_text(encoding="utf-8").splitlines()]
        config = self.plan.config
        title = f"{config.cell.upper()} {config.layers} x {config.hidden}, {len(self.corpus.train):,} tokens"
        write_atomically(self.out / files.PICTURE, draw_loss(rows, title))


def how_to_resume(out: Path) -> str:
    """Return what is said to whoever interrupted a training, two lines."""
    return f"Go on with:\n  glassgate train --resume --out {out}"


def discard(out: Path) -> None:
    """Remove what an unfinished training needs; a kill half-way leaves nothing that looks like one."""
    doomed = out / ".training"
    shutil.rmtree(doomed, ignore_errors=True)
    if (out / WORK).exists():
        (out / WORK).rename(doomed)
    shutil.rmtree(doomed, ignore_errors=True)
    # Half written when a run was killed, by us or by the library of the weights, which has a name of its own.
    names = (files.CONFIG, files.WEIGHTS, files.TOKENIZER, files.CARD, files.PICTURE)
    for pattern in (*(f".{name}.*.tmp" for name in names), ".tmp??????"):
        for left in out.glob(pattern):
            left.unlink(missing_ok=True)


def _optimizer(model: NextWordModel, weight_decay: float) -> AdamW:
    """Make the optimiser; of the embedding and of V it visits the rows in play."""
    model.track_words()
    return AdamW(dict(model.named_parameters()), weight_decay)


@contextmanager
def _stop_requested() -> Iterator[threading.Event]:
    """Catch Ctrl-C and SIGTERM: the first asks to stop after the step, the second stops at once."""
    stop = threading.Event()

    def ask(number: int, frame: object) -> None:
        if stop.is_set():
            raise KeyboardInterrupt
        stop.set()

    if threading.current_thread() is not threading.main_thread():
        yield stop  # signals reach the main thread alone
        return
    former = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)
