"""Count what a model folder holds."""

from pathlib import Path

from glassgate.errors import GlassgateError
from glassgate.folder.compact import SCALES
from glassgate.folder.config import ModelConfig
from glassgate.folder.model import CONFIG, WEIGHTS, check_files
from glassgate.folder.weights import read_header
from glassgate.parameters import Count, Network, count

__all__ = ["count_folder"]


def count_folder(folder: Path | str) -> Count:
    """Count the weights that a model folder holds, from the header of its weights' file.

    No weight is loaded. Every tensor of the file must be the one that config.json tells of, so that
    what is counted is what is there.

    Parameters
    ----------
    folder
        A model folder, as ``glassgate train`` writes it.

    Returns
    -------
    Count
        As from `count`, with ``bias="double"`` for a model that has biases.

    Raises
    ------
    GlassgateError
        When the folder is missing, damaged or not of glassgate.

    Examples
    --------
    >>> count_folder("no-such-folder")
    Traceback (most recent call last):
    glassgate.errors.GlassgateError: no-such-folder: no such model folder
    """
    folder = Path(folder)
    network, held = _read_folder(folder)
    counted = count(network)
    told = counted.tensors()
    odd = sorted(name for name in told.keys() | held.keys() if told.get(name) != held.get(name))
    if odd:
        expected, came = (tensors.get(odd[0], "none") for tensors in (told, held))
        raise GlassgateError(
            f"{folder}: config.json and model.safetensors differ on {odd[0]}: expected {expected}, got {came}"
        )
    return counted


def _read_folder(folder: Path) -> tuple[Network, dict[str, tuple[int, ...]]]:
    """Read what config.json tells, and the shape of each tensor in the header of model.safetensors."""
    check_files(folder, WEIGHTS)
    config = ModelConfig.load(folder / CONFIG)
    header = read_header(folder / WEIGHTS)
    header.pop("__metadata__", None)
    shapes = {name: tuple(entry["shape"]) for name, entry in header.items()}
    for name in [name for name, entry in header.items() if entry["dtype"] == "I8"]:
        shapes.pop(name + SCALES, None)  # no weights: they say what one step of an integer is
    try:
        network = Network(
            cell=config.cell,
            input=config.embedding,
            hidden=config.hidden,
            layers=config.layers,
            vocabulary=config.vocabulary,
            bias="double" if config.bias else "none",
            tied=config.tied,
            reset=config.reset if config.cell == "gru" else "before",
            clusters=len(config.cutoffs),
            bands=tuple((band.stop - band.start, band.width) for band in config.bands[1:]),
        )
    except GlassgateError as error:
        raise GlassgateError(f"{folder / CONFIG}: {error}") from error
    return network, shapes
