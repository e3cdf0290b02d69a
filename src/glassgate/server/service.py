"""What the server answers about its model: predictions, text, gates, edits, and what it is."""

import json
import os
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import suppress
from math import exp, isfinite
from pathlib import Path
from time import monotonic
from typing import Any, NamedTuple

from glassgate import __version__
from glassgate.errors import GlassgateError
from glassgate.folder.counting import count_folder
from glassgate.folder.model import CARD, METRICS
from glassgate.lens.explore import packed
from glassgate.runtime import Model
from glassgate.runtime.detokenise import Detokeniser
from glassgate.runtime.matrix import Numbers
from glassgate.runtime.output import Best
from glassgate.runtime.sampling import Sampling
from glassgate.runtime.traced import Traced as Seen
from glassgate.server.answers import Answer, RefusedError, Stream, as_json
from glassgate.server.bodies import Edited, Generate, Predict, Traced
from glassgate.server.engine import Call, Engine, LateError, Want
from glassgate.server.readers import Predictor, Writer
from glassgate.trace import NAMES

__all__ = ["REQUEST_SECONDS", "Service"]

REQUEST_SECONDS = 10.0
WRITE_SECONDS, STREAM_SECONDS = 30.0, 60.0  # for texts that are written on, in one answer and in a stream
ALONE = 1 / 3  # of that time is what they may take by themselves: there are others
WARM_TEXTS, WARM_WORDS = (1, 1, 8), 16
MOST_VALUES = 4 << 20  # of a trace: 16 MB as float32, 22 MB as base64
LARGEST_SIDE_FILE = 16 << 20  # bytes of a card or of a training's course that are shown


class Reading(NamedTuple):
    """What is read of a text: all of it, or what stands before a last word that is only begun."""

    text: str
    begun: str = ""
    allowed: Numbers | None = None  #: the numbers of the words that would complete it


