"""Training from the command line: the folder that it makes, what is in it, and what it learns."""

import json
from math import exp
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console

from conftest import markov_text
from glassgate import GlassgateError
from glassgate.folder.counting import count_folder
from glassgate.folder.model import WEIGHTS, read_folder
from glassgate.folder.weights import load_weights
from glassgate.language.corpus import encode_segments
from glassgate.language.held_out import perplexity
from glassgate.language.model import NextWordModel
from glassgate.language.optimizer import AdamW
from glassgate.language.options import TrainOptions
from glassgate.language.schedule import Streams, one_cycle
from glassgate.language.text import Segment
from glassgate.language.trainer import Trainer
from glassgate.language.training import train
from program import Ended, Program

SMALL = [
    *("--hidden", 12, "--embedding", 8, "--epochs", 3, "--batch", 4, "--unroll", 10),
    *("--threads", 1, "--learning-rate", 0.02),
]
FILES = {"README.md", "config.json", "loss.png", "metrics.jsonl", "model.safetensors", "tokenizer.json"}
FORMS: dict[str, list[object]] = {
    "lstm": [],
    "lstm, all changed": [
        *("--layers", 2, "--untied", "--no-bias", "--dropout", 0.2, "--lowercase", "--eos", "none"),
        *("--tokens", "words", "--minimum-count", 3, "--seed", 7, "--weight-decay", 0, "--clip", 0.5),
    ],
    "gru, before": ["--cell", "gru", "--embedding", 12],
    "gru, adaptive embedding": ["--cell", "gru", "--output", "adaptive", "--embedding-cutoffs", "5"],
    "gru, after": ["--cell", "gru", "--reset", "after", "--layers", 2, "--dropout", 0.1],
}


@pytest.fixture(scope="module")
def trained(
    program: Program, text: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, tuple[Path, Ended]]:
    folder = tmp_path_factory.mktemp("models")
    models = {}
    for number, (name, options) in enumerate(FORMS.items()):
        out = folder / str(number)
        models[name] = (out, program.run("train", text, "--out", out, *SMALL, *options))
    return models


