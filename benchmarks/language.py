"""Words per second of training: ours beside a plain torch loop, on the same text in the same run.

The peer is written to the published configuration of PyTorch's word-level example: embedding 200,
two LSTM layers of 200, batch 20, unroll 35, dropout 0.2, full softmax, plain SGD with gradient
clipping. Ours trains the same network through the steps of `glassgate train`, once with the full and
once with the adaptive softmax. Where the processor has instructions for bfloat16, all three are there a
second time with products in bf16, the peer under torch's autocast: ratios are to the plain loop then as
well, and to that. First both are given the same weights and must find the same loss.
Then their steps are timed in turn, ours and the peer's within one round, and the median of the rounds
counts. `--profile` adds where the time of a step goes and what memory it takes: at the most, in a process
of its own, above weights and moments. `--words N` trains each on the first N words, `--epoch` on all of the
text once, and measures the perplexity of what was learned on held-out text, by the same function: the peer
at the example's constant rate of 20, ours by the one-cycle of `glassgate train` over the same words; twenty
times on the way ours is measured as well, for the seconds of training after which it is as good as the peer
at its end. At the end stand the bounds that the figures are to keep, each met or not.

    python benchmarks/language.py [TEXT] [--rounds 7] [--steps 2] [--profile] [--words N | --epoch] [--json]
    python benchmarks/language.py WIKITEXT-2/train.txt.gz --profile --epoch     # all figures; half an hour

Without TEXT the words are drawn from a Zipf distribution over 33,278 words, as many as WikiText-2 has.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from torch import Tensor, nn

from glassgate.folder.vocabulary import Vocabulary
from glassgate.language.corpus import Corpus, TextOptions, TokenArray, open_tokens, prepare
from glassgate.language.held_out import perplexity
from glassgate.language.options import TrainOptions
from glassgate.language.recipes import choose_precision
from glassgate.language.schedule import one_cycle
from glassgate.language.trainer import WORK, Trainer
from language_peer import BATCH, DROPOUT, UNROLL, WIDTH, Parts, Peer, new_peer, peer_loop

WORDS = 33_278
KINDS = ("peer", "full", "adaptive")
ROUNDED = ", bf16"  # behind a kind whose products are
RATE = 3e-3  # of ours where steps are timed alone; the peer's is 20
HELD_OUT = 50_000  # words that are measured
CHECKS = 20  # measurements of ours on its way
SPEEDUP = {"adaptive": 8.0, "full": 2.5}  # at least so many times the peer's words/s
WORST = 1.03  # of the peer's perplexity after one epoch, at the most, with the adaptive softmax
MEMORY = 1 / 3  # of the peer's, at the most, with the full softmax


def our_loop(trainer: Trainer, parts: Parts | None = None, steps: int = 0) -> Callable[[], None]:
    """Return a function that does one step of `glassgate train`: of so many, or one like another."""
    if parts is not None:
        parts.watch(trainer.model.embedding, trainer.model.rnn)
        for owner, name, before, after in (
            (trainer.model, "training_loss", None, "output"),
            (trainer.optimizer, "step", "embedding", "optimiser"),
        ):
            setattr(owner, name, _marked(getattr(owner, name), parts, before, after))
    if not steps:
        return partial(trainer.step, RATE)
    return lambda: trainer.step(trainer.plan.learning_rate * one_cycle(trainer.progress.step / steps))


def _marked(call: Callable[..., Any], parts: Parts, before: str | None, after: str) -> Callable[..., Any]:
    def marked(*arguments: Any) -> Any:
        if before is not None:
            parts.mark(before)
        result = call(*arguments)
        parts.mark(after)
        return result

    return marked


def kinds() -> tuple[str, ...]:
    """Return what competes here: in bf16 too where `glassgate train` would choose it for this size."""
    rounded = choose_precision(WIDTH) == "bf16"
    return (*KINDS, *(kind + ROUNDED for kind in KINDS)) if rounded else KINDS


def our_trainer(corpus: Corpus, folder: Path, kind: str) -> Trainer:
    """Return the trainer of the same network: no recipe has a say in it."""
    output = kind.removesuffix(ROUNDED)
    options = TrainOptions(
        cell="lstm",
        weight_drop=0.0,
        activation_penalty=0.0,
        slowness_penalty=0.0,
        average=0.0,
        random_unroll=False,
        spectral=False,
        weight_decay=0.01,  # AdamW's usual one
        precision="fp32" if kind == output else "bf16",
        hidden=WIDTH,
        embedding=WIDTH,
        layers=2,
        tied=False,
        output=output,  # type: ignore[arg-type]
        batch=BATCH,
        unroll=UNROLL,
        dropout=DROPOUT,
        epochs=1,
    )
    return Trainer(folder, options, corpus, Console(file=sys.stderr))


def check_same_loss(peer: Peer, ours: Trainer, tokens: TokenArray) -> float:
    """Give ours the peer's weights and compare the losses of one batch; return the difference."""
    kept = {name: values.copy() for name, values in ours.model.arrays().items()}
    ours.model.load_arrays(peer.arrays())
    words = torch.from_numpy(tokens[: (UNROLL + 1) * BATCH].astype(np.int64)).view(UNROLL + 1, BATCH)
    peer.eval()
    ours.model.eval()
    with torch.no_grad():
        state = ours.model.initial_state(BATCH)
        mine = ours.model.loss(words[:-1], words[1:], state)[0].mean()
        logits, _ = peer(words[:-1], (state[0], state[1]))
        theirs = nn.functional.cross_entropy(logits.flatten(0, 1), words[1:].flatten())
    ours.model.load_arrays(kept)
    return abs(float(mine - theirs))


