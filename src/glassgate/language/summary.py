"""What a training says of itself: at its start on the terminal, at its end in the model's card."""

from glassgate.language.checkpoint import Progress
from glassgate.language.options import Plan, TrainOptions
from glassgate.language.progress import clock

__all__ = ["introduction", "training_rows"]


def introduction(plan: Plan, weights: int, done: int) -> str:
    """Return the two lines that a training begins with.

    Parameters
    ----------
    plan
        Its numbers.
    weights
        How many the model has.
    done
        The steps that are done, where it is resumed.
    """
    config = plan.config
    ends = [f"{plan.epochs} epoch{'s' * (plan.epochs > 1)} ({plan.steps:,} steps)"]
    if plan.seconds is not None:
        ends.insert(0, clock(plan.seconds))
    narrow = "".join(f", {band.width} from word {band.start:,}" for band in config.bands[1:])
    resumed = f"going on at step {done:,}; " if done else ""
    return (
        f"{resumed}{config.cell.upper()} {config.layers} x {config.hidden}, embedding {config.embedding}"
        f"{' (tied)' if config.tied else ''}{narrow}, {config.output} softmax\n"
        f"{weights:,} weights with the embedding; recipe {plan.recipe}: "
        f"{plan.batch} streams of {plan.unroll} words a step, {plan.precision}, dropout {config.dropout:g}, "
        f"for {' or '.join(ends)}{', what comes first' if len(ends) > 1 else ''}"
    )


def training_rows(plan: Plan, options: TrainOptions, text: str, progress: Progress) -> dict[str, str]:
    """Return how a model was trained, for its card.

    Parameters
    ----------
    plan, options
        The training's numbers, and what was asked for.
    text
        What it read, in words.
    progress
        How far it came.
    """
    epochs, spent = progress.step / plan.steps_per_epoch, clock(progress.seconds)
    return {
        "text": text,
        "budget": f"{progress.step:,} steps ({epochs:.2f} epochs) in {spent}",
        "batch and unroll": f"{plan.batch} streams, {plan.unroll} words",
        "optimiser": f"AdamW, weight decay {plan.weight_decay:g}, gradient norm <= {options.clip:g}",
        "learning rate": f"one cycle, up to {plan.learning_rate:.2g}",
        "recipe": plan.recipe,
        "precision of products": plan.precision,
        "dropout": f"{plan.config.dropout:g}; of recurrent weights {plan.weight_drop:g}",
        "AR and TAR": f"{plan.activation_penalty:g} and {plan.slowness_penalty:g}",
        "average": f"of the last {plan.average:.0%} of the budget" if plan.average else "none",
        "seed": str(options.seed),
    }