def rows(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("form", FORMS)
def test_the_folder_is_whole_and_holds_nothing_else(trained: dict[str, Any], form: str) -> None:
    folder, ended = trained[form]
    assert ended.code == 0, ended.err
    assert ended.out == ""
    assert "\x1b" not in ended.err  # plain lines where there is no terminal
    assert ended.err.splitlines()[-1] == f"the model is in {folder}"
    assert {path.name for path in folder.iterdir()} == FILES
    picture = (folder / "loss.png").read_bytes()
    assert picture[:8] == b"\x89PNG\r\n\x1a\n"
    assert picture[-8:-4] == b"IEND"
    config, _ = read_folder(folder)
    load_weights(folder / "model.safetensors", config.tensors())
    assert count_folder(folder).total > 0
    for path in folder.iterdir():
        assert path.stat().st_mode & 0o077 == 0o044 & ~_umask(), path


def _umask() -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("Umask:"):
            return int(line.split()[1], 8)
    raise AssertionError("no umask in /proc/self/status")


def test_every_option_of_the_model_reaches_it(trained: dict[str, Any]) -> None:
    configs = {name: read_folder(folder) for name, (folder, _) in trained.items()}
    config, vocabulary = configs["lstm, all changed"]
    assert (config.cell, config.layers, config.tied, config.bias) == ("lstm", 2, False, False)
    assert (config.dropout, config.eos, config.hidden, config.embedding) == (0.2, "none", 12, 8)
    assert vocabulary.lowercase
    assert vocabulary.eos is None
    config, vocabulary = configs["lstm"]
    assert (config.cell, config.tied, config.bias, config.eos, config.dropout) == (
        *("lstm", True, True),
        *("line", 0.0),
    )
    assert (len(vocabulary), vocabulary.lowercase) == (42, False)
    assert (configs["gru, before"][0].cell, configs["gru, before"][0].reset) == ("gru", "before")
    assert (configs["gru, after"][0].cell, configs["gru, after"][0].reset) == ("gru", "after")


@pytest.mark.parametrize("form", FORMS)
def test_the_rows_of_the_metrics(trained: dict[str, Any], form: str) -> None:
    table = rows(trained[form][0])
    training = [row for row in table if "loss" in row]
    validation = [row for row in table if "loss" not in row]
    keys = ["step", "epoch", "loss", "perplexity", "words_per_second", "learning_rate", "seconds"]
    assert all(list(row) == keys for row in training)
    assert all(list(row) == ["step", "epoch", "valid_perplexity", "seconds"] for row in validation)
    steps = [row["step"] for row in training]
    last = validation[-1]["step"]
    per_epoch = last // 3
    assert steps == list(range(per_epoch // 10, last + 1, per_epoch // 10))
    assert validation[-1]["epoch"] == 3.0
    for row in training:
        assert row["perplexity"] == exp(row["loss"])
        assert row["epoch"] == round(row["step"] / per_epoch, 4)
        assert row["words_per_second"] > 0
        # The rate of a row's last step follows the one-cycle of what was spent before it.
        assert row["learning_rate"] == 0.02 * one_cycle((row["step"] - 1) / last)
    seconds = [row["seconds"] for row in table]
    assert seconds == sorted(seconds)
    assert training[-1]["loss"] < training[0]["loss"]


@pytest.mark.parametrize("form", FORMS)
def test_the_card_tells_what_the_model_is(trained: dict[str, Any], form: str) -> None:
    folder, ended = trained[form]
    card = (folder / "README.md").read_text()
    config, _ = read_folder(folder)
    cell = "LSTM" if config.cell == "lstm" else f"GRU (reset {config.reset} the product)"
    layers = "1 layer" if config.layers == 1 else "2 layers"
    assert card.startswith(f"# A next-word model: {cell}, {layers} of 12\n")
    counted = count_folder(folder)
    assert f"| trainable weights | {counted.total + _outside(counted):,} with the embedding |" in card
    assert f"| seed | {7 if form == 'lstm, all changed' else 1} |" in card
    best = min(row["valid_perplexity"] for row in rows(folder) if "valid_perplexity" in row)
    assert f"{best:,.2f} |" in card
    for part in ("validation", "test"):
        line = next(line for line in ended.err.splitlines() if line.startswith(f"{part} perplexity"))
        assert f"| {part} perplexity | {line.split()[-1]} |" in card


def _outside(counted: Any) -> int:
    return int(counted.embedding) if not counted.network.tied else 0


def test_the_measured_perplexities_are_those_of_the_saved_model(trained: dict[str, Any], text: Path) -> None:
    """The last 5 % of the text test: read by hand, measured with the weights of the folder."""
    folder, ended = trained["lstm"]
    config, vocabulary = read_folder(folder)
    model = NextWordModel(config).eval()
    model.load_arrays(load_weights(folder / WEIGHTS, config.tensors()))
    lines = text.read_text().splitlines()
    total, position, test = sum(len(line) + 1 for line in lines), 0, []
    for line in lines:
        if position >= 0.95 * total:
            test.append(Segment(line, True))
        position += len(line) + 1
    (tokens,) = encode_segments(test, vocabulary)
    value = perplexity(model, tokens, vocabulary.eos)
    assert f"test perplexity {value:,.2f}\n" in ended.err


def test_it_learns_what_the_chain_tells(program: Program, tmp_path: Path) -> None:
    """From a guess among 40 words to what the chain leaves open, three likely successors for a word.

    Its entropy, with shares 3/5, 1/5, 1/5: exp(0.95) = 2.6, and the ends of lines come on top.
    """
    source = tmp_path / "longer.txt"
    source.write_text(markov_text(1_500))
    small = ["--hidden", 16, "--embedding", 16, "--epochs", 6, "--batch", 8, "--threads", 1]
    ended = program.run("train", source, "--out", tmp_path / "m", *small, "--learning-rate", 0.03)
    assert ended.code == 0, ended.err
    best = min(row["valid_perplexity"] for row in rows(tmp_path / "m") if "valid_perplexity" in row)
    assert 2.6 < best < 6.0


def test_the_same_command_gives_the_same_bytes_and_another_seed_others(
    program: Program, text: Path, tmp_path: Path, trained: dict[str, Any]
) -> None:
    name = "gru, after"  # dropout among others
    for out, seed in (("again", 1), ("other", 2)):
        options = [*SMALL, *FORMS[name], "--seed", seed]
        assert program.run("train", text, "--out", tmp_path / out, *options).code == 0
    weights = [
        (folder / "model.safetensors").read_bytes()
        for folder in (trained[name][0], tmp_path / "again", tmp_path / "other")
    ]
    assert weights[0] == weights[1]
    assert weights[0] != weights[2]


def test_how_often_it_saves_changes_nothing(
    program: Program, text: Path, tmp_path: Path, trained: dict[str, Any]
) -> None:
    options = [*SMALL, *FORMS["gru, after"], "--save-every", 0]
    assert program.run("train", text, "--out", tmp_path / "m", *options).code == 0
    for name in ("model.safetensors", "config.json", "tokenizer.json"):
        assert (tmp_path / "m" / name).read_bytes() == (trained["gru, after"][0] / name).read_bytes()
    refused = program.run("train", text, "--out", tmp_path / "n", "--save-every", "-1")
    assert refused.error == "--save-every: must be at least 0, got -1.0"
    assert not (tmp_path / "n").exists()


def test_held_out_texts_are_read_as_given(program: Program, text: Path, tmp_path: Path) -> None:
    held = tmp_path / "held.txt"
    held.write_text("w1 w4 w13\nw2 w7\n")
    ended = program.run("train", text, "--out", tmp_path / "m", *SMALL, "--valid", held, "--test", held)
    assert ended.code == 0, ended.err
    assert "7 tokens in the valid part\n7 tokens in the test part\n" in ended.err
    figures = [line.split()[-1] for line in ended.err.splitlines() if " perplexity " in line[:24]]
    assert len(figures) == 2
    assert figures[0] == figures[1]


def test_a_budget_of_time_ends_annealed(program: Program, text: Path, tmp_path: Path) -> None:
    small = [*SMALL, "--epochs", 100_000, "--minutes", 0.02]
    ended = program.run("train", text, "--out", tmp_path / "m", *small)
    assert ended.code == 0, ended.err
    table = rows(tmp_path / "m")
    # The last validation may fall on the last step and begin before the time is up.
    assert 1.0 < table[-1]["seconds"] < 10
    assert table[-1]["epoch"] < 100_000
    rates = [row["learning_rate"] for row in table if "loss" in row]
    # Rows are two steps apart, a few milliseconds of 1.2 s: near the end of the schedule, and near its peak.
    assert rates[-1] < 0.02 * 0.1
    assert max(rates) > 0.02 * 0.9


def test_a_budget_shorter_than_the_start_does_one_step(program: Program, text: Path, tmp_path: Path) -> None:
    """What a training begins with counts against its minutes, and may take all of them."""
    ended = program.run("train", text, "--out", tmp_path / "m", "--hidden", 8, "--minutes", 1e-9)
    assert ended.code == 0, ended.err
    assert {path.name for path in (tmp_path / "m").iterdir()} == FILES
    table = rows(tmp_path / "m")
    assert {row["step"] for row in table} == {1}
    assert 1 < table[-1]["valid_perplexity"] < 42


def begun(text: Path, out: Path, options: TrainOptions) -> Trainer:
    """Return a training before its first step."""
    seen: list[Trainer] = []

    def keep(self: Trainer) -> Any:
        seen.append(self)
        raise GlassgateError("as if interrupted")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "run", keep)
        with pytest.raises(GlassgateError, match="as if interrupted"):
            train([text], out, options, console=Console(quiet=True))
    return seen[0]


@pytest.mark.parametrize("output", ["full", "adaptive"])
def test_a_training_begins_with_the_frequencies(text: Path, tmp_path: Path, output: str) -> None:
    """A state of zeros leaves c alone: (count + 1) / sum of (count + 1) of the training part."""
    sizes: dict[str, Any] = {"hidden": 8, "embedding": 8, "output": output, "epochs": 1}
    trainer = begun(text, tmp_path / "m", TrainOptions(**sizes))
    counts = np.bincount(trainer.corpus.train, minlength=42) + 1
    found = trainer.model.output.log_probabilities(torch.zeros(8)).detach().exp()
    # float32: logs of up to 7, each rounded, and a sum of 42 terms.
    np.testing.assert_allclose(found, counts / counts.sum(), rtol=42 * 2.0**-24 * 7)
    assert counts.max() > 5 * counts.min()


def test_a_longer_piece_has_a_higher_rate(
    text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A piece of random length has rate x length / unroll; one of fixed length, short or not, the rate."""
    seen: list[float] = []
    monkeypatch.setattr(AdamW, "step", lambda self, rate, clip: (seen.append(rate), 1.0)[1])
    for random in (True, False):
        sizes: dict[str, Any] = {"hidden": 8, "embedding": 8, "batch": 4, "unroll": 12, "epochs": 1}
        trainer = begun(text, tmp_path / str(random), TrainOptions(**sizes, random_unroll=random))
        lengths = [len(trainer.streams.read(step)[0]) for step in range(12)]
        assert len(set(lengths)) > 2 or not random
        seen.clear()
        for _ in lengths:
            trainer.step(0.5)
        assert seen == [0.5 * length / 12 if random else 0.5 for length in lengths]


@pytest.mark.parametrize(
    ("options", "names"),
    [
        ({"learning_rate": 1e30}, "--learning-rate"),
        ({"weight_decay": 1e300}, "--weight-decay or --learning-rate"),
        (
            {"activation_penalty": 1e300, "slowness_penalty": 1.0},
            "--activation-penalty or --slowness-penalty or --learning-rate",
        ),
    ],
)
def test_what_diverges_names_what_was_asked_for(
    text: Path, tmp_path: Path, options: dict[str, float], names: str
) -> None:
    small: dict[str, Any] = {"hidden": 8, "embedding": 8, "epochs": 2, **options}
    with pytest.raises(GlassgateError, match=f": try a lower {names}; what was saved before stays$"):
        train([text], tmp_path / "m", TrainOptions(**small), console=Console(quiet=True))
    assert not (tmp_path / "m").exists()


@pytest.mark.parametrize("output", ["full", "adaptive"])
@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_bf16_rounds_the_factors_of_steps_and_of_nothing_else(
    text: Path, tmp_path: Path, cell: str, output: str
) -> None:
    sizes: dict[str, Any] = {"hidden": 12, "embedding": 12, "batch": 4, "unroll": 5, "epochs": 1}
    sizes |= {"cell": cell, "output": output}
    exact = begun(text, tmp_path / "exact", TrainOptions(**sizes))
    rounded = begun(text, tmp_path / "rounded", TrainOptions(**sizes, precision="bf16"))
    layers = begun(text, tmp_path / "layers", TrainOptions(**sizes))
    layers.model.rnn.precision = "bf16"
    layers.model.output.layout = layers.model.output.layout._replace(bf16=True)
    valid = exact.corpus.valid
    assert valid is not None
    assert rounded._measure(valid) == exact._measure(valid) != layers._measure(valid)
    for trainer in (exact, rounded, layers):
        trainer.step(0.01)
    assert rounded.progress.loss != exact.progress.loss
    if output == "full":  # its factors are rounded in any case, so the layers' own bf16 finds the very loss
        assert rounded.progress.loss == layers.progress.loss
    tensors = [*rounded.model.parameters(), *rounded.state]
    tensors += [t for slot in rounded.optimizer.slots.values() for t in (slot.exp_avg, slot.exp_avg_sq)]
    assert {tensor.dtype for tensor in tensors} == {torch.float32}
    for name, found in rounded.model.named_parameters():
        # Adam's first step is the rate in size, with the gradient's sign, whatever the gradient's size; so it
        # is all the same but where rounding turns a sign.
        (exactly,) = (p for n, p in exact.model.named_parameters() if n == name)
        turned = (found.detach() - exactly.detach()).abs() > 0.01
        assert float(turned.float().mean()) < 0.05, name


@pytest.mark.parametrize("embedding", [6, 12])
def test_a_step_moves_the_weights_as_autograd_and_adamw_say(
    text: Path, tmp_path: Path, embedding: int
) -> None:
    """Two steps of the trainer beside the same two written out: mean loss, clipping, carried state."""
    options = TrainOptions(
        hidden=12, embedding=embedding, batch=4, unroll=5, clip=0.25, weight_decay=0.5, epochs=1
    )
    trainer = begun(text, tmp_path / "m", options)
    parameters = {name: p.detach().clone() for name, p in trainer.model.named_parameters()}
    moments = {name: (torch.zeros_like(p), torch.zeros_like(p)) for name, p in parameters.items()}
    state = trainer.model.initial_state(4)
    streams = Streams(trainer.corpus.train, 4, 5, options.seed)
    for step, rate in ((0, 0.01), (1, 0.02)):
        words, targets = streams.read(step)
        trained = {name: p.clone().requires_grad_() for name, p in parameters.items()}
        tied = {"output.weight": trained["embedding.weight"]}
        h, state = torch.func.functional_call(trainer.model, trained | tied, (words, state))
        if embedding != 12:
            assert h.shape[-1] == embedding
        logits = h.flatten(0, 1) @ trained["embedding.weight"].T + trained["output.bias"]
        loss = -torch.log_softmax(logits, -1)[torch.arange(20), targets.flatten()].sum() / 20
        gradients = dict(zip(trained, torch.autograd.grad(loss, list(trained.values())), strict=True))
        state = tuple(part.detach() for part in state)
        norm = float(sum(g.double().pow(2).sum() for g in gradients.values()) ** 0.5)
        for name, p in parameters.items():
            g = gradients[name] * min(1.0, 0.25 / (norm + 1e-6))
            first, second = moments[name]
            first.mul_(0.5).add_(0.5 * g)
            second.mul_(0.999).add_(0.001 * g * g)
            p -= rate * 0.5 * p * (p.dim() > 1)  # biases do not decay
            unbiased = first / (1 - 0.5 ** (step + 1)), second / (1 - 0.999 ** (step + 1))
            p -= rate * unbiased[0] / (unbiased[1].sqrt() + 1e-8)
        trainer.step(rate)
    for name, p in trainer.model.named_parameters():
        # A step has at most the size of its rate. A gradient errs by some 1e-6 of itself in float32; where
        # it is next to nothing the quotient of moments may err by more, but Adam's eps of 1e-8 bounds that.
        np.testing.assert_allclose(p.detach(), parameters[name], rtol=0, atol=0.02 * 1e-3, err_msg=name)
    for found, expected in zip(trainer.state, state, strict=True):
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)
