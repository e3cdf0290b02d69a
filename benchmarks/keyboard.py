"""Typing with suggestions: our model beside Debian's presage and an n-gram, on the same text.

All learn from the texts of a folder, one of which is left out for the test, cut into the same tokens: those
of our model, whose rarer words no program knows. Then each types the test, in a process of its own, bound to
one core: before the first letter and after each it shows its best words of those that begin so, and a shown
word is entered for one key (`glassgate.language.keyboard`). Told are keystroke savings, over all tokens and
over those with a letter alone, recall of the words shown before the first letter, and the wait after keys.

    python benchmarks/keyboard.py FOLDER [--test persuasion.txt.gz] [--model DIR] [--words N] [--json]

Without --model ours is trained, for --minutes. The others:

* presage 0.9.1 (Debian: `apt install presage`): its text2ngram counts, its library predicts. Once held to
  the rules of the others: it is asked for more words, of which those that begin otherwise, in upper and lower
  case, are left out. Once as shipped, but keeping upper and lower case and without learning as it goes, which
  ends it: it knows every word of the training texts, looks for words of the recent past too, and does not
  show a word again that was passed over.
* KenLM (`pip install kenlm==0.3.0`; lmplz and build_binary, built from its source, on the PATH): an n-gram of
  modified Kneser-Ney smoothing, interpolated. It tells how probable a word is, not which is the best: each is
  asked for, and no wait is told.

A program that is absent is skipped, and a line says so.
"""

import argparse
import ctypes
import json
import multiprocessing
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict
from importlib import import_module, metadata
from itertools import accumulate
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from glassgate.folder.model import WEIGHTS, read_folder
from glassgate.folder.vocabulary import EOS, UNK, Vocabulary
from glassgate.language.keyboard import Keyboard, Percentiles
from glassgate.language.text import find_files, read_segments
from glassgate.runtime import load
from glassgate.runtime.prefixes import Prefixes

STAND_IN = "unknownword"  # for a word that nobody is to know: letters alone, as presage needs it
PAST = 300  # characters of the text before, which presage is shown: ten times what it looks at
ASKED = 30  # words that presage is asked for, where some are left out
SHIPPED = Path("/etc/presage.xml")
RANKS = (1, 3)


class SkippedError(Exception):
    """Why a program cannot take part."""


class Program(Protocol):
    """What types: it reads a token, as far as it knows it, and suggests words."""

    def read(self, word: str, known: bool) -> None: ...
    def suggest(self, begun: str, count: int) -> list[str]: ...


class Ours:
    """A session of the runtime."""

    def __init__(self, model: Path, work: Path) -> None:
        self.model = load(model)
        self.session = self.model.session()
        self.size = (model / WEIGHTS).stat().st_size + (model / "tokenizer.json").stat().st_size
        if self.model.vocabulary.eos is None:
            raise SkippedError("the model knows no <eos>: its first word could not be predicted")

    def read(self, word: str, known: bool) -> None:
        self.session.feed(word if known else UNK)

    def suggest(self, begun: str, count: int) -> list[str]:
        return [word for word, _ in self.session.predict(count + 1, begun) if word != EOS][:count]


class NGram:
    """KenLM: each word is scored after the words before it."""

    def __init__(self, model: Path, work: Path) -> None:
        try:
            self.kenlm: Any = import_module("kenlm")
        except ImportError:
            raise SkippedError("kenlm is not installed") from None
        binary = work / "model.kenlm"
        if not binary.exists():
            raise SkippedError("lmplz and build_binary are not on the PATH")
        self.model = self.kenlm.Model(str(binary))
        self.size = binary.stat().st_size
        _, vocabulary = read_folder(model)
        self.prefixes, self.words = Prefixes(vocabulary), vocabulary.words
        self._begin()

    def _begin(self) -> None:
        self.state, self.scores = self.kenlm.State(), np.zeros(0)
        self.model.BeginSentenceWrite(self.state)

    def read(self, word: str, known: bool) -> None:
        if word == EOS:
            self._begin()
            return
        after = self.kenlm.State()
        self.model.BaseScore(self.state, word if known else STAND_IN, after)
        self.state, self.scores = after, np.zeros(0)

    def suggest(self, begun: str, count: int) -> list[str]:
        if not self.scores.size:
            score, state, unread = self.model.BaseScore, self.state, self.kenlm.State()
            self.scores = np.array([score(state, word, unread) for word in self.words])
        allowed = self.prefixes.words(begun)
        best = allowed[np.argsort(-self.scores[allowed], kind="stable")[:count]]
        return [self.words[number] for number in best]


