"""Blocks of text turned into counts and word numbers, by as many processes as there are cores.

A process is started as a program of its own, that does what it is told on its standard input and answers
on its standard output. Block n goes to process n modulo their number, and answers are taken in the order
of the blocks: neither the result nor the first error depends on how many processes there are.
"""

import json
import os
import re
import signal
import subprocess
import sys
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from itertools import cycle
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from glassgate.errors import GlassgateError
from glassgate.folder.config import Eos
from glassgate.folder.cutting import Tokens, WordCounts
from glassgate.folder.files import write_atomically
from glassgate.folder.vocabulary import EOS, Vocabulary
from glassgate.language.blocks import Block
from glassgate.language.text import decode, reading

__all__ = ["Encoded", "Tokeniser", "dtype_of", "main"]

AHEAD = 2  # blocks that each process is given before its first answer is taken
PER_PROCESS = 8 << 20  # bytes of text that are worth a further process: it starts in half a second
EMPTY_LINES = re.compile(r"\n[^\S\n]*\n\s*")


class Encoded(NamedTuple):
    """The numbers of a block.

    Of paragraphs also whether an empty line comes before any text, whether there is text, and whether a
    paragraph is open at the end.
    """

    parted: bool
    filled: bool
    open: bool
    numbers: npt.NDArray[np.unsignedinteger]


