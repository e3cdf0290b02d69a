"""What a training can be told: bounds, and the rules that fill in what was not given."""

import json
import os
from math import inf, nan, prod
from typing import Any

import numpy as np
import pytest

from glassgate import GlassgateError
from glassgate.folder.vocabulary import Vocabulary
from glassgate.language.corpus import Corpus
from glassgate.language.options import Plan, TrainOptions
from glassgate.layers.cutoffs import choose_cutoffs
from glassgate.parameters.network import MOST_LAYERS


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        *(
            (name, value, f"--{name}: must be at least 1, got {value}")
            for name in ("hidden", "layers", "embedding", "epochs", "batch", "unroll", "threads")
            for value in (0, -3)
        ),
        ("threads", 1025, "--threads: must be at most 1,024, got 1,025"),
        ("hidden", 10**8 + 1, "--hidden: must be at most 100,000,000, got 100,000,001"),
        ("embedding", 10**8 + 1, "--embedding: must be at most 100,000,000, got 100,000,001"),
        ("layers", 10**9, f"--layers: must be at most {MOST_LAYERS:,}, got 1,000,000,000"),
        ("epochs", 10**6 + 1, "--epochs: must be at most 1,000,000, got 1,000,001"),
        ("unroll", 10_001, "--unroll: must be at most 10,000, got 10,001"),
        ("minutes", 525_601.0, "--minutes: must be at most 525,600, got 525,601.0"),
        *(
            (name, value, f"--{name.replace('_', '-')}: must be above 0, got {value}")
            for name in ("minutes", "learning_rate", "clip")
            for value in (0.0, -1.5, inf, nan)
        ),
        *(
            ("weight_decay", value, f"--weight-decay: must be at least 0, got {value}")
            for value in (-0.1, inf, nan)
        ),
        *(
            ("dropout", value, f"--dropout: must be at least 0 and below 1, got {value}")
            for value in (-0.1, 1.0, 2.0, nan)
        ),
        *(
            ("seed", value, f"--seed: must be at least 0 and below 2^31, got {value}")
            for value in (-1, 2**31)
        ),
        ("cell", "rnn", "--cell: must be lstm or gru, got 'rnn'"),
        ("reset", "never", "--reset: must be before or after, got 'never'"),
        ("output", "sampled", "--output: must be auto or full or adaptive, got 'sampled'"),
        ("tokens", "letters", "--tokens: must be spaces or words, got 'letters'"),
        ("eos", "word", "--eos: must be line or paragraph or none, got 'word'"),
        ("minimum_count", 0, "--minimum-count: must be at least 1, got 0"),
        *(
            ("embedding_cutoffs", value, f"--embedding-cutoffs: must rise from above 0, got {shown}")
            for value, shown in (((0,), "0"), ((5, 5), "5,5"), ((9, 2), "9,2"), ((-1,), "-1"))
        ),
    ],
)
def test_each_bound_is_one_line_that_names_the_option(name: str, value: Any, message: str) -> None:
    with pytest.raises(GlassgateError) as raised:
        TrainOptions(**{name: value})
    assert str(raised.value) == message


def test_a_closed_vocabulary_leaves_no_word_out() -> None:
    with pytest.raises(GlassgateError, match=r"^--closed-vocabulary: keeps every word"):
        TrainOptions(closed_vocabulary=True, minimum_count=2)
    assert TrainOptions(closed_vocabulary=True, minimum_count=1).text.closed


@pytest.mark.parametrize(
    "options",
    [
        {"hidden": 1, "layers": 1, "embedding": 1, "epochs": 1, "batch": 1, "unroll": 1, "threads": 1},
        {"minutes": 1e-9, "learning_rate": 1e-9, "clip": 1e-9},
        {"weight_decay": 0.0, "dropout": 0.0, "seed": 0},
        {"dropout": 0.999, "seed": 2**31 - 1, "threads": 1024},
        {"hidden": 10**8, "embedding": 10**8, "layers": MOST_LAYERS},
        {"epochs": 10**6, "unroll": 10_000, "minutes": 525_600.0},
    ],
)
def test_the_bounds_themselves_are_allowed(options: dict[str, Any]) -> None:
    kept = TrainOptions(**options).as_dict()
    assert {name: kept[name] for name in options} == options