class Presage:
    """Presage through its C interface, held to the rules of the others."""

    NAME = "held"
    FILTERED = True

    def __init__(self, model: Path, work: Path) -> None:
        config = work / f"{self.NAME}.xml"
        if not config.exists():
            raise SkippedError("presage is not installed")
        self.size = (work / f"{self.NAME}.db").stat().st_size
        self.library = ctypes.CDLL("libpresage.so.1")
        callback = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p)
        self.past, self.buffer = "", ctypes.create_string_buffer(4 * PAST + 200)
        self.nothing = ctypes.create_string_buffer(1)
        # Kept: presage calls them for as long as it lives.
        self.callbacks = (
            callback(lambda _: ctypes.addressof(self.buffer)),
            callback(lambda _: ctypes.addressof(self.nothing)),
        )
        self.presage = ctypes.c_void_p()
        code = self.library.presage_new_with_config(
            self.callbacks[0], None, self.callbacks[1], None, str(config).encode(), ctypes.byref(self.presage)
        )
        if code:
            raise SkippedError(f"presage does not start: error {code}")

    def read(self, word: str, known: bool) -> None:
        text = "\n" if word == EOS else f"{word if known or not self.FILTERED else STAND_IN} "
        self.past = (self.past + text)[-PAST:]

    def suggest(self, begun: str, count: int) -> list[str]:
        self.buffer.value = (self.past + begun).encode()
        found = ctypes.POINTER(ctypes.c_char_p)()
        code = self.library.presage_predict(self.presage, ctypes.byref(found))
        if code:
            raise RuntimeError(f"presage failed: error {code}")
        words: list[str] = []
        while (word := found[len(words)]) is not None:
            words.append(word.decode())
        self.library.presage_free_string_array(found)
        if self.FILTERED:
            words = [word for word in words if word.startswith(begun) and word != STAND_IN]
        return words[:count]


class PresageAsShipped(Presage):
    """Presage with all that its configuration switches on."""

    NAME = "shipped"
    FILTERED = False


PROGRAMS: dict[str, type[Ours] | type[NGram] | type[Presage]] = {
    "glassgate": Ours,
    "KenLM": NGram,
    "presage": Presage,
    "presage as shipped": PresageAsShipped,
}


def tokens(files: list[Path], vocabulary: Vocabulary, eos: Any) -> Iterator[list[str]]:
    """Yield each paragraph, or line, as the model cuts it; ``<eos>`` ends it where there is one."""
    line: list[str] = []
    for segment in read_segments(files, eos):
        line += vocabulary.cut(segment.text)
        if segment.ends:
            yield [*line, EOS]
            line = []
    if line:
        yield line


def type_text(program: Program, text: list[str], vocabulary: Vocabulary, shown: int) -> dict[str, Any]:
    """Type a text, and return what it took."""
    numbers = {word: number for number, word in enumerate(vocabulary.words)}
    prefixes = Prefixes(vocabulary)
    boards = {name: Keyboard(vocabulary, prefixes, shown) for name in ("all tokens", "words")}
    hits, after_word, after_letter = dict.fromkeys(RANKS, 0), [0.0], []
    now = program.suggest("", shown)
    for word in text:
        if word != EOS:
            for k in RANKS:
                hits[k] += word in now[:k]
            needed = None
            for count, begun in enumerate(("", *accumulate(word))):
                if begun:
                    started = time.perf_counter()
                    now = program.suggest(begun, shown)
                    after_letter.append(time.perf_counter() - started)
                if word in now:
                    needed = count
                    break
            for name, board in boards.items():
                if name == "all tokens" or any(map(str.isalpha, word)):
                    board.enter(numbers.get(word, -1), word, needed)
        started = time.perf_counter()
        program.read(word, word in numbers)
        now = program.suggest("", shown)
        after_word.append(time.perf_counter() - started)
    words = boards["all tokens"].words
    result: dict[str, Any] = {}
    for name, board in boards.items():
        result[f"savings, {name}"] = board.savings
        result[f"ceiling, {name}"] = board.ceiling
    result |= {f"recall@{k}": hit / words for k, hit in hits.items() if k <= shown}
    if not isinstance(program, NGram):
        result["after a word"] = asdict(Percentiles.of(after_word[1:]))
        result["after a letter"] = asdict(Percentiles.of(after_letter))
    return result


