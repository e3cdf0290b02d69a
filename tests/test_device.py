"""Training without the kernels: what a CUDA device computes, here by the same torch operations on the CPU."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console
from torch import nn

from glassgate import GlassgateError
from glassgate.folder.model import TOKENIZER
from glassgate.language import devices, recipes, trainer
from glassgate.language.corpus import Corpus, TextOptions, prepare
from glassgate.language.options import TrainOptions
from glassgate.language.trainer import CHECKPOINT, WORK, Trainer
from glassgate.language.training import train
from glassgate.layers import LSTM, output
from glassgate.layers.recurrent import Recurrent
from glassgate.layers.rows import tracked

CUDA = pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no CUDA device here")
FORMS: dict[str, dict[str, Any]] = {
    "lstm, tied, adaptive": {"cell": "lstm", "output": "adaptive", "embedding": 6},
    "lstm, untied, full, weight drop": {
        "cell": "lstm",
        "output": "full",
        "tied": False,
        "weight_drop": 0.3,
        "activation_penalty": 2.0,
        "slowness_penalty": 1.0,
    },
    "gru, two layers": {"cell": "gru", "reset": "after", "layers": 2, "output": "full"},
    "gru of the notes": {"cell": "gru", "reset": "before", "output": "adaptive", "bias": False},
}
# float32 sums of at most 40 words x 8 units in another order: some 1e-7 of a gradient. AdamW divides it by
# its own size, so that a weight's move errs by as much, but more where a gradient nearly vanishes. So weights
# are compared by the root mean square of their difference; over 20 steps, each of which begins where the one
# before erred, that was 4e-6 of the way they went. A wrong factor in one place shows as 1e-2 or more.
SHARE = 1e-4


@pytest.fixture
def corpus(text: Path, tmp_path: Path) -> Corpus:
    (tmp_path / "m" / WORK).mkdir(parents=True)
    found = prepare([text], [], [], TextOptions(), tmp_path / "m" / WORK, lambda line: None)
    found.vocabulary.save(tmp_path / "m" / TOKENIZER)
    return found


def without_kernels(patch: pytest.MonkeyPatch) -> None:
    """Let torch's operations compute all that the kernels do."""
    patch.setattr(trainer, "has_kernels", lambda device: False)
    patch.setattr(output, "has_kernel", lambda h, weight: False)
    patch.setattr(Recurrent, "_without_kernel", lambda self, x, dtype: "device cuda")


def options(form: str, **changed: Any) -> TrainOptions:
    sizes: dict[str, Any] = {"hidden": 8, "embedding": 8, "batch": 4, "unroll": 10, "epochs": 1}
    return TrainOptions(**{**sizes, "dropout": 0.0, **FORMS[form], **changed})


def trained(
    corpus: Corpus, folder: Path, form: str, device: str = "cpu", steps: int = 20, **changed: Any
) -> Trainer:
    """Do some steps from the start or from the checkpoint."""
    place = torch.device(device)
    made = Trainer(folder, options(form, **changed), corpus, Console(quiet=True), device=place)
    with devices.computing(place):
        for _ in range(steps):
            made.step(0.01)
    return made


def moved(one: Trainer, other: Trainer, start: Trainer) -> float:
    """Return how far the weights of two lie apart, as a share of the way that they went."""
    for made in (one, other):
        made.optimizer.catch_up()
    apart = went = 0.0
    arrays = other.model.arrays(), start.model.arrays()
    for name, values in one.model.arrays().items():
        apart += float(np.square(values - arrays[0][name], dtype=np.float64).sum())
        went += float(np.square(values - arrays[1][name], dtype=np.float64).sum())
    return (apart / went) ** 0.5


@pytest.mark.filterwarnings("ignore:(LSTM|GRU). no kernel for device cuda")
@pytest.mark.parametrize("form", FORMS)
def test_torchs_operations_train_as_the_kernels_do(corpus: Corpus, tmp_path: Path, form: str) -> None:
    out = tmp_path / "m"
    start = trained(corpus, out, form, steps=0)
    kernels = trained(corpus, out, form)
    with pytest.MonkeyPatch.context() as patch:
        without_kernels(patch)
        plain = trained(corpus, out, form)
        assert tracked(plain.model.embedding.weight) is None
        assert measured(plain) == pytest.approx(measured(kernels), rel=1e-4)
    assert plain.progress.loss == pytest.approx(kernels.progress.loss, rel=1e-5)
    assert moved(kernels, plain, start) < SHARE
    assert moved(kernels, start, start) > 0.9  # what "the way" is


def measured(made: Trainer) -> float:
    made.model.eval()
    made.optimizer.catch_up()
    return made._measure(made.corpus.valid)


