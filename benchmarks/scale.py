"""Large texts and large vocabularies: how fast a text is tokenised, and what a million words cost.

    python benchmarks/scale.py tokenise TEXT [--megabytes 1000] [--processes N] [--suffixes 1000000000]
    python benchmarks/scale.py vocabulary [--words 1000000] [--steps 20] [--embedding-cutoffs 20000,100000]

`tokenise` repeats a text up to a size, as a file that is removed at the end: from the second time on one word
in a hundred gets a number behind it, one of `--suffixes`: many, and the vocabulary grows with the text; few,
and it is soon the same for any size, and so is the memory. The file is tokenised as
`glassgate train` does it, in a process of its own so that its memory can be told; figures are MB/s by the
clock and for each second of one processor, and the most memory that a process took. Beside it stands what the
`tokenizers` library takes for the first 4 MB, counting and numbering, for each second of one processor too;
both cut it as the text suggests.

`vocabulary` trains on words drawn from a Zipf distribution over so many words, with the defaults of
`glassgate train`: seconds to write and read the vocabulary, words/s, the time of a validation, a checkpoint
and a load, the size of the files, and peak memory.
"""

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer, trainers

from glassgate.folder.cutting import library_tokenizer
from glassgate.folder.vocabulary import UNK, Vocabulary
from glassgate.language.corpus import Corpus, TextOptions, prepare
from glassgate.language.text import detect_tokens, open_text
from glassgate.language.tokenising import dtype_of

COMPARED = 4_000_000  # bytes that the library is given
CHANGED = 100  # one word in so many
SUFFIXES = 10**9  # numbers that may stand behind it


def enlarge(text: Path, path: Path, size: int, suffixes: int = SUFFIXES) -> None:
    """Write a text again and again, changed a little each time, until it has so many bytes."""
    with open_text(text) as stream:
        data = stream.read()
    words = (data if data.endswith(b"\n") else data + b"\n").split(b" ")
    generator = np.random.default_rng(1)
    with path.open("wb") as file:
        data = b" ".join(words)
        while (left := size - file.tell()) >= len(data):
            file.write(data)
            data = b" ".join(changed(words, suffixes, generator))
        data = data[:left]
        file.write(data[: max(data.rfind(b"\n"), data.rfind(b" ")) + 1])  # whole words


def changed(words: list[bytes], suffixes: int, generator: np.random.Generator) -> list[bytes]:
    """Give one word in a hundred a number, of so many; words with a line end stay as they are."""
    result = list(words)
    places = generator.integers(len(words), size=len(words) // CHANGED)
    for place, number in zip(
        places.tolist(), generator.integers(suffixes, size=len(places)).tolist(), strict=True
    ):
        if b"\n" not in words[place]:
            result[place] = words[place] + str(number).encode()
    return result


def library_seconds(data: str, tokens: str, lowercase: bool) -> float:
    """Return the processor seconds of the library for counting and numbering a text, line by line."""
    lines = data.split("\n")
    started = time.process_time()
    counter: Tokenizer = library_tokenizer({}, tokens, lowercase)  # type: ignore[arg-type]
    counter.train_from_iterator(lines, trainers.WordLevelTrainer(vocab_size=2**31, show_progress=False))
    numbers = {UNK: 0} | {word: n + 1 for n, word in enumerate(counter.get_vocab())}
    library_tokenizer(numbers, tokens, lowercase).encode_batch_fast(lines)  # type: ignore[arg-type]
    return time.process_time() - started


def tokenise(text: Path, folder: Path, processes: int | None) -> dict[str, float | str]:
    """Tokenise a text and return the figures of this process and of those that it started."""
    started, before = time.perf_counter(), processor_seconds()
    corpus = prepare([text], [], [], TextOptions(), folder, lambda line: None, processes=processes)
    seconds, used = time.perf_counter() - started, processor_seconds() - before
    peak = memory("VmHWM")  # before the map is read, whose pages count as this process's own
    size = text.stat().st_size / 1e6
    tokens = sum(len(part) for part in (corpus.train, corpus.valid, corpus.test) if part is not None)
    started = time.perf_counter()
    total = sum(int(corpus.train[n : n + (1 << 22)].sum()) for n in range(0, len(corpus.train), 1 << 22))
    return {
        "text, MB": size,
        "tokens": f"{tokens:,}, the numbers' sum {total:,}",
        "vocabulary": f"{len(corpus.vocabulary):,}",
        "seconds": seconds,
        "MB/s by the clock": size / seconds,
        "MB for a processor second": size / used,
        "reading the map, MB/s": corpus.train.nbytes / 1e6 / (time.perf_counter() - started),
        "peak memory of the first process, MB": peak,
        "peak memory of another, MB": resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1e3,
    }


def processor_seconds() -> float:
    """Return the processor time of this process and of those it has waited for."""
    both = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in both)


