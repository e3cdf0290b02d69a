"""What a training can be told, with its defaults and bounds."""

import os
from dataclasses import asdict, dataclass, fields, replace
from itertools import pairwise
from math import isfinite, prod
from typing import Any, Literal, TypeAlias, get_args

from glassgate.errors import GlassgateError
from glassgate.folder.config import LARGEST_SIZE, NARROWER, Cell, Eos, ModelConfig, Output, Reset
from glassgate.folder.vocabulary import Tokens
from glassgate.language.corpus import Corpus, TextOptions, count_words
from glassgate.language.recipes import (
    LARGE,
    LARGE_BATCH,
    RECIPES,
    Recipe,
    RecipeChoice,
    choose_dropout,
    choose_precision,
    choose_rate,
    choose_recipe,
    choose_weight_decay,
    expected_epochs,
)
from glassgate.layers.cutoffs import choose_cutoffs
from glassgate.layers.recurrent import Precision
from glassgate.parameters.network import MOST_LAYERS

__all__ = ["Plan", "TrainOptions"]

DEFAULT_MINUTES = 10.0
MOST_EPOCHS = 15  # where time alone is given; twice as many do no better, a small text is learned by heart
MOST_EPOCHS_OF_SMALL = 30  # of a hidden size below 100
MOST_EPOCHS_OF_LARGE = 10  # of 1,024 units or more, which sixteen do not teach more
LARGE_VOCABULARY = 10_000  # words from which on `auto` takes the adaptive softmax
MOST_UNSEEN = 1_500  # steps between validations, which cost as much as 50
SMALL = 100  # hidden size below which a model can hardly learn its text, and nothing is regularised
STEPS_PER_EPOCH = 200  # at least so many, as far as the batch can shrink
OutputChoice: TypeAlias = Literal["auto", "full", "adaptive"]
PrecisionChoice: TypeAlias = Literal["auto", "fp32", "bf16"]
CHOICES = {
    "recipe": RecipeChoice,
    "cell": Cell,
    "reset": Reset,
    "output": OutputChoice,
    "precision": PrecisionChoice,
    "tokens": Tokens,
    "eos": Eos,
}
MOST = {
    "threads": 1024,  # so many the operating system gives; without them the process would end at once
    "hidden": LARGEST_SIZE,
    "embedding": LARGEST_SIZE,
    "layers": MOST_LAYERS,
    "epochs": 1_000_000,
    "unroll": 10_000,  # steps whose states a backward pass holds
    "minutes": 525_600,  # a year
}
BYTES = 16  # that a weight takes in training: itself, its gradient and two moments, in float32
AVERAGED = 8  # more where weights are averaged: the mean, and what a validation puts aside for it