def zipf_text(path: Path) -> None:
    """Write a text of 400,000 words whose frequencies fall as 1 / rank."""
    generator = np.random.default_rng(1)
    share = 1 / np.arange(1, WORDS - 1)
    ranks = generator.choice(WORDS - 2, 400_000, p=share / share.sum())
    ranks[: WORDS - 2] = np.arange(WORDS - 2)  # every word is met
    generator.shuffle(ranks)
    path.write_text("\n".join(" ".join(f"w{r}" for r in row) for row in ranks.reshape(-1, 25)))


def main() -> None:
    """Run the benchmark and print its table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("text", nargs="?", type=Path)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--steps", type=int, default=2, help="steps of each in a round")
    parser.add_argument("--profile", action="store_true", help="parts of a step and peak memory as well")
    parser.add_argument("--words", type=int, default=0, help="train each on so many words and compare")
    parser.add_argument("--epoch", action="store_true", help="train each on all words once and compare")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--memory", nargs=2, metavar=("KIND", "FOLDER"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.memory:
        kind, prepared = arguments.memory
        print(peak_memory(kind, Path(prepared)))
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        corpus, result = tokenise(folder, arguments.text)
        result |= measure(folder, corpus, arguments.rounds, arguments.steps)
        if arguments.profile:
            result |= profile(folder, corpus, arguments.rounds * arguments.steps)
        if arguments.words or arguments.epoch:
            result |= compare(folder, corpus, len(corpus.train) if arguments.epoch else arguments.words)
    result |= bounds(result, arguments.epoch)
    if arguments.json:
        print(json.dumps(result))
        return
    for key, value in result.items():
        print(f"{key:<34} {value:,.2f}" if isinstance(value, float) else f"{key:<34} {value}")


def tokenise(folder: Path, text: Path | None) -> tuple[Corpus, dict[str, Any]]:
    """Return the corpus, and on what it is measured."""
    if text is None:
        text = folder / "zipf.txt"
        zipf_text(text)
    (folder / WORK).mkdir()
    started = time.perf_counter()
    options = TextOptions(minimum_count=1)
    corpus = prepare([text], [], [], options, folder / WORK, lambda line: None)
    tokenised = text.stat().st_size / (time.perf_counter() - started) / 1e6
    corpus.vocabulary.save(folder / "tokenizer.json")
    return corpus, {
        "machine": f"{platform.machine()}, {os.cpu_count()} processors, torch {torch.__version__}, "
        f"{torch.get_num_threads()} threads, {torch.backends.cpu.get_cpu_capability()}",
        "vocabulary": len(corpus.vocabulary),
        "tokenised, MB/s": tokenised,
    }


def measure(folder: Path, corpus: Corpus, rounds: int, steps: int) -> dict[str, Any]:
    """Time all in turn and return words/s and ratios."""
    networks = {kind: loop(kind, corpus, folder) for kind in kinds()}
    difference = check_same_loss(networks["peer"][0], networks["full"][0], corpus.train)
    # Two float32 sums of the same 200 products and 33,278 exponentials: about 1e-6 of a loss of 10.
    if difference > 1e-4:
        sys.exit(f"the two networks disagree on the loss by {difference:.2g}: nothing was timed")
    times: dict[str, list[float]] = {kind: [] for kind in networks}
    for number in range(rounds + 1):  # the first round warms up
        for kind, (_, step) in networks.items():
            started = time.perf_counter()
            for _ in range(steps):
                step()
            if number:
                times[kind].append((time.perf_counter() - started) / steps)
    result: dict[str, Any] = {"difference of the losses": f"{difference:.1e}"}
    for kind, own in times.items():
        result[f"{kind}, words/s"] = BATCH * UNROLL / statistics.median(own)
        for peer in ("peer", "peer" + ROUNDED):
            if kind != peer and kind.endswith(peer.removeprefix("peer")):
                taken = zip(times[peer], own, strict=True)
                result[f"{kind}, ratio to {peer}"] = statistics.median(p / o for p, o in taken)
    return result


def loop(
    kind: str, corpus: Corpus, folder: Path, parts: Parts | None = None, steps: int = 0
) -> tuple[Any, Callable[[], Any]]:
    """Return a network with its trainer or alone, and what does one step of it."""
    if kind.startswith("peer"):
        peer = new_peer(len(corpus.vocabulary))
        if parts is not None:
            parts.watch(peer.encoder, peer.rnn)
        return peer, peer_loop(peer, corpus.train, parts, kind.endswith(ROUNDED))
    trainer = our_trainer(corpus, folder, kind)
    return trainer, our_loop(trainer, parts, steps)


def profile(folder: Path, corpus: Corpus, steps: int) -> dict[str, Any]:
    """Return the milliseconds of a step by its parts, and the most memory that a step takes."""
    result: dict[str, Any] = {}
    for kind in kinds():
        parts = Parts()
        _, step = loop(kind, corpus, folder, parts)
        step()
        parts.seconds.clear()
        for _ in range(steps):
            parts.last = time.perf_counter()
            step()
        milliseconds = {part: 1e3 * seconds / steps for part, seconds in parts.seconds.items()}
        result[f"{kind}, ms of a step"] = ", ".join(f"{part} {ms:.1f}" for part, ms in milliseconds.items())
        command = [sys.executable, __file__, "--memory", kind, str(folder)]
        told = subprocess.run(command, check=True, capture_output=True, text=True)
        result[f"{kind}, peak memory, MB"] = float(told.stdout)
    return result


def peak_memory(kind: str, folder: Path) -> float:
    """Return the most memory that training took in this process, in MB, without weights and moments."""
    corpus = open_tokens(Vocabulary.load(folder / "tokenizer.json"), "line", folder / WORK, "")
    before = _memory("VmRSS")
    owner, step = loop(kind, corpus, folder)
    for _ in range(3):
        step()
    parameters: Iterable[Tensor] = (owner if isinstance(owner, Peer) else owner.model).parameters()
    copies = 1 if isinstance(owner, Peer) else 3  # SGD has no moments
    return _memory("VmHWM") - before - copies * sum(p.numel() * p.element_size() for p in parameters) / 1e6


def _memory(name: str) -> float:
    status = Path("/proc/self/status").read_text()
    return next(int(row.split()[1]) * 1024 / 1e6 for row in status.splitlines() if row.startswith(name))


def compare(folder: Path, corpus: Corpus, words: int) -> dict[str, Any]:
    """Train each on the same words, once through, and measure what it learned on the same text."""
    steps = max(1, words // (BATCH * UNROLL))
    result: dict[str, Any] = {"words read": f"{steps * BATCH * UNROLL:,}"}
    for kind in kinds():
        if kind == "peer" + ROUNDED:  # the example is the plain one
            continue
        owner, step = loop(kind, corpus, folder, steps=steps)
        model = (our_trainer(corpus, folder, "full") if kind == "peer" else owner).model
        seconds, value, reached = 0.0, float("inf"), None
        pieces = np.diff(np.linspace(0, steps, 2 if kind == "peer" else CHECKS + 1, dtype=int))
        for count in pieces[pieces > 0]:
            started = time.perf_counter()
            for _ in range(count):
                step()
            seconds += time.perf_counter() - started  # of training alone
            model.load_arrays(owner.arrays()) if kind == "peer" else owner.optimizer.catch_up()
            value = perplexity(model.eval(), corpus.valid[:HELD_OUT], corpus.vocabulary.eos, 10)
            print(f"{kind}: perplexity {value:,.1f} after {seconds:,.1f} s", file=sys.stderr)
            if reached is None and value <= result.get("peer, perplexity after them", 0.0):
                reached = seconds
        result |= {f"{kind}, perplexity after them": value, f"{kind}, seconds for them": seconds}
        if kind != "peer":
            result[f"{kind}, seconds to the peer's"] = reached or "never"
    return result


def bounds(result: dict[str, Any], epoch: bool) -> dict[str, str]:
    """Hold the figures to their bounds, as far as they were measured; that of an epoch to no fewer words."""
    told = {}

    def hold(name: str, value: float, bound: float, least: bool) -> None:
        met = value >= bound if least else value <= bound
        rule = f"{'at least' if least else 'at most'} {bound:.2f}"
        told[f"bound: {name}"] = f"{rule}, got {value:.2f}: {'met' if met else 'NOT MET'}"

    for kind in kinds():
        name = kind.removesuffix(ROUNDED)
        if name in SPEEDUP:
            hold(f"words/s, {kind}", result[f"{kind}, ratio to peer"], SPEEDUP[name], True)
        if name == "full" and "peer, peak memory, MB" in result:
            value = result[f"{kind}, peak memory, MB"] / result["peer, peak memory, MB"]
            hold(f"memory of a step, {kind}", value, MEMORY, False)
        if name == "adaptive" and epoch:
            value = result[f"{kind}, perplexity after them"] / result["peer, perplexity after them"]
            hold(f"perplexity, {kind}", value, WORST, False)
    return told


if __name__ == "__main__":
    main()