def test_options_survive_json_and_name_what_differs() -> None:
    options = TrainOptions(hidden=20, dropout=0.25, cell="gru", embedding_cutoffs=(5, 9))
    assert TrainOptions(**json.loads(json.dumps(options.as_dict()))) == options
    given = {"hidden": 20, "dropout": 0.3, "cell": "lstm", "out": "of no training"}
    assert options.differing(given) == ["dropout", "cell"]
    assert options.differing({}) == []


def corpus(
    tokens: int, words: int = 50, eos: bool = True, valid: int = 100, test: int | None = 100
) -> Corpus:
    vocabulary = Vocabulary.build(
        [" ".join(f"w{n}" for n in range(words - 1 - eos))], tokens="spaces", eos=eos
    )
    assert len(vocabulary) == words

    def part(size: int) -> Any:
        return np.zeros(size, np.uint16)

    return Corpus(
        vocabulary,
        "line" if eos else "none",
        part(tokens),
        part(valid),
        None if test is None else part(test),
        "as given",
    )


@pytest.mark.parametrize(
    ("tokens", "batch"),
    [
        (2, 1),
        (15, 7),  # as many as have two tokens each
        (16, 8),
        (55_999, 8),  # 200 steps of 8 x 35 words are 56,000
        (63_000, 9),
        (279_999, 39),
        (280_000, 40),
        (2_000_000, 40),
    ],
)
def test_the_batch_grows_with_the_text(tokens: int, batch: int) -> None:
    plan = Plan.make(TrainOptions(), corpus(tokens))
    assert plan.batch == batch
    # Its rate follows the square root, 0.008 at 40 streams.
    assert plan.learning_rate == pytest.approx(0.008 * (batch / 40) ** 0.5, rel=1e-12)
    assert plan.steps_per_epoch == -(-((tokens - 1) // batch) // 35)


def test_embedding_cutoffs_are_among_the_outputs() -> None:
    """Beside those that the counts ask for."""
    options = TrainOptions(output="adaptive", embedding_cutoffs=(7, 30))
    config = Plan.make(options, corpus(60_000)).config
    assert config.embedding_cutoffs == (7, 30)
    plain = Plan.make(TrainOptions(output="adaptive"), corpus(60_000)).config
    assert set(config.cutoffs) == {*plain.cutoffs, 7, 30}
    assert [band.width for band in config.bands] == [256, 64, 16]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "needs a tied embedding and the adaptive output, got a full one, of 50 words"),
        (
            {"output": "adaptive", "tied": False},
            "needs a tied embedding and the adaptive output, got --untied",
        ),
        (
            {"output": "adaptive", "embedding_cutoffs": (50,)},
            "must be below the vocabulary's 50 words, got 50",
        ),
        (
            {"output": "adaptive", "embedding": 15, "embedding_cutoffs": (5, 9)},
            "must leave a width of at least 1 to each of 3 bands, each a quarter of the one before, "
            "got an embedding of 15",
        ),
    ],
)
def test_embedding_cutoffs_that_do_not_fit_are_one_line(options: dict[str, Any], message: str) -> None:
    with pytest.raises(GlassgateError, match=f"^--embedding-cutoffs: {message}$"):
        Plan.make(TrainOptions(**{"embedding_cutoffs": (5,), **options}), corpus(60_000))


def test_what_is_given_stays() -> None:
    options = TrainOptions(batch=3, learning_rate=0.25, dropout=0.125, unroll=4, hidden=20, epochs=2)
    plan = Plan.make(options, corpus(1_000))
    assert (plan.batch, plan.learning_rate, plan.unroll, plan.epochs) == (3, 0.25, 4, 2)
    assert (plan.config.dropout, plan.config.hidden, plan.config.vocabulary) == (0.125, 20, 50)