@dataclass(frozen=True, kw_only=True)
class TrainOptions:
    """Options of a training; None stands for what `Plan` derives from the text.

    Each attribute is the command-line option of the same name. ``embedding_cutoffs`` are the words from which
    on the embedding is a quarter as wide as before.

    Examples
    --------
    >>> TrainOptions(hidden=-3)
    Traceback (most recent call last):
    glassgate.errors.GlassgateError: --hidden: must be at least 1, got -3
    """

    recipe: RecipeChoice = "auto"
    cell: Cell | None = None
    reset: Reset | None = None
    hidden: int | None = None
    layers: int | None = None
    embedding: int | None = None
    embedding_cutoffs: tuple[int, ...] = ()
    bias: bool = True
    tied: bool = True
    output: OutputChoice = "auto"
    precision: PrecisionChoice = "auto"
    dropout: float | None = None
    weight_decay: float | None = None
    weight_drop: float | None = None
    activation_penalty: float | None = None
    slowness_penalty: float | None = None
    average: float | None = None
    random_unroll: bool | None = None
    spectral: bool | None = None
    epochs: int | None = None
    minutes: float | None = None
    batch: int | None = None
    unroll: int = 35
    learning_rate: float | None = None
    clip: float = 1.0
    seed: int = 1
    threads: int | None = None
    tokens: Tokens | None = None
    eos: Eos | None = None
    lowercase: bool = False
    minimum_count: int | None = None
    closed_vocabulary: bool = False

    def __post_init__(self) -> None:
        for name, choices in CHOICES.items():
            value = getattr(self, name)
            if value is not None and value not in get_args(choices):
                raise GlassgateError(f"--{name}: must be {' or '.join(get_args(choices))}, got {value!r}")
        narrow = tuple(self.embedding_cutoffs)  # JSON has lists
        object.__setattr__(self, "embedding_cutoffs", narrow)
        if not all(0 < a < b for a, b in pairwise((*narrow, LARGEST_SIZE))):
            raise GlassgateError(
                f"--embedding-cutoffs: must rise from above 0, got {','.join(map(str, narrow))}"
            )
        for name in ("hidden", "layers", "embedding", "epochs", "batch", "unroll", "threads"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise GlassgateError(f"--{name}: must be at least 1, got {value}")
        for name in ("minutes", "learning_rate", "clip"):
            value = getattr(self, name)
            if value is not None and not (isfinite(value) and value > 0):
                raise GlassgateError(f"--{name.replace('_', '-')}: must be above 0, got {value}")
        for name, most in MOST.items():
            value = getattr(self, name)
            if value is not None and value > most:
                raise GlassgateError(f"--{name}: must be at most {most:,}, got {value:,}")
        for name in ("weight_decay", "activation_penalty", "slowness_penalty"):
            value = getattr(self, name)
            if value is not None and not (isfinite(value) and value >= 0):
                raise GlassgateError(f"--{name.replace('_', '-')}: must be at least 0, got {value}")
        for name in ("dropout", "weight_drop", "average"):
            value = getattr(self, name)
            if value is not None and not 0 <= value < 1:
                raise GlassgateError(
                    f"--{name.replace('_', '-')}: must be at least 0 and below 1, got {value}"
                )
        if not 0 <= self.seed < 2**31:
            raise GlassgateError(f"--seed: must be at least 0 and below 2^31, got {self.seed}")
        self.text  # noqa: B018  # checks the options of the text as well

    @property
    def text(self) -> TextOptions:
        """The options that say how text becomes tokens."""
        return TextOptions(
            tokens=self.tokens,
            eos=self.eos,
            lowercase=self.lowercase,
            minimum_count=self.minimum_count,
            closed=self.closed_vocabulary,
        )

    def as_dict(self) -> dict[str, Any]:
        """Return the options as JSON can hold them."""
        return asdict(self)

    def differing(self, given: dict[str, Any]) -> list[str]:
        """Name the options among ``given`` that have another value here."""
        known = {field.name for field in fields(self)}
        return [name for name, value in given.items() if name in known and getattr(self, name) != value]


@dataclass(frozen=True)
class Plan:
    """All numbers of a training, derived from its options and the size of its text.

    The rules, each used where the option is not given:

    - recipe: ``quality`` for a long text that the budget lets it read often, else ``quick``
      (`choose_recipe`); it gives the sizes and the regularisation (`Recipe`);
    - batch: 40 streams, or fewer so that an epoch has 200 steps; at least 8 as long as the text
      suffices;
    - learning rate: 0.008 x sqrt(batch / 40), times sqrt(512 / hidden size) where that is below 1, the
      peak of the one-cycle schedule;
    - dropout and weight decay, where the recipe leaves them open, follow the length of the text and how
      often it will be read (`choose_dropout`, `choose_weight_decay`);
    - a hidden size below 100 has no dropout nor other regularisers, but a weight decay of 0.01, and its
      embedding begins at random;
    - output: adaptive from 10,000 words on, with cutoffs that `choose_cutoffs` finds in the counts of
      the training text;
    - precision: bf16 where the processor multiplies it faster and the hidden size is 100 or more
      (`choose_precision`);
    - budget: 10 minutes; and where only time is given at most 15 epochs, 30 of a hidden size below 100, 10
      of 1,024 or more.
    """

    recipe: str
    config: ModelConfig
    precision: Precision
    weight_decay: float
    weight_drop: float
    activation_penalty: float
    slowness_penalty: float
    average: float
    random_unroll: bool
    spectral: bool
    batch: int
    unroll: int
    learning_rate: float
    epochs: int
    seconds: float | None
    steps_per_epoch: int

    @classmethod
    def make(cls, options: TrainOptions, corpus: Corpus) -> "Plan":
        """Derive the plan.

        Raises
        ------
        GlassgateError
            When the training text is shorter than one batch, a part of the text has nothing to
            predict, or the machine's memory does not hold the model.
        """
        parts = {"train": corpus.train, "valid": corpus.valid, "test": corpus.test}
        for name, part in parts.items():
            if part is not None and len(part) < 2 and corpus.vocabulary.eos is None:
                raise GlassgateError(
                    f"the text: has no second word to predict in its {name} part: expected a longer text"
                )
        tokens = len(corpus.train)
        wanted = tokens // (options.unroll * STEPS_PER_EPOCH)
        batch = options.batch or max(1, min(max(wanted, 8), LARGE_BATCH, tokens // 2))
        if tokens < 2 * batch:
            raise GlassgateError(
                f"the text: is shorter than one batch: {batch} streams need at least {2 * batch:,} tokens "
                f"to train on, got {tokens:,}"
            )
        steps = -(-((tokens - 1) // batch) // options.unroll)
        timed = options.minutes is not None or options.epochs is None
        minutes = options.minutes or DEFAULT_MINUTES if timed else None
        chosen = _recipe(options, tokens, minutes)
        recipe = _followed(options, chosen)
        epochs = options.epochs or _most_epochs(recipe.hidden)
        precision = _precision(options, recipe.hidden)
        expected = expected_epochs(tokens, epochs, minutes, recipe.hidden, precision)
        rate = options.learning_rate or choose_rate(batch, recipe.hidden)
        words = len(corpus.vocabulary)
        output: Output = "adaptive" if words >= LARGE_VOCABULARY else "full"
        if options.output != "auto":
            output = options.output
        cutoffs: tuple[int, ...] = ()
        _check_narrow(options, output, words, recipe.embedding)
        if output == "adaptive":
            width = recipe.embedding if options.tied else recipe.hidden
            cutoffs = choose_cutoffs(count_words(corpus.train, words), width, batch * options.unroll)
            cutoffs = tuple(sorted({*cutoffs, *options.embedding_cutoffs}))
        dropout, decay = recipe.dropout, recipe.weight_decay
        if dropout is None:
            dropout = choose_dropout(tokens, expected, recipe.hidden)
        if decay is None:
            decay = choose_weight_decay(tokens, expected, rate)
        config = ModelConfig(
            cell=recipe.cell,
            reset=recipe.reset,
            vocabulary=words,
            embedding=recipe.embedding,
            hidden=recipe.hidden,
            layers=recipe.layers,
            bias=options.bias,
            tied=options.tied,
            output=output,
            cutoffs=cutoffs,
            embedding_cutoffs=options.embedding_cutoffs,
            dropout=dropout,
            eos=corpus.eos,
        )
        _check_memory(config, BYTES + AVERAGED * (recipe.average > 0))
        return cls(
            recipe=chosen,
            config=config,
            precision=precision,
            weight_decay=decay,
            weight_drop=recipe.weight_drop,
            activation_penalty=recipe.activation_penalty,
            slowness_penalty=recipe.slowness_penalty,
            average=recipe.average,
            random_unroll=recipe.random_unroll,
            spectral=recipe.spectral,
            batch=batch,
            unroll=options.unroll,
            learning_rate=rate,
            epochs=epochs,
            seconds=None if minutes is None else 60 * minutes,
            steps_per_epoch=steps,
        )

    @property
    def steps(self) -> int:
        """The number of steps that end the training, should its time not end it before."""
        return self.epochs * self.steps_per_epoch

    @property
    def validate_every(self) -> int:
        """Steps between validations: an epoch, or 1,500 of a long one, or some short ones."""
        steps = self.steps_per_epoch
        return MOST_UNSEEN if steps > MOST_UNSEEN else steps * -(-50 // steps)

    @property
    def log_every(self) -> int:
        """Steps between rows of metrics.jsonl."""
        return max(1, min(self.steps_per_epoch // 10, 50))

    def progress(self, step: int, seconds: float) -> float:
        """Return the share of the budget that is spent: of the steps or of the time, the larger."""
        spent = step / self.steps
        return min(1.0, spent if self.seconds is None else max(spent, seconds / self.seconds))


def _check_narrow(options: TrainOptions, output: Output, words: int, width: int) -> None:
    narrow, name = options.embedding_cutoffs, "--embedding-cutoffs"
    if narrow and not (options.tied and output == "adaptive"):
        came = "--untied" if not options.tied else f"a full one, of {words:,} words"
        raise GlassgateError(f"{name}: needs a tied embedding and the adaptive output, got {came}")
    if narrow and narrow[-1] >= words:
        raise GlassgateError(f"{name}: must be below the vocabulary's {words:,} words, got {narrow[-1]:,}")
    if width < NARROWER ** len(narrow):
        raise GlassgateError(
            f"{name}: must leave a width of at least 1 to each of {len(narrow) + 1} bands, each a quarter of "
            f"the one before, got an embedding of {width}"
        )


def _precision(options: TrainOptions, hidden: int) -> Precision:
    return choose_precision(hidden) if options.precision == "auto" else options.precision


def _recipe(options: TrainOptions, tokens: int, minutes: float | None) -> str:
    if options.recipe != "auto":
        return options.recipe
    if options.hidden is not None:
        return "quick"  # without what `quality` has beside its size
    precision = _precision(options, RECIPES["quality"].hidden)
    return choose_recipe(tokens, options.epochs or MOST_EPOCHS_OF_LARGE, minutes, precision)


def _most_epochs(hidden: int) -> int:
    """Return how often a text is read at most where time alone is given."""
    if hidden < SMALL:
        return MOST_EPOCHS_OF_SMALL
    return MOST_EPOCHS if hidden < LARGE else MOST_EPOCHS_OF_LARGE


def _followed(options: TrainOptions, name: str) -> Recipe:
    """Return a recipe with what the options say in its place."""
    recipe = RECIPES[name]
    if (options.hidden or recipe.hidden) < SMALL:
        # What can hardly learn its text needs next to nothing against learning it by heart; as in the notes
        # it begins at random.
        recipe = Recipe(dropout=0.0, weight_decay=0.01)
    said = {field.name: getattr(options, field.name) for field in fields(Recipe)}
    if options.cell is not None and options.reset is None:
        said["reset"] = "before"  # a GRU that is asked for is the notes'
    return replace(recipe, **{name: value for name, value in said.items() if value is not None})


def _check_memory(config: ModelConfig, size: int) -> None:
    shapes = config.tensors()
    weights = sum(map(prod, shapes.values()))
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if size * weights <= memory:
        return
    recurrent = sum(prod(shape) for name, shape in shapes.items() if name.startswith("rnn."))
    if 2 * recurrent < weights and config.vocabulary > config.width:
        where, share = "--minimum-count, --embedding-cutoffs", f" of a model of {config.vocabulary:,} words"
    else:
        where, share = "--embedding" if config.embedding > config.hidden else "--hidden", ""
    raise GlassgateError(
        f"{where}: {weights:,} weights{share} take {size * weights / 2**30:,.1f} GiB to train, "
        f"this machine has {memory / 2**30:,.1f} GiB"
    )