@pytest.mark.filterwarnings("ignore:(LSTM|GRU). no kernel for device cuda")
@pytest.mark.parametrize("first", ["kernels", "torch"])
def test_a_checkpoint_goes_on_without_the_kernels_and_back(
    corpus: Corpus, tmp_path: Path, first: str
) -> None:
    """Ten steps with one, ten with the other, are twenty with the kernels; rows lag where they are saved."""
    out, form = tmp_path / "m", "lstm, untied, full, weight drop"
    start, whole = trained(corpus, out, form, steps=0), trained(corpus, out, form)
    for kind in (first, "torch" if first == "kernels" else "kernels"):
        with pytest.MonkeyPatch.context() as patch:
            if kind == "torch":
                without_kernels(patch)
            made = trained(corpus, out, form, steps=10)
            made.metrics.touch()
            made._save()
    assert (out / WORK / CHECKPOINT).exists()
    assert made.progress.step == 20
    assert moved(whole, made, start) < SHARE


@pytest.mark.filterwarnings("ignore:LSTM. no kernel for device cuda")
def test_torchs_own_path_drops_weights_as_the_kernels_do(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    lstm = LSTM(3, 5, weight_drop=0.5).double()
    x = torch.randn(4, 2, 3, dtype=torch.float64)
    results = []
    for kernels in (True, False):
        if not kernels:
            monkeypatch.setattr(Recurrent, "_without_kernel", lambda self, x, dtype: "device cuda")
        torch.manual_seed(1)
        y, _ = lstm(x)
        lstm.zero_grad()
        y.square().sum().backward()
        results.append([y.detach(), *(p.grad.clone() for p in lstm.parameters() if p.grad is not None)])
    assert len(results[0]) == 5
    for one, other in zip(*results, strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-14)  # float64: some 20 products of about 1
    assert all(isinstance(weight, nn.Parameter) for weight in lstm._flat_weights)
    lstm.eval()
    assert torch.equal(lstm(x)[0], lstm(x)[0])


# Which device


@pytest.mark.parametrize(("choice", "expected"), [("auto", "fp32"), ("bf16", "bf16"), ("fp32", "fp32")])
def test_products_stay_exact_unless_they_are_told(
    corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, choice: Any, expected: str
) -> None:
    """What the rule asks is the processor."""
    monkeypatch.setattr(recipes, "isa", lambda: "amx")
    made = TrainOptions(hidden=256, embedding=8, epochs=1, precision=choice)
    on_cpu = Trainer(tmp_path / "m", made, corpus, Console(quiet=True))
    assert on_cpu.plan.precision == ("bf16" if choice == "auto" else expected)
    without_kernels(monkeypatch)
    assert Trainer(tmp_path / "m", made, corpus, Console(quiet=True)).plan.precision == expected


def test_the_choice_of_a_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert devices.choose_device("cpu") == torch.device("cpu")
    with pytest.raises(GlassgateError, match=r"^--device: torch finds no CUDA device here: expected one, or"):
        devices.choose_device("cuda")
    with pytest.raises(GlassgateError, match=r"^--device: must be cpu or cuda, got 'gpu'$"):
        devices.choose_device("gpu")  # type: ignore[arg-type]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert devices.choose_device("cuda") == torch.device("cuda", 0)
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert devices.choose_device("cuda") == torch.device("cuda", 1)
    assert devices.choose_device("cpu") == torch.device("cpu")
    monkeypatch.setenv("LOCAL_RANK", "2")
    with pytest.raises(GlassgateError, match=r"^--device: each process needs a CUDA device of its own: "):
        devices.choose_device("cuda")


def test_a_device_that_is_not_there_leaves_nothing(
    text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(GlassgateError, match=r"^--device: torch finds no CUDA device here"):
        train([text], tmp_path / "m", TrainOptions(), device="cuda", console=Console(quiet=True))
    assert list(tmp_path.iterdir()) == []


# On a CUDA device


@CUDA
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.filterwarnings("ignore:GRU. no kernel for device cuda, plain torch")
def test_a_cuda_device_trains_as_the_cpu_does(corpus: Corpus, tmp_path: Path, form: str) -> None:
    out = tmp_path / "m"
    whole = {"weight_drop": 0.0}  # masks are drawn on the device, each kind of which draws others
    start, here = trained(corpus, out, form, steps=0, **whole), trained(corpus, out, form, **whole)
    there = trained(corpus, out, form, "cuda", **whole)
    assert there.model.embedding.weight.is_cuda
    assert there.progress.loss == pytest.approx(here.progress.loss, rel=1e-4)
    assert moved(here, there, start) < 10 * SHARE  # cuDNN's exponentials err by more than one rounding


@CUDA
@pytest.mark.filterwarnings("ignore:GRU. no kernel for device cuda, plain torch")
def test_the_folder_of_a_cuda_device_is_that_of_the_cpu(text: Path, tmp_path: Path) -> None:
    values = {}
    for device in ("cpu", "cuda"):
        outcome = train(
            [text],
            tmp_path / device,
            options("lstm, tied, adaptive"),
            device=device,  # type: ignore[arg-type]
            console=Console(quiet=True),
        )
        values[device] = outcome.figures
    assert values["cuda"] == pytest.approx(values["cpu"], rel=1e-3)
    names = [sorted(path.name for path in (tmp_path / device).iterdir()) for device in values]
    assert names[0] == names[1]