@pytest.mark.parametrize(
    ("tokens", "minutes", "epochs", "hidden", "dropout", "decay"),
    [
        # So small a network needs nothing against learning by heart.
        (1_000, None, None, 99, 0.0, 0.01),
        (2_000_000, None, 30, 99, 0.0, 0.01),
        # 5 ** 0.625 = 2.7344, 12 x 0.008 times that = 0.26250; 2 million tokens have 40 streams.
        (2_000_000, None, 15, 512, 0.12, 0.26250),  # at most 0.5 - 0.4 log3(2 / 0.7) = 0.1178
        (2_000_000, 60.0, None, 512, 0.12, 0.26250),  # 120 microseconds a word: 15 epochs
        (20_000_000, None, 15, 512, 0.1, 0.062248),  # 0.5 ** 0.625 = 0.64842
        (600_000, None, 15, 512, 0.5, 0.55709),  # 16.667 ** 0.625 = 5.8030
        (700_000, None, 5, 512, 0.22, 0.50592),  # 0.1 + 0.3 log2(5 / 3.75) = 0.2245; 14.286 ** 0.625 = 5.2700
        (2_000_000, 15.0, None, 512, 0.1, 0.26250),  # 3.75 epochs
        (2_000_000, None, 2, 512, 0.1, 0.26250),
        (2_000_000, 60.0, 1, 512, 0.1, 0.13125),  # the smaller budget counts
        (2_000_000, 2.0, None, 512, 0.1, 0.065625),  # half an epoch
        # A rate of 0.0056569: 0.18562. 60 + 4 x 60 microseconds: 6 epochs; 0.1 + 0.15 log2(6 / 5) = 0.1395.
        (2_000_000, 60.0, None, 1024, 0.14, 0.18562),
        (2_000_000, None, 10, 1024, 0.25, 0.18562),
        (2_000_000, 600.0, None, 1024, 0.25, 0.18562),  # ten epochs at most
        # As of 512 units: 0.1 + 0.3 log2(7 / 3.75) = 0.3702.
        (600_000, None, 7, 1024, 0.37, 0.39392),
        # 12 streams, a rate of 0.0043818; 112.5 ** 0.625 = 19.141
        (88_889, None, None, 100, 0.5, 1.00647),
        (1_000, None, None, 100, 0.5, 4.0),
    ],
)
@pytest.mark.parametrize("recipe", ["auto", "quick"])
def test_regularisation_follows_how_often_the_text_is_read(
    tokens: int,
    minutes: float | None,
    epochs: int | None,
    hidden: int,
    dropout: float,
    decay: float,
    recipe: Any,
) -> None:
    options = TrainOptions(recipe=recipe, hidden=hidden, minutes=minutes, epochs=epochs, precision="fp32")
    plan = Plan.make(options, corpus(tokens))
    assert plan.recipe == "quick"
    assert plan.config.dropout == dropout
    assert plan.weight_decay == pytest.approx(decay, rel=5e-5)  # the figures above have five digits
    assert plan.spectral == (hidden >= 100)


@pytest.mark.parametrize(
    ("words", "given", "output"),
    [
        (9_999, "auto", "full"),
        (10_000, "auto", "adaptive"),
        (15_001, "full", "full"),
        (2, "adaptive", "adaptive"),
        (3_000, "adaptive", "adaptive"),
    ],
)
@pytest.mark.parametrize("tied", [True, False])
def test_the_output_follows_the_vocabulary(words: int, given: Any, output: str, tied: bool) -> None:
    options = TrainOptions(output=given, hidden=16, embedding=8, tied=tied)
    text = corpus(20_000, words, eos=words > 2)
    shares = 1 / np.arange(1, words + 1)
    text.train[:] = np.random.default_rng(1).choice(words, 20_000, p=shares / shares.sum())
    plan = Plan.make(options, text)
    counts = np.bincount(text.train, minlength=words)
    expected = choose_cutoffs(counts, 8 if tied else 16, plan.batch * 35) if output == "adaptive" else ()
    assert (plan.config.output, plan.config.cutoffs) == (output, expected)