class Service:
    """The model's answers, each a handler of `glassgate.server.application`.

    Parameters
    ----------
    model
        That answers.
    folder
        Where it lies: its card and its training's course are read from there, once.
    engine
        That computes.
    needs_token
        Whether requests need one, which /health tells the page.
    told
        What /model tells beside what the model is.
    """

    def __init__(
        self, model: Model, folder: Path, engine: Engine, needs_token: bool, told: Mapping[str, Any]
    ) -> None:
        self.model = model
        self.engine = engine
        self.name = os.fsencode(folder.resolve().name).decode("utf-8", "replace")
        self._gates = NAMES[model.config.cell]
        self._about = as_json({**_about(model, folder, self.name), **told})
        self._health = as_json({"status": "ok", "version": __version__, "token": needs_token})

    async def warm_up(self) -> None:
        """Compute a little, so that the engine knows its pace before the first request."""
        deadline = monotonic() + REQUEST_SECONDS
        numbers, want = self.begun([0] * WARM_WORDS), Want(Predict.model_fields["k"].default)
        words = len(self.model.vocabulary)
        for texts in WARM_TEXTS:
            writers = [Writer(numbers, WARM_WORDS, Sampling(), words, deadline) for _ in range(texts)]
            predictors = [Predictor(numbers, want, deadline) for _ in range(texts)]
            self.engine.submit(writers)
            with suppress(LateError):
                for writer in writers:
                    async for _ in writer.tokens():
                        pass
            self.engine.submit(predictors)
            with suppress(LateError):
                for predictor in predictors:
                    await predictor.future
        self.engine.steps = self.engine.words = 0

    async def health(self, _: None) -> Answer:
        """Tell that the server is there, and whether it needs a token."""
        return Answer(self._health)

    async def about(self, _: None) -> Answer:
        """Tell what the model is."""
        return Answer(self._about)

    async def predict(self, body: Predict) -> Answer:
        """Return the most probable next words."""
        words, begun = self.model.prefixes.cut(body.text) if body.complete else ([], "")
        numbers = self.numbers_of(words) if body.complete else self.numbers(body.text)
        allowed = self.model.prefixes.words(self.model.vocabulary.normalise(begun)) if begun else None
        reader = Predictor(numbers, Want(body.k, allowed), monotonic() + REQUEST_SECONDS)
        self.engine.submit([reader])
        try:
            best = await reader.future
        finally:
            reader.cancel()  # where the client went away
        return Answer(as_json({"words": self.words(best)}))

    async def generate(self, body: Generate) -> Stream:
        """Write on from a text, a word an event."""
        numbers = self.numbers(body.text)
        deadline = monotonic() + STREAM_SECONDS
        writer = Writer(numbers, body.words, body.sampling, len(self.model.vocabulary), deadline)
        self.write([writer], STREAM_SECONDS)
        try:
            await writer.begin()
        except BaseException:  # where the client went away, too
            writer.cancel()
            raise
        return Stream(self._events(writer, self.model.vocabulary.cut(body.text)), writer.cancel)

    async def trace(self, body: Traced) -> Answer:
        """Return every gate and state at every word of a text."""
        reading = self._reading(body)
        return Answer(await self._call(lambda: self._trace(body, reading)))

    async def edit(self, body: Edited) -> Answer:
        """Return the next words with edits beside those without."""
        reading = self._reading(body)
        return Answer(await self._call(lambda: self._edit(body, reading)))

    def write(self, writers: Sequence[Writer], limit: float) -> None:
        """Hand texts to the engine, all or none.

        Parameters
        ----------
        writers
            The texts.
        limit
            The seconds after which they are dropped.

        Raises
        ------
        RefusedError
            When they would need too much of that if there were no others: to ask again would not help.
        """
        if writers:
            longest = max((writer.steps for writer in writers), key=lambda steps: sum(steps.values()))
            seconds = self.engine.seconds(len(writers), longest)
            if seconds > ALONE * limit:
                asked = f"{len(writers)} x {sum(longest.values())} words would take about {seconds:.0f} s"
                raise RefusedError(413, f"the request: {asked}: expected at most {ALONE * limit:.0f} s")
        self.engine.submit(writers)

    def numbers(self, text: str) -> list[int]:
        """Turn a text into the numbers that are read for it; an unknown word becomes ``<unk>``."""
        return self.begun(self.model.numbers(text, unknown=True))

    def numbers_of(self, words: Sequence[str]) -> list[int]:
        """Turn words into the numbers that are read for them."""
        return self.begun([number for word in words for number in self.model.numbers(word, unknown=True)])

    def begun(self, numbers: list[int]) -> list[int]:
        """Put ``<eos>`` before word numbers, where the model knows it; without it one word must be there."""
        eos = self.model.vocabulary.eos
        if eos is not None:
            return [eos, *numbers]
        if not numbers:
            raise GlassgateError("the text: is empty: this model needs at least one word to go on from")
        return numbers

    def words(self, best: Best) -> list[dict[str, Any]]:
        """Spell the best words, with their probabilities."""
        spelling = self.model.vocabulary.words
        return [
            {"word": spelling[number], "probability": y}
            for number, y in zip(best[0].tolist(), best[1].tolist(), strict=True)
        ]

    async def _events(self, writer: Writer, before: Sequence[str]) -> AsyncGenerator[str, None]:
        write = Detokeniser()
        for word in before:
            write(word)
        try:
            async for token in writer.tokens():
                word = self.model.vocabulary.words[token.number]
                event = {"text": write(word), "word": word, "probability": exp(token.log)}
                yield as_json(event).decode()
        except (GlassgateError, LateError):
            yield RefusedError(503, "the server: could not go on").answer().body.decode()
            return
        yield "[DONE]"

    async def _call(self, function: Any) -> bytes:
        call = Call(function, monotonic() + REQUEST_SECONDS)
        self.engine.submit([call])
        result: bytes = await call.future
        return result

    def _reading(self, body: Traced) -> Reading:
        """Say what is read; refuse a text whose trace would be beyond bounds, before it takes memory."""
        reading = self._without_begun(body.text) if body.complete else Reading(body.text)
        config = self.model.config
        steps = len(self.numbers(reading.text))
        values = steps * config.layers * config.hidden * len(self._gates)
        if values > MOST_VALUES:
            raise RefusedError(
                413, f"text: its trace has {values:,} values: expected at most {MOST_VALUES:,}"
            )
        return reading

    def _without_begun(self, text: str) -> Reading:
        """Cut off a last word that the model does not know, where a word that it knows begins so."""
        vocabulary = self.model.vocabulary
        before, last = self.model.prefixes.cut(text)
        if not last or not (before or vocabulary.eos is not None):
            return Reading(text)
        with suppress(GlassgateError):  # of a closed vocabulary
            if vocabulary.encode([last]) != [[vocabulary.unk]]:
                return Reading(text)
        allowed = self.model.prefixes.words(last)
        return Reading(" ".join(before), last, allowed) if len(allowed) else Reading(text)

    def _trace(self, body: Traced, reading: Reading) -> bytes:
        seen = self.model.trace(reading.text, [edit.edit for edit in body.edits], unknown=True)
        layers = []
        for described in _layers(self.model):
            traced = seen.layers[described["name"]]
            values = {name: packed(getattr(traced, name)[:, 0]) for name in traced.names}
            layers.append({**described, "values": values})
        words = self._best(seen, body, reading)
        return as_json({"words": seen.words, "layers": layers, "next": words, "begun": reading.begun})

    def _edit(self, body: Edited, reading: Reading) -> bytes:
        edits = [edit.edit for edit in body.edits]
        after = self.model.trace(reading.text, edits, unknown=True)
        before = self.model.trace(reading.text, unknown=True) if edits else after
        found = {"before": before, "after": after}
        words = {name: self._best(seen, body, reading) for name, seen in found.items()}
        return as_json({**words, "begun": reading.begun})

    def _best(self, seen: Seen, body: Traced, reading: Reading) -> list[dict[str, Any]]:
        """Return the next words; a state that is scaled at every step soon leaves what float32 can hold."""
        output, never = self.model.network.output, self.model.vocabulary.unk
        try:
            (best,) = output.best(seen.features[-1:], body.k, reading.allowed, never)
        except GlassgateError:
            if not body.edits:
                raise
            line = "edits: what follows from them goes beyond float32: expected smaller changes"
            raise GlassgateError(line) from None
        return self.words(best)