class Tokeniser:
    r"""The processes that read a text; used in a ``with``, which ends them.

    Parameters
    ----------
    tokens, lowercase, eos
        How text becomes tokens.
    size
        Bytes of the text: of a small one no process is started, this one reads it.
    most
        Processes at the most.
    progress
        Called with the bytes of each block that was read.

    Examples
    --------
    >>> import tempfile
    >>> file = Path(tempfile.mkdtemp()) / "a.txt"
    >>> _ = file.write_text("the gate\nthe")
    >>> block = Block("a.txt", str(file), 0, 12, True, True)
    >>> with Tokeniser("spaces", False, "line", size=12, most=1, progress=lambda size: None) as tokeniser:
    ...     counts = tokeniser.count([block])
    ...     vocabulary = Vocabulary.from_counts(counts, tokens="spaces")
    ...     (encoded,) = tokeniser.encode([block], vocabulary, file.with_name("words"))
    >>> encoded.numbers.tolist()
    [2, 3, 1, 2, 1]
    """

    def __init__(
        self,
        tokens: Tokens,
        lowercase: bool,
        eos: Eos,
        *,
        size: int,
        most: int,
        progress: Callable[[int], None],
    ) -> None:
        count = max(1, min(most, size // PER_PROCESS))
        self.progress = progress
        self.eos = eos
        self.workers: list[_Here | _Process] = [_Process() for _ in range(count)] if count > 1 else [_Here()]
        for worker in self.workers:
            worker.ask("begin", tokens, lowercase, eos)

    def __enter__(self) -> "Tokeniser":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for worker in self.workers:
            worker.close()

    def count(self, blocks: Iterable[Block]) -> Counter[str]:
        """Count the words of a text.

        Raises
        ------
        GlassgateError
            When it cannot be read, or is no text.
        """
        for _ in self._each("count", blocks):
            pass
        for worker in self.workers:
            worker.ask("counted")
        total = Counter[str]()
        for worker in self.workers:
            answer = worker.answer()
            length = int.from_bytes(answer[:8], "little")
            counts = np.frombuffer(answer, np.int64, offset=8 + length).tolist()
            words = answer[8 : 8 + length].decode().split("\n")
            for word, count in zip(words if counts else (), counts, strict=True):
                total[word] += count
        return total

    def encode(self, blocks: Iterable[Block], vocabulary: Vocabulary, words: Path) -> Iterator[Encoded]:
        """Turn a text into word numbers.

        Parameters
        ----------
        blocks
            The text.
        vocabulary
            Numbers its words.
        words
            A file to be made, by which the processes learn the vocabulary.

        Raises
        ------
        GlassgateError
            As `count`; and when a word is unknown and the vocabulary is closed.
        """
        if not words.exists():
            write_atomically(words, "\n".join(vocabulary.words))
            for worker in self.workers:
                worker.ask("learn", str(words))
        dtype = dtype_of(len(vocabulary))
        for answer in self._each("encode", blocks):
            parted, filled, is_open = map(bool, answer[:3])
            yield Encoded(parted, filled, is_open, np.frombuffer(answer, dtype, offset=3))

    def _each(self, work: str, blocks: Iterable[Block]) -> Iterator[bytes]:
        """Give out blocks in turn, and take the answers in the same order."""
        given: deque[tuple[_Here | _Process, int]] = deque()
        for worker, block in zip(cycle(self.workers), blocks, strict=False):
            if len(given) == AHEAD * len(self.workers):
                yield self._next(given)
            worker.ask(work, *block)
            given.append((worker, block.stop - block.start))
        while given:
            yield self._next(given)

    def _next(self, given: "deque[tuple[_Here | _Process, int]]") -> bytes:
        worker, size = given.popleft()
        answer = worker.answer()
        self.progress(size)
        return answer


def dtype_of(words: int) -> np.dtype[np.unsignedinteger]:
    """Return in what a word's number is kept.

    Examples
    --------
    >>> dtype_of(65_536).name, dtype_of(65_537).name
    ('uint16', 'uint32')
    """
    return np.dtype("<u2" if words <= 1 << 16 else "<u4")


class _Work:
    """What is done with a block, in whatever process."""

    counts: WordCounts
    vocabulary: Vocabulary

    def do(self, work: str, arguments: list[Any]) -> bytes | None:
        """Do what is asked for; where nothing is to be answered, return None."""
        if work == "begin":
            self.tokens, self.lowercase, self.eos = arguments
            self.counts = WordCounts(self.tokens, self.lowercase)
            return None
        if work == "learn":
            words = Path(arguments[0]).read_text(encoding="utf-8").split("\n")
            numbers = {word: number for number, word in enumerate(words)}
            self.vocabulary = Vocabulary(numbers, self.tokens, self.lowercase)
            return None
        if work == "counted":
            counts = self.counts.words()
            self.counts = WordCounts(self.tokens, self.lowercase)
            words_in_one = "\n".join(counts).encode()
            numbers_in_one = np.fromiter(counts.values(), np.int64, len(counts)).tobytes()
            return len(words_in_one).to_bytes(8, "little") + words_in_one + numbers_in_one
        block = Block(*arguments)
        text = _read(block)
        if work == "count":
            self.counts.add(text)
            return b""
        return self._encode(text, block)

    def _encode(self, text: str, block: Block) -> bytes:
        parted = filled = is_open = False
        if self.eos == "line":
            unended = block.ends and bool(text) and not text.endswith("\n")
            text = text.replace("\n", f" {EOS} ") + f" {EOS}" * unended
        elif self.eos == "paragraph":
            body = text.lstrip()
            filled = bool(body)
            # The first line end may be that of a line that another block began.
            parted = text[: len(text) - len(body)].count("\n") > (0 if block.begins else 1)
            is_open = filled and body[len(body.rstrip()) :].count("\n") < 2
            text = EMPTY_LINES.sub(f" {EOS} ", body)
        numbers = np.fromiter(self.vocabulary.numbers(text), dtype_of(len(self.vocabulary)))
        return bytes((parted, filled, is_open)) + numbers.tobytes()


def _read(block: Block) -> str:
    name = Path(block.name)
    with reading(name), open(block.path, "rb") as file:
        file.seek(block.start)
        data = file.read(block.stop - block.start)
    if len(data) < block.stop - block.start:
        raise GlassgateError(f"{name}: was changed while it was read")
    return decode(data, name, block.start)


class _Here:
    """The work in this process."""

    def __init__(self) -> None:
        self.work = _Work()
        self.asked: deque[tuple[str, list[Any]]] = deque()

    def ask(self, work: str, *arguments: Any) -> None:
        self.asked.append((work, list(arguments)))

    def answer(self) -> bytes:
        while (answer := self.work.do(*self.asked.popleft())) is None:
            pass
        return answer

    def close(self) -> None:
        pass


class _Process:
    """The work in a process of its own."""

    def __init__(self) -> None:
        path = os.pathsep.join(filter(None, sys.path))
        command = [sys.executable, "-c", f"from {__name__} import main; main()"]
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": path, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"},
        )
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.input, self.output = self.process.stdin, self.process.stdout

    def ask(self, work: str, *arguments: Any) -> None:
        with suppress(BrokenPipeError):  # the answer will be missing
            self.input.write(json.dumps([work, arguments]).encode() + b"\n")
            self.input.flush()

    def answer(self) -> bytes:
        head = self.output.read(9)
        body = self.output.read(int.from_bytes(head[1:], "little"))
        if len(head) < 9 or len(body) < int.from_bytes(head[1:], "little"):
            code = self.process.wait()
            raise GlassgateError(f"the text: a process that read it ended before its work did, code {code}")
        if head[:1] == b"e":
            raise GlassgateError(body.decode())
        return body

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        self.output.close()
        with suppress(BrokenPipeError):
            self.input.close()


def main() -> None:
    """Do what is asked for on the standard input, a line of JSON each, until there is no more."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # who started this says when to stop
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    work, output = _Work(), sys.stdout.buffer
    for line in sys.stdin.buffer:
        try:
            kind, answer = b"a", work.do(*json.loads(line))
        except GlassgateError as error:
            kind, answer = b"e", str(error).encode(errors="replace")
        if answer is not None:
            output.write(kind + len(answer).to_bytes(8, "little"))
            output.write(answer)
            output.flush()
