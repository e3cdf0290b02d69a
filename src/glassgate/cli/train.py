"""``glassgate train``: from a text to a next-word model."""

import os
import sys
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from glassgate.cli.common import needs, word_numbers

Files = Annotated[
    list[Path] | None, typer.Argument(metavar="TEXT...", help="UTF-8 texts, .gz or plain; folders.")
]


def command(
    context: typer.Context,
    texts: Files = None,
    out: Annotated[Path, typer.Option("--out", help="The model folder to make.")] = Path("model"),
    valid: Annotated[list[Path] | None, typer.Option(help="Validation text; else a part of TEXT.")] = None,
    test: Annotated[
        list[Path] | None, typer.Option(help="Test text; else a part of TEXT, if --valid is too.")
    ] = None,
    recipe: Annotated[
        Literal["auto", "quick", "quality"] | None,
        typer.Option(help="Sizes and regularisation; auto: by text and budget.  [auto]"),
    ] = None,
    cell: Annotated[
        Literal["lstm", "gru"] | None, typer.Option(help="The recurrent cell.  [by recipe]")
    ] = None,
    reset: Annotated[
        Literal["before", "after"] | None,
        typer.Option(
            help="GRU: reset before the product (the notes) or after (torch).  [before with --cell gru]"
        ),
    ] = None,
    hidden: Annotated[int | None, typer.Option(help="Hidden size.  [by recipe, 512 or 1,024]")] = None,
    layers: Annotated[int | None, typer.Option(help="Layers.  [by recipe, 1]")] = None,
    embedding: Annotated[
        int | None, typer.Option(help="Width of the word embedding.  [by recipe, 256]")
    ] = None,
    embedding_cutoffs: Annotated[
        str | None,
        typer.Option(metavar="N,N", help="Words from which on it is a quarter as wide as before.  [none]"),
    ] = None,
    bias: Annotated[bool | None, typer.Option("--bias/--no-bias", help="Biases.  [bias]")] = None,
    tied: Annotated[
        bool | None, typer.Option("--tied/--untied", help="Whether V is the embedding.  [tied]")
    ] = None,
    output: Annotated[
        Literal["auto", "full", "adaptive"] | None,
        typer.Option(help="The softmax; auto: adaptive from 10,000 words on.  [auto]"),
    ] = None,
    dropout: Annotated[
        float | None, typer.Option(help="Share of x and h dropped in training.  [by recipe, text and budget]")
    ] = None,
    weight_drop: Annotated[
        float | None, typer.Option(help="Share of the recurrent weights dropped in training.  [by recipe]")
    ] = None,
    activation_penalty: Annotated[
        float | None, typer.Option(help="AR: on the squares of h.  [by recipe]")
    ] = None,
    slowness_penalty: Annotated[
        float | None, typer.Option(help="TAR: on the squares of the changes of h.  [by recipe]")
    ] = None,
    average: Annotated[
        float | None, typer.Option(help="Share of the budget whose weights are averaged.  [by recipe]")
    ] = None,
    random_unroll: Annotated[
        bool | None,
        typer.Option("--random-unroll/--fixed-unroll", help="Whether the unroll length varies.  [by recipe]"),
    ] = None,
    spectral: Annotated[
        bool | None,
        typer.Option(
            "--spectral/--random-embedding",
            help="Whether the embedding begins with what neighbours tell.  [by recipe]",
        ),
    ] = None,
    epochs: Annotated[int | None, typer.Option(help="Budget: times through the text.")] = None,
    minutes: Annotated[float | None, typer.Option(help="Budget: minutes.  [10, at most 15 epochs]")] = None,
    batch: Annotated[int | None, typer.Option(help="Parallel streams.  [by text size, 8 to 40]")] = None,
    unroll: Annotated[int | None, typer.Option(help="Steps of truncated BPTT.  [35]")] = None,
    learning_rate: Annotated[
        float | None, typer.Option(help="Peak of the one-cycle.  [0.008 for 40 streams and 512 units]")
    ] = None,
    weight_decay: Annotated[
        float | None, typer.Option(help="Of AdamW.  [by recipe, text and budget]")
    ] = None,
    clip: Annotated[float | None, typer.Option(help="Largest gradient norm.  [1]")] = None,
    precision: Annotated[
        Literal["auto", "fp32", "bf16"] | None,
        typer.Option(help="Of the factors of training's products; auto: bf16 where it is faster.  [auto]"),
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Of all that is drawn.  [1]")] = None,
    threads: Annotated[int | None, typer.Option(help="Processor threads.  [all cores]")] = None,
    tokens: Annotated[
        Literal["spaces", "words"] | None,
        typer.Option(help="What stands between spaces, or words and marks.  [as the text suggests]"),
    ] = None,
    eos: Annotated[
        Literal["line", "paragraph", "none"] | None,
        typer.Option(help="What <eos> ends.  [as the text suggests]"),
    ] = None,
    lowercase: Annotated[
        bool | None, typer.Option("--lowercase/--keep-case", help="Drop case.  [keep]")
    ] = None,
    minimum_count: Annotated[
        int | None, typer.Option(help="Rarer words become <unk>.  [2; 1 if the text has <unk>]")
    ] = None,
    closed_vocabulary: Annotated[
        bool | None,
        typer.Option("--closed-vocabulary/--open-vocabulary", help="No <unk>: every word is known.  [open]"),
    ] = None,
    save_every: Annotated[
        float, typer.Option(metavar="SECONDS", help="Time between checkpoints; no result depends on it.")
    ] = 60.0,
    device: Annotated[
        Literal["cpu", "cuda"],
        typer.Option(help="Where it computes: the CPU's kernels, or torch's layers on a CUDA device."),
    ] = "cpu",
    resume: Annotated[bool, typer.Option("--resume", help="Go on with an interrupted training.")] = False,
) -> None:
    """Train a next-word model on your own text; at its end the folder holds the model and its figures.

    Without --valid and --test the first 90 % of the text train, the next 5 % validate, the last 5 %
    test. The learning rate ends with the budget. Ctrl-C saves; --resume goes on.
    """
    needs("torch", "train")
    from glassgate.errors import GlassgateError
    from glassgate.language.options import TrainOptions
    from glassgate.language.training import train

    names = TrainOptions.__dataclass_fields__
    given: dict[str, Any] = {n: v for n, v in context.params.items() if n in names and v is not None}
    if embedding_cutoffs is not None:
        given["embedding_cutoffs"] = word_numbers("--embedding-cutoffs", embedding_cutoffs)
    if not texts and not resume:
        raise GlassgateError("TEXT: expected a text to train on, got none")
    outcome = train(
        texts or [],
        out,
        TrainOptions(**given),
        valid=valid or [],
        test=test or [],
        resume=resume,
        given=given,
        save_every=save_every,
        device=device,
    )
    if not outcome.finished:
        sys.exit(130)  # not typer's Exit, by which `main` would say once more that it was interrupted
    if os.environ.get("RANK", "0") == "0":  # torchrun's other processes write nothing
        typer.echo(f"the model is in {out}", err=True)
