"""Count what a model folder holds."""

from pathlib import Path

from glassgate.errors import GlassgateError
from glassgate.parameters.counting import Count, count
from glassgate.parameters.network import Network

__all__ = ["count_folder"]


def count_folder(folder: Path | str) -> Count:
    """Count the weights that a model folder holds, from the header of its weights' file.

    No weight is loaded. Every tensor of the file must be the one that config.json tells of, so that
    what is counted is what is there. (This function alone needs more than the standard library.)

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
    # Imported here alone: the folder's reader stands below this module and needs NumPy.
    from safetensors import SafetensorError, safe_open

    from glassgate.folder.config import ModelConfig

    if not folder.is_dir():
        raise GlassgateError(f"{folder}: no such model folder")
    for name in ("config.json", "model.safetensors"):
        if not (folder / name).is_file():
            raise GlassgateError(f"{folder}: is no whole model folder: {name} is missing")
    config = ModelConfig.load(folder / "config.json")
    weights = folder / "model.safetensors"
    try:
        with safe_open(weights, framework="numpy") as file:
            shapes = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    except OSError as error:
        raise GlassgateError(f"{weights}: cannot be read: {error.strerror or error}") from error
    except SafetensorError as error:
        raise GlassgateError(f"{weights}: is damaged or no safetensors file: {error}") from error
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
        )
    except GlassgateError as error:
        raise GlassgateError(f"{folder / 'config.json'}: {error}") from error
    return network, shapes
