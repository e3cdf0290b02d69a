"""The OpenAI API's completions, so that existing clients work."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, field
from math import log as ln
from secrets import randbelow, token_hex
from sys import float_info
from time import monotonic, time
from typing import Any

from glassgate.errors import GlassgateError
from glassgate.runtime.detokenise import Detokeniser
from glassgate.runtime.output import Best
from glassgate.runtime.sampling import Sampling
from glassgate.server.answers import Answer, RefusedError, Stream, as_json
from glassgate.server.bodies import BodyError, Completion
from glassgate.server.engine import LateError
from glassgate.server.readers import Token, Writer
from glassgate.server.service import STREAM_SECONDS, WRITE_SECONDS, Service

__all__ = ["Completions"]

SEEDS = 2**31
TOGETHER = 16  # words that a completion which is not streamed takes over at once


@dataclass(frozen=True)
class Entry:
    """A token as it is written."""

    text: str
    log: float | None = None  #: of its probability; None: not known
    top: dict[str, float] | None = None  #: the most probable tokens in its place
    written: bool = True  #: or a part of the prompt


@dataclass(frozen=True)
class Part:
    """What a choice has come to: tokens, and at its end why it ended."""

    entries: list[Entry]
    finish: str | None = None


@dataclass
class Choice:
    """One text that is written on."""

    index: int
    words: Sequence[str]  #: of the prompt
    numbers: Sequence[int]  #: that are read for it
    writer: Writer | None  #: None where nothing has to be computed
    write: Detokeniser = field(default_factory=Detokeniser)
    offset: int = 0  #: where its next token stands


class Completions:
    """``/v1/completions`` and ``/v1/models``.

    Parameters
    ----------
    service
        Whose model it is.
    """

    def __init__(self, service: Service) -> None:
        self.service = service
        self._spelling = service.model.vocabulary.words
        self._model = {"id": service.name, "object": "model", "created": int(time()), "owned_by": "glassgate"}

    async def models(self, _: None) -> Answer:
        """List the one model."""
        return Answer(as_json({"object": "list", "data": [self._model]}))

    async def model(self, _: None) -> Answer:
        """Tell of the one model."""
        return Answer(as_json(self._model))

    async def complete(self, body: Completion) -> Answer | Stream:
        """Write on from one or several prompts."""
        if body.model not in (None, self.service.name):
            raise RefusedError(404, f"model: {self.service.name!r} is served here, got {body.model[:60]!r}")
        choices = self._choices(body)
        head = {
            "id": f"cmpl-{token_hex(12)}",
            "object": "text_completion",
            "created": int(time()),
            "model": self.service.name,
        }
        if body.stream:
            try:
                for choice in choices:
                    if choice.writer is not None:
                        await choice.writer.begin()
            except BaseException:  # where the client went away, too
                _give_up(choices)
                raise
            return Stream(self._events(choices, body, head), lambda: _give_up(choices))
        try:
            parts = await asyncio.gather(*(self._whole(choice, body) for choice in choices))
        finally:
            _give_up(choices)
        entries = [entry for part in parts for entry in part.entries]
        found = [
            self._shown(choice, part, body.logprobs) for choice, part in zip(choices, parts, strict=True)
        ]
        return Answer(as_json({**head, "choices": found, "usage": _usage(choices, body, entries)}))

    def _choices(self, body: Completion) -> list[Choice]:
        """Plan what is read and written, and hand it to the engine, all or nothing."""
        words = 16 if body.max_tokens is None else body.max_tokens
        seed = randbelow(SEEDS) if body.seed is None else body.seed
        scored = bool(body.echo) and body.logprobs is not None
        limit = STREAM_SECONDS if body.stream else WRITE_SECONDS
        choices: list[Choice] = []
        for spelled, numbers in map(self._prompt, _prompts(body)):
            for _ in range(body.n or 1):
                index = len(choices)
                writer = None
                if words or (scored and len(numbers) > 1):
                    sampling = Sampling(
                        temperature=1.0 if body.temperature is None else body.temperature,
                        top_p=1.0 if body.top_p is None else body.top_p,
                        seed=(seed + index) % SEEDS,
                    )
                    writer = Writer(
                        numbers,
                        words,
                        sampling,
                        len(self._spelling),
                        monotonic() + limit,
                        top=body.logprobs or 0,
                        score=scored,
                        together=1 if body.stream else TOGETHER,
                    )
                choices.append(Choice(index, spelled, numbers, writer))
        self.service.write([choice.writer for choice in choices if choice.writer is not None], limit)
        return choices

    def _prompt(self, prompt: str | list[int]) -> tuple[Sequence[str], list[int]]:
        """Return a prompt's words and the numbers that are read for them."""
        vocabulary = self.service.model.vocabulary
        if isinstance(prompt, str):
            words = vocabulary.cut(prompt)
            numbers = self.service.model.numbers(prompt, unknown=True)
        elif max(prompt) < len(self._spelling):
            words, numbers = [self._spelling[number] for number in prompt], prompt
        else:
            raise BodyError(f"prompt: word numbers must be below {len(self._spelling)}, got {max(prompt)}")
        begun = bool(numbers) and numbers[0] == vocabulary.eos  # as evaluation programs begin: once is enough
        return words, numbers if begun else self.service.begun(numbers)

    async def _parts(self, choice: Choice, body: Completion) -> AsyncGenerator[Part, None]:
        """Yield what is written; text that may be the beginning of a stop waits until it is known."""
        tokens = choice.writer.tokens() if choice.writer is not None else None
        scores = len(choice.numbers) - 1 if body.echo and body.logprobs is not None and tokens else 0
        for place, word in enumerate(choice.words):
            known = place >= len(choice.words) - scores
            token = await anext(tokens) if tokens is not None and known else None
            text, top = self._written(choice, word, token, body)
            if body.echo:
                yield Part([Entry(text, None if token is None else token.log, top, written=False)])
            else:
                choice.offset += len(text)
        stops = [body.stop] if isinstance(body.stop, str) else body.stop or []
        held: list[Entry] = []
        if tokens is not None and body.max_tokens != 0:
            async for token in tokens:
                text, top = self._written(choice, self._spelling[token.number], token, body)
                held.append(Entry(text, token.log, top))
                if not stops:
                    yield Part(held)
                    held = []
                    continue
                kept = _until_stop(held, stops)
                if kept is not None:
                    choice.writer.cancelled = True  # type: ignore[union-attr]
                    yield Part(kept, "stop")
                    return
                if not _may_begin("".join(entry.text for entry in held), stops):
                    yield Part(held)
                    held = []
        yield Part(held, "length")

    def _written(
        self, choice: Choice, word: str, token: Token | None, body: Completion
    ) -> tuple[str, dict[str, float] | None]:
        """Write a word; return its text, and the texts of the most probable ones in its place."""
        top = None
        if token is not None and body.logprobs is not None:
            top = self._alternatives(token.top, choice.write)
        return choice.write(word), top

    def _alternatives(self, best: Best, write: Detokeniser) -> dict[str, float]:
        found: dict[str, float] = {}
        for number, y in zip(best[0].tolist(), best[1].tolist(), strict=True):
            found.setdefault(write.fork()(self._spelling[number]), ln(max(y, float_info.min)))
        return found

    async def _whole(self, choice: Choice, body: Completion) -> Part:
        entries, finish = [], None
        async for part in self._parts(choice, body):
            entries += part.entries
            finish = part.finish
        return Part(entries, finish)

    async def _events(
        self, choices: Sequence[Choice], body: Completion, head: dict[str, Any]
    ) -> AsyncGenerator[str, None]:
        """Yield the parts of all choices as they come."""
        queue: asyncio.Queue[tuple[Choice, Part | Exception]] = asyncio.Queue()

        async def forward(choice: Choice) -> None:
            try:
                async for part in self._parts(choice, body):
                    queue.put_nowait((choice, part))
            except Exception as error:
                queue.put_nowait((choice, error))

        tasks = [asyncio.create_task(forward(choice)) for choice in choices]
        entries: list[Entry] = []
        going = len(choices)
        try:
            while going:
                choice, part = await queue.get()
                if isinstance(part, Exception):
                    if not isinstance(part, GlassgateError | LateError):
                        raise part
                    yield RefusedError(503, "the server: could not go on").answer().body.decode()
                    return
                entries += part.entries
                going -= part.finish is not None
                if part.entries or part.finish:
                    shown = self._shown(choice, part, body.logprobs)
                    yield as_json({**head, "choices": [shown]}).decode()
            if body.stream_options is not None and body.stream_options.include_usage:
                yield as_json({**head, "choices": [], "usage": _usage(choices, body, entries)}).decode()
            yield "[DONE]"
        finally:
            for task in tasks:
                task.cancel()

    def _shown(self, choice: Choice, part: Part, logprobs: int | None) -> dict[str, Any]:
        """Show a part of a choice as the API does."""
        table = None
        if logprobs is not None:
            offsets, offset = [], choice.offset
            for entry in part.entries:
                offsets.append(offset)
                offset += len(entry.text)
            choice.offset = offset
            table = {
                "tokens": [entry.text for entry in part.entries],
                "token_logprobs": [entry.log for entry in part.entries],
                "top_logprobs": [entry.top for entry in part.entries],
                "text_offset": offsets,
            }
        text = "".join(entry.text for entry in part.entries)
        return {"index": choice.index, "text": text, "logprobs": table, "finish_reason": part.finish}


