"""README.md of a model folder: the card that says what the model is and how good it is."""

from collections.abc import Mapping, Sequence

from glassgate.folder.config import ModelConfig

__all__ = ["write_card"]


def write_card(
    config: ModelConfig,
    weights: int,
    lowercase: bool,
    training: Mapping[str, str],
    figures: Sequence[tuple[str, str]],
) -> str:
    """Write the card of a next-word model as Markdown.

    Parameters
    ----------
    config
        What the model is.
    weights
        How many trainable weights it has, the embedding included.
    lowercase
        Whether its vocabulary drops case.
    training
        How it was trained, by name.
    figures
        What was measured on it: name and value.

    Returns
    -------
    str
        The text of README.md.

    Examples
    --------
    >>> config = ModelConfig(cell="lstm", vocabulary=100, embedding=10, hidden=20)
    >>> card = write_card(config, 5400, False, {"seed": "1"}, [("validation perplexity", "12.3")])
    >>> print(card.splitlines()[0])
    # A next-word model: LSTM, 1 layer of 20
    """
    cell = "LSTM" if config.cell == "lstm" else f"GRU (reset {config.reset} the product)"
    layers = "1 layer" if config.layers == 1 else f"{config.layers} layers"
    formula = (
        "softmax(V P h + c)" if config.tied and config.embedding != config.hidden else "softmax(V h + c)"
    )
    if not config.bias:
        formula = formula.replace(" + c", "")
    output = (
        "full softmax" if config.output == "full" else f"adaptive softmax, cutoffs {list(config.cutoffs)}"
    )
    narrow = "".join(f", {band.width} from word {band.start:,} on" for band in config.bands[1:])
    ends = {"line": "line", "paragraph": "paragraph", "none": "nothing: there is no such token"}[config.eos]
    facts = [
        ("vocabulary", f"{config.vocabulary:,} words" + (", lower case" if lowercase else "")),
        ("`<eos>` ends a", ends) if config.eos != "none" else ("`<eos>` ends", ends),
        ("embedding", f"{config.embedding} wide{narrow}" + (", tied to the output" if config.tied else "")),
        ("output", f"y = {formula}, {output}"),
        ("biases", "yes" if config.bias else "none"),
        ("trainable weights", f"{weights:,} with the embedding"),
    ]
    return "\n".join(
        [
            f"# A next-word model: {cell}, {layers} of {config.hidden}",
            "",
            "It gives the probabilities of the next word of a text.",
            "",
            *_table(facts),
            "",
            "## Measured",
            "",
            *_table(figures),
            "",
            "Perplexity is exp(negative log-likelihood in nats / tokens). It compares with that of another",
            "model where both read the same tokens, and with the same words as `<unk>`, only.",
            "",
            "## Training",
            "",
            *_table(list(training.items())),
            "",
            "## Use",
            "",
            '    glassgate predict DIR "a few words" -k 5',
            '    glassgate generate DIR --prompt "a few words" --words 50',
            "    glassgate evaluate DIR text.txt",
            "",
            "The model knows the words and habits of the text that it was trained on, and no others; it may",
            "repeat what stands there. Files: config.json, model.safetensors (weights), tokenizer.json",
            "(vocabulary), metrics.jsonl and loss.png (the training's course).",
            "",
        ]
    )


def _table(rows: Sequence[tuple[str, str]]) -> list[str]:
    return ["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows)]