@pytest.mark.parametrize(
    ("options", "epochs", "seconds"),
    [
        ({}, 15, 600.0),
        ({"hidden": 99}, 30, 600.0),
        ({"hidden": 100, "minutes": 2.5}, 15, 150.0),
        ({"epochs": 4}, 4, None),
        ({"epochs": 40, "minutes": 3}, 40, 180.0),
    ],
)
def test_the_budget(options: dict[str, Any], epochs: int, seconds: float | None) -> None:
    plan = Plan.make(TrainOptions(**options), corpus(1_000))
    assert (plan.epochs, plan.seconds) == (epochs, seconds)
    assert plan.steps == epochs * plan.steps_per_epoch
    # Steps and time, whichever is further: the schedule ends with the budget.
    assert plan.progress(0, 0.0) == 0.0
    assert plan.progress(plan.steps, 0.0) == 1.0
    assert plan.progress(plan.steps // 2, 0.0) == pytest.approx(0.5)
    if seconds is None:
        assert plan.progress(0, 1e9) == 0.0
    else:
        assert plan.progress(0, seconds / 4) == 0.25
        assert plan.progress(0, 2 * seconds) == 1.0


@pytest.mark.parametrize(
    ("tokens", "every", "log"),
    [
        (569, 51, 1),  # 3 steps an epoch: 17 epochs
        (17_921, 64, 6),  # 64 steps an epoch
        (420_001, 1_500, 50),
        (420_281, 1_500, 50),  # 1,501 steps an epoch: at 1,500, not at its end
    ],
)
def test_when_it_validates_and_logs(tokens: int, every: int, log: int) -> None:
    plan = Plan.make(TrainOptions(batch=8, unroll=35), corpus(tokens))
    assert plan.validate_every == every
    assert plan.log_every == log


def test_a_text_shorter_than_one_batch_is_one_line() -> None:
    with pytest.raises(
        GlassgateError,
        match=r"^the text: is shorter than one batch: 600 streams need at least 1,200 tokens to train on, "
        r"got 1,000$",
    ):
        Plan.make(TrainOptions(batch=600), corpus(1_000))
    with pytest.raises(GlassgateError, match=r"^the text: is shorter than one batch: 1 streams"):
        Plan.make(TrainOptions(), corpus(1))


@pytest.mark.parametrize("part", ["train", "valid", "test"])
def test_without_eos_a_part_of_one_word_has_nothing_to_predict(part: str) -> None:
    sizes = {"tokens": 100, "valid": 100, "test": 100, {"train": "tokens"}.get(part, part): 1}
    with pytest.raises(GlassgateError, match=f"^the text: has no second word to predict in its {part} part"):
        Plan.make(TrainOptions(), corpus(eos=False, **sizes))
    Plan.make(TrainOptions(), corpus(100, eos=True, valid=1, test=1))  # <eos> stands before it
    Plan.make(TrainOptions(), corpus(100, eos=False, valid=2, test=None))


def test_a_model_larger_than_memory_is_refused_before_it_is_built(monkeypatch: pytest.MonkeyPatch) -> None:
    """In a memory of 16 MB, a million weights: one line that names what is too large."""
    pages = {"SC_PHYS_PAGES": 16_000, "SC_PAGE_SIZE": 1_000}
    monkeypatch.setattr(os, "sysconf", pages.__getitem__)

    def made(words: int = 50, **options: Any) -> int:
        plan = Plan.make(TrainOptions(**{"cell": "lstm", "bias": False, **options}), corpus(1_000, words))
        return sum(map(prod, plan.config.tensors().values()))

    told = r"take [\d.]+ GiB to train, this machine has 0\.0 GiB$"
    with pytest.raises(GlassgateError, match=rf"^--hidden: 1,300,400 weights {told}"):
        made(hidden=510, embedding=100, tied=True)  # 4 x 510 x 610 gates, 50 x 100 words, 100 x 510 for P
    with pytest.raises(GlassgateError, match=rf"^--embedding: [\d,]+ weights {told}"):
        made(hidden=100, embedding=3_000)
    with pytest.raises(
        GlassgateError,
        match=rf"^--minimum-count, --embedding-cutoffs: [\d,]+ weights of a model of 5,000 words {told}",
    ):
        made(hidden=50, embedding=200, words=5_000)
    weights = 4 * 400 * 500 + 50 * 100 + 100 * 400  # 13.5 MB with gradients and moments, 20.3 with an average
    with pytest.raises(GlassgateError, match=rf"^--hidden: {weights:,} weights {told}"):
        made(hidden=400, embedding=100)
    assert made(hidden=400, embedding=100, average=0.0) == weights