def vocabulary(words: int, steps: int, narrow: tuple[int, ...], folder: Path) -> dict[str, float | str]:
    """Train on drawn words and return what each thing took."""
    from rich.console import Console

    from glassgate.folder.model import TOKENIZER, WEIGHTS, read_folder
    from glassgate.language.options import TrainOptions
    from glassgate.language.trainer import CHECKPOINT, WORK, Trainer

    result: dict[str, float | str] = {}

    def timed(name: str, call: Callable[[], Any]) -> Any:
        started, used = time.perf_counter(), time.process_time()
        value = call()
        seconds = time.perf_counter() - started
        result[name] = (
            f"{seconds:,.1f} s, processor {time.process_time() - used:,.1f} s, then {memory('VmRSS'):,.0f} MB"
        )
        print(f"{name:<44} {result[name]}", flush=True)
        return value

    count = {f"w{n}": words - n for n in range(words - 2)}
    known = timed("numbering the words", lambda: Vocabulary.from_counts(count, tokens="spaces"))
    timed("writing tokenizer.json", lambda: known.save(folder / TOKENIZER))
    result["tokenizer.json, MB"] = (folder / TOKENIZER).stat().st_size / 1e6
    timed("reading tokenizer.json", lambda: Vocabulary.load(folder / TOKENIZER))
    share = 1 / np.arange(1, words + 1)
    drawn = np.random.default_rng(1).choice(words, 4_000_000, p=share / share.sum())
    tokens = drawn.astype(dtype_of(words))
    corpus = Corpus(known, "line", tokens, tokens[:20_000], None, "drawn")
    (folder / WORK).mkdir()
    trainer = timed(
        "making the network",
        lambda: Trainer(
            folder, TrainOptions(minutes=60, embedding_cutoffs=narrow), corpus, Console(quiet=True)
        ),
    )
    result["network"] = str(trainer.plan.config)
    trainer.writes = True
    from glassgate.folder.files import write_atomically
    from glassgate.folder.model import CONFIG

    write_atomically(folder / CONFIG, trainer.plan.config.to_json())
    timed("the first three steps", lambda: [trainer.step(1e-3) for _ in range(3)])
    started, used = time.perf_counter(), time.process_time()
    timed(f"{steps} steps", lambda: [trainer.step(1e-3) for _ in range(steps)])
    read = steps * trainer.plan.batch * trainer.plan.unroll
    result["words/s"] = read / (time.perf_counter() - started)
    result["words for a processor second"] = read / (time.process_time() - used)
    timed("bringing all rows up to date", trainer.optimizer.catch_up)
    timed("taking the weights into their mean", trainer.average.add)
    timed("a validation, the best weights written", trainer._validate)
    timed("a checkpoint", trainer._save)
    result["checkpoint, MB"] = (folder / WORK / CHECKPOINT).stat().st_size / 1e6
    result["model.safetensors, MB"] = (folder / WEIGHTS).stat().st_size / 1e6
    timed("reading the folder's words", lambda: read_folder(folder))
    result["peak memory, MB"] = memory("VmHWM")
    return result


def memory(name: str) -> float:
    """Return a line of what the system tells of this process's memory, in MB."""
    status = Path("/proc/self/status").read_text()
    return next(int(row.split()[1]) * 1024 / 1e6 for row in status.splitlines() if row.startswith(name))


def main() -> None:
    """Run one of the two and print its figures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=("tokenise", "vocabulary", "alone"))
    parser.add_argument("text", nargs="?", type=Path)
    parser.add_argument("--megabytes", type=int, default=1000)
    parser.add_argument("--processes", type=int)
    parser.add_argument("--suffixes", type=int, default=SUFFIXES)
    parser.add_argument("--words", type=int, default=1_000_000)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--embedding-cutoffs", default="")
    arguments = parser.parse_args()
    result: dict[str, float | str] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if arguments.what == "vocabulary":
            narrow = tuple(map(int, filter(None, arguments.embedding_cutoffs.split(","))))
            result = vocabulary(arguments.words, arguments.steps, narrow, folder)
        elif arguments.text is None:
            parser.error("TEXT: expected a text to repeat")
        elif arguments.what == "alone":  # the process whose memory is told
            result = tokenise(arguments.text, folder, arguments.processes)
        else:
            large = folder / "large.txt"
            enlarge(arguments.text, large, arguments.megabytes * 1_000_000, arguments.suffixes)
            with large.open(encoding="utf-8", errors="ignore") as file:
                sample = file.read(COMPARED)
            library = library_seconds(sample, detect_tokens([large]), False)
            print(
                f"{'the library, MB for a processor second':<44} {len(sample.encode()) / 1e6 / library:,.2f}"
            )
            further = ["--processes", str(arguments.processes)] if arguments.processes else []
            command = [sys.executable, __file__, "alone", str(large), *further]
            sys.exit(subprocess.run(command, env={**os.environ, "TMPDIR": name}).returncode)
    for key, value in result.items():
        if not str(value).endswith(" MB"):  # those are printed when they are done
            print(f"{key:<44} {value:,.2f}" if isinstance(value, float) else f"{key:<44} {value}")


if __name__ == "__main__":
    main()