def _give_up(choices: Sequence[Choice]) -> None:
    """Free the engine of what nobody waits for any more."""
    for choice in choices:
        if choice.writer is not None:
            choice.writer.cancel()


def _prompts(body: Completion) -> list[str | list[int]]:
    prompt: Any = body.prompt
    return prompt if isinstance(prompt, list) and not isinstance(prompt[0], int) else [prompt]


def _usage(choices: Sequence[Choice], body: Completion, entries: Sequence[Entry]) -> dict[str, int]:
    read = sum(len(choice.words) for choice in choices) // (body.n or 1)
    written = sum(entry.written for entry in entries)
    return {"prompt_tokens": read, "completion_tokens": written, "total_tokens": read + written}


def _until_stop(entries: Sequence[Entry], stops: Sequence[str]) -> list[Entry] | None:
    """Return what stands before the first stop, or None where there is none."""
    text = "".join(entry.text for entry in entries)
    found = [place for stop in stops if (place := text.find(stop)) >= 0]
    if not found:
        return None
    kept, left = [], min(found)
    for entry in entries:
        if left <= 0:
            break
        kept.append(Entry(entry.text[:left], entry.log, entry.top))
        left -= len(entry.text)
    return kept


def _may_begin(text: str, stops: Sequence[str]) -> bool:
    """Tell whether a text ends with the beginning of a stop."""
    return any(text.endswith(stop[:size]) for stop in stops for size in range(1, len(stop)))
