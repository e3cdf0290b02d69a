"""Words per second of training: ours beside a plain torch loop, on the same text in the same run.

The peer is written to the published configuration of PyTorch's word-level example: embedding 200,
two LSTM layers of 200, batch 20, unroll 35, dropout 0.2, full softmax, plain SGD with gradient
clipping. Ours trains the same network through the steps of `glassgate train`, once with the full and
once with the adaptive softmax. First both are given the same weights and must find the same loss.
Then their steps are timed in turn, ours and the peer's within one round, and the median of the rounds
counts.

    python benchmarks/language.py [TEXT] [--rounds 7] [--steps 2] [--json]

Without TEXT the words are drawn from a Zipf distribution over 33,278 words, as many as WikiText-2 has.
"""

import argparse
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from torch import Tensor, nn

from glassgate.folder.vocabulary import Vocabulary
from glassgate.language.corpus import Corpus, TextOptions, TokenArray, prepare
from glassgate.language.options import TrainOptions
from glassgate.language.trainer import WORK, Trainer

WORDS, WIDTH, BATCH, UNROLL, DROPOUT = 33_278, 200, 20, 35, 0.2


class Peer(nn.Module):
    """The example's network, in torch's own layers."""

    def __init__(self, words: int) -> None:
        super().__init__()
        self.drop = nn.Dropout(DROPOUT)
        self.encoder = nn.Embedding(words, WIDTH)
        self.rnn = nn.LSTM(WIDTH, WIDTH, 2, dropout=DROPOUT)
        self.decoder = nn.Linear(WIDTH, words)

    def forward(self, words: Tensor, state: tuple[Tensor, Tensor]) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Return the logits [T, N, words] and the last state."""
        h, last = self.rnn(self.drop(self.encoder(words)), state)
        logits: Tensor = self.decoder(self.drop(h))
        return logits, last


def peer_loop(peer: Peer, tokens: TokenArray) -> Callable[[], float]:
    """Return a function that does one step of the example's loop and gives its loss."""
    length = len(tokens) // BATCH
    columns = torch.from_numpy(tokens[: length * BATCH].astype(np.int64)).view(BATCH, length).t().contiguous()
    state = (torch.zeros(2, BATCH, WIDTH), torch.zeros(2, BATCH, WIDTH))
    position = 0

    def step() -> float:
        nonlocal state, position
        peer.train()
        words, targets = columns[position : position + UNROLL], columns[position + 1 : position + UNROLL + 1]
        position = (position + UNROLL) % (length - UNROLL - 1)
        peer.zero_grad()
        logits, last = peer(words, (state[0].detach(), state[1].detach()))
        state = last
        loss = nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten())
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(peer.parameters(), 0.25)
        with torch.no_grad():
            for parameter in peer.parameters():
                assert parameter.grad is not None
                parameter.add_(parameter.grad, alpha=-20.0)
        return loss.item()

    return step


def our_trainer(corpus: Corpus, folder: Path, output: str) -> Trainer:
    """Return the trainer of the same network."""
    options = TrainOptions(
        hidden=WIDTH,
        embedding=WIDTH,
        layers=2,
        tied=False,
        output=output,  # type: ignore[arg-type]
        batch=BATCH,
        unroll=UNROLL,
        dropout=DROPOUT,
        learning_rate=1e-3,
        epochs=1,
    )
    return Trainer(folder, options, corpus, Console(file=sys.stderr))


def check_same_loss(peer: Peer, ours: Trainer, tokens: TokenArray) -> float:
    """Give ours the peer's weights and compare the losses of one batch; return the difference."""
    arrays = {name: value.detach().numpy() for name, value in peer.rnn.state_dict(prefix="rnn.").items()}
    arrays["embedding.weight"] = peer.encoder.weight.detach().numpy()
    arrays["output.weight"], arrays["output.bias"] = (
        peer.decoder.weight.detach().numpy(),
        peer.decoder.bias.detach().numpy(),
    )
    kept = {name: values.copy() for name, values in ours.model.arrays().items()}
    ours.model.load_arrays(arrays)
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
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        result = measure(Path(name), arguments.text, arguments.rounds, arguments.steps)
    if arguments.json:
        print(json.dumps(result))
        return
    for key, value in result.items():
        print(f"{key:<34} {value:,.2f}" if isinstance(value, float) else f"{key:<34} {value}")


def measure(folder: Path, text: Path | None, rounds: int, steps: int) -> dict[str, str | int | float]:
    """Time all in turn and return words/s and ratios, with what they were measured on."""
    if text is None:
        text = folder / "zipf.txt"
        zipf_text(text)
    (folder / WORK).mkdir()
    started = time.perf_counter()
    options = TextOptions(minimum_count=1)
    corpus = prepare([text], [], [], options, folder / WORK, lambda line: None)
    tokenised = text.stat().st_size / (time.perf_counter() - started) / 1e6
    vocabulary: Vocabulary = corpus.vocabulary
    torch.manual_seed(1)
    peer = Peer(len(vocabulary))
    trainers = {output: our_trainer(corpus, folder, output) for output in ("full", "adaptive")}
    difference = check_same_loss(peer, trainers["full"], corpus.train)
    # Two float32 sums of the same 200 products and 33,278 exponentials: about 1e-6 of a loss of 10.
    if difference > 1e-4:
        sys.exit(f"the two networks disagree on the loss by {difference:.2g}: nothing was timed")
    loops: dict[str, Callable[[], object]] = {"peer": peer_loop(peer, corpus.train)}
    loops |= {name: partial(trainer.step, 1e-3) for name, trainer in trainers.items()}
    times: dict[str, list[float]] = {name: [] for name in loops}
    for number in range(rounds + 1):  # the first round warms up
        for name, step in loops.items():
            started = time.perf_counter()
            for _ in range(steps):
                step()
            if number:
                times[name].append((time.perf_counter() - started) / steps)
    words = BATCH * UNROLL
    speed = {name: words / statistics.median(values) for name, values in times.items()}
    ratios = {
        name: statistics.median(p / o for p, o in zip(times["peer"], times[name], strict=True))
        for name in trainers
    }
    return {
        "machine": f"{platform.machine()}, {os.cpu_count()} processors, torch {torch.__version__}, "
        f"{torch.get_num_threads()} threads, {torch.backends.cpu.get_cpu_capability()}",
        "vocabulary": len(vocabulary),
        "difference of the losses": f"{difference:.1e}",
        "tokenised, MB/s": tokenised,
        "plain torch loop, words/s": speed["peer"],
        "ours, full softmax, words/s": speed["full"],
        "ours, adaptive softmax, words/s": speed["adaptive"],
        "ratio, full softmax": ratios["full"],
        "ratio, adaptive softmax": ratios["adaptive"],
    }


if __name__ == "__main__":
    main()