def measure(name: str, model: Path, work: Path, text: list[str], shown: int, core: int) -> dict[str, Any]:
    """Type in this process, which has one core."""
    os.sched_setaffinity(0, {core})
    try:
        program = PROGRAMS[name](model, work)
    except (SkippedError, OSError) as reason:
        return {"skipped": str(reason)}
    _, vocabulary = read_folder(model)
    result = type_text(program, text, vocabulary, shown)
    return result | {"on disk, MB": program.size / 1e6}


def train_peers(work: Path, lines: Iterator[list[str]], known: set[str], order: int, shown: int) -> None:
    """Let the tools of the peers learn; what is absent leaves nothing."""
    plain, every = work / "held.txt", work / "shipped.txt"
    with plain.open("w", encoding="utf-8") as file, every.open("w", encoding="utf-8") as other:
        for line in lines:
            words = [word for word in line if word != EOS]
            other.write(" ".join(words) + "\n")
            file.write(" ".join(word if word in known else STAND_IN for word in words) + "\n")
    if (lmplz := shutil.which("lmplz")) and (binary := shutil.which("build_binary")):
        arpa = work / "model.arpa"
        command = [lmplz, "-o", str(order), "-S", "1G", "-T", str(work / "lmplz"), "--discount_fallback"]
        _run([*command, "--text", str(plain), "--arpa", str(arpa)])
        _run([binary, "-s", "trie", str(arpa), str(work / "model.kenlm")])
    if (counter := shutil.which("text2ngram")) and SHIPPED.exists():
        # The text is not lowered: nor is what presage counted, nor what it is to suggest. Learning while it
        # predicts, 0.9.1 was ended by an assertion of its own within 300 words.
        shipped = {"SUGGESTIONS": str(shown), "LOWERCASE_MODE": "no", "ONLINE_LEARNING": "no"}
        held = {"PREDICTORS": "DefaultSmoothedNgramPredictor", "REPEAT_SUGGESTIONS": "yes"}
        held = shipped | held | {"SUGGESTIONS": str(ASKED)}
        for text, values in ((plain, held), (every, shipped)):
            database, configuration = text.with_suffix(".db"), SHIPPED.read_text()
            for n in (1, 2, 3):  # as many as its predictor mixes
                _run([counter, "-n", str(n), "-f", "sqlite", "-a", "-o", str(database), str(text)])
            configuration = configuration.replace("/usr/share/presage/database_en.db", str(database))
            configuration = configuration.replace("${HOME}/.presage/lm.db", str(work / "learned.db"))
            text.with_suffix(".xml").write_text(_set(configuration, **values))


def _run(command: list[str]) -> None:
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def _set(configuration: str, **values: str) -> str:
    for name, value in values.items():
        configuration = re.sub(f"<{name}>[^<]*<", f"<{name}>{value}<", configuration)
    return configuration


def machine() -> dict[str, str]:
    """Return where this runs, and what."""
    cpu = re.search(r"model name\s*:\s*(.*)", Path("/proc/cpuinfo").read_text())
    found = {
        "machine": f"{cpu[1] if cpu else platform.machine()}, {os.cpu_count()} processors",
        "load before": f"{os.getloadavg()[0]:.1f}",
        "Python": platform.python_version(),
    }
    for name in ("glassgate", "numpy", "kenlm"):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "absent"
    if tool := shutil.which("text2ngram"):
        told = subprocess.run([tool, "--version"], capture_output=True, text=True).stdout
        found["presage"] = told.splitlines()[0].split()[-1]
    return found


def check(found: dict[str, Any], model: Path, text: Path, shown: int) -> None:
    """End with an error where typing gave other savings than `glassgate evaluate`."""
    from glassgate.language.evaluation import evaluate

    loaded = load(model)
    keyboard = Keyboard(loaded.vocabulary, loaded.prefixes, shown)
    expected = evaluate(loaded, [text], keyboard=keyboard).keystroke_savings
    # One product with V sums in another order than many: of words that nearly tie another may come first.
    if abs(expected - found["savings, all tokens"]) > 1e-3:
        sys.exit(f"typed: {found['savings, all tokens']:.4f}, evaluated: {expected:.4f}: nothing is told")