def _layers(model: Model) -> list[dict[str, Any]]:
    config = model.config
    reset = config.reset if config.cell == "gru" else None
    return [
        {"name": name, "cell": config.cell, "reset": reset, "units": target.units}
        for name, target in model.network.targets.items()
    ]


def _about(model: Model, folder: Path, name: str) -> dict[str, Any]:
    """Gather what /model tells."""
    config, vocabulary = model.config, model.vocabulary
    counted = count_folder(folder)
    return {
        "name": name,
        "summary": counted.network.describe(),
        "figures": _figures(_side_file(folder / CARD)),
        "config": json.loads(config.to_json()),
        "count": counted.as_dict(),
        "layers": _layers(model),
        "gates": list(NAMES[config.cell]),
        "vocabulary": len(vocabulary),
        "unknown": vocabulary.unk is not None,
        "eos": vocabulary.eos is not None,
        "training": _course(_side_file(folder / METRICS)),
        "version": __version__,
    }


def _side_file(path: Path) -> str:
    """Read a file that a model may do without."""
    try:
        if path.stat().st_size <= LARGEST_SIDE_FILE:
            return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        pass
    return ""


def _figures(card: str) -> list[dict[str, str]]:
    """Find the card's table of what was measured."""
    section = card.partition("\n## Measured\n")[2].partition("\n## ")[0]
    rows = [line.strip("| ").split(" | ", 1) for line in section.splitlines() if line.startswith("| ")]
    return [{"name": row[0], "value": row[1]} for row in rows if len(row) == 2 and row[0]]


def _course(lines: str) -> list[dict[str, Any]]:
    """Read metrics.jsonl: an object a line; what is no number that JSON knows becomes null."""
    course = []
    for line in lines.splitlines():
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(row, dict):
            course.append(
                {
                    str(key): value
                    for key, value in row.items()
                    if isinstance(value, str | int) or (isinstance(value, float) and isfinite(value))
                }
            )
    return course