def behind(results: dict[str, dict[str, Any]]) -> Iterator[str]:
    """Name every figure in which another program is ahead of ours."""
    for name, other in results.items():
        for key, value in results["glassgate"].items():
            if key.startswith("after") and key in other:
                for p in ("p50", "p99"):
                    if other[key][p] < value[p]:
                        yield f"{name}: {key}, {p} {other[key][p]:.2f} ms, ours {value[p]:.2f} ms"
            elif key.startswith(("savings", "recall")) and other[key] > value:
                yield f"{name}: {key} {other[key]:.2%}, ours {value:.2%}".replace("%", " %")
            elif key.endswith("MB") and other[key] < value:
                yield f"{name}: {key} {other[key]:.1f}, ours {value:.1f}"


def show(results: dict[str, dict[str, Any]]) -> None:
    columns = ["savings, all tokens", "savings, words", "recall@1", "recall@3"]
    for name, result in results.items():
        print(f"\n{name}")
        for column in columns:
            if column in result:
                top = f"  (ceiling: {result[column.replace('savings', 'ceiling')]:.2%})" * ("sav" in column)
                print(f"  {column:<22}{result[column]:.2%}{top}".replace("%", " %"))
        for key in ("after a word", "after a letter"):
            if key in result:
                times = ", ".join(f"{p} {result[key][p]:.2f} ms" for p in ("p50", "p95", "p99"))
                print(f"  {key:<22}{times}  ({result[key]['keys']:,} keys)")
        print(f"  {'on disk, MB':<22}{result['on disk, MB']:.1f}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="texts, .txt or .txt.gz")
    parser.add_argument("--test", default="persuasion.txt.gz", help="which of them is typed")
    parser.add_argument("--model", type=Path, help="a folder that was trained on the others")
    parser.add_argument("--minutes", type=float, default=15, help="of training, without --model")
    parser.add_argument("--words", type=int, default=0, help="type so many tokens only, the text's first")
    parser.add_argument("--suggestions", type=int, default=3)
    parser.add_argument("--order", type=int, default=5, help="of the n-gram")
    parser.add_argument("--core", type=int, default=0)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    shown, model = arguments.suggestions, arguments.model
    test = arguments.folder / arguments.test
    train = [file for file in find_files([arguments.folder]) if file != test]
    if not test.exists():
        parser.error(f"{test} is missing")
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        if model is None:
            model = work / "model"
            words = [*map(str, train), "--test", str(test), "--minutes", str(arguments.minutes)]
            command = [sys.executable, "-m", "glassgate", "train", *words, "--out", str(model)]
            subprocess.run(command, check=True)
        config, vocabulary = read_folder(model)
        text: list[str] = []
        pieces: list[str] = []
        for segment in read_segments([test], config.eos):
            text += [*vocabulary.cut(segment.text), *[EOS] * segment.ends]
            pieces.append(segment.text)
            if 0 < arguments.words <= len(text):
                break
        typed = work / "typed.txt"
        between = "\n\n" if config.eos == "paragraph" else "\n"
        typed.write_text(between.join(pieces) + "\n", encoding="utf-8")
        about, known = machine(), set(vocabulary.words)
        train_peers(work, tokens(train, vocabulary, config.eos), known, arguments.order, shown)
        results: dict[str, dict[str, Any]] = {}
        for program in PROGRAMS:
            with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
                asked = process.submit(measure, program, model, work, text, shown, arguments.core)
                try:
                    results[program] = asked.result()
                except BrokenProcessPool:
                    results[program] = {"skipped": "its process came to a sudden end"}
        check(results["glassgate"], model, typed, shown)
    skipped = {name: result["skipped"] for name, result in results.items() if "skipped" in result}
    whole = {name: result for name, result in results.items() if name not in skipped}
    unknown = sum(word not in known for word in text) / len(text)
    about |= {
        "text": f"{test.name}, {len(text):,} tokens, {unknown:.2%} of them unknown; the others train",
        "words known": f"{len(vocabulary):,}",
        "suggestions": str(shown),
        "n-gram": f"order {arguments.order}, modified Kneser-Ney, interpolated",
    }
    if arguments.json:
        print(json.dumps({"about": about, **whole, "skipped": skipped}))
        return
    for key, value in about.items():
        print(f"{key:<14}{value}")
    show(whole)
    for name, reason in skipped.items():
        print(f"\n{name}: skipped: {reason}")
    losses = list(behind(whole))
    print("\nBehind:" if losses else "\nBehind in nothing.")
    print("".join(f"  {line}\n" for line in losses), end="")


if __name__ == "__main__":
    main()
