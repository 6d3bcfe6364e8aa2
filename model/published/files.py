"""The files of published models: in a folder, or on the Hugging Face hub; all of them, or what their headers say."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from ...infra.configuration import of_texts
from ...infra.formats import pth
from ..checkpoint import CONFIG, WEIGHTS, read_config, read_shapes, read_weights
from . import of_tensors


def pickled(source: str | Path) -> Path | None:
    """The .pt that a local place is, or that its folder holds alone, as of TerraMind; None if there is none."""
    return pth.alone(source, WEIGHTS)


def _read_pickled(file: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors mapped from a .pt, and the configuration that they show; a config.json beside it comes before that."""
    tensors = pth.tensors(file)
    if not of_tensors.is_model(tensors):
        raise ValueError(
            f"{file}: its tensors are those of no 4M model; expected `mask_token` and `encoder_embeddings.`"
        )
    said = _config(file.parent, {})
    try:
        return tensors, of_tensors.configuration(tensors, {}, said.get("num_heads")) | said
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from None


def read(folder: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors of a folder or .pt, float32, and its configuration. ValueError if one is missing, or damaged."""
    if file := pickled(folder):
        tensors, config = _read_pickled(file)
        return {key: value.float() for key, value in tensors.items()}, config
    stored, header = read_weights(_weights(folder))
    config = _config(folder, header)
    if not config:
        raise ValueError(f"{folder / WEIGHTS}: no {CONFIG} beside it and no configuration in its header")
    return {key: value.float() for key, value in stored.items()}, config


def headers(source: str | Path, revision: str | None = None) -> tuple[dict[str, list[int]], dict[str, Any]]:
    """Name -> shape of a model's tensors, and its configuration; of the hub nothing but headers is fetched, and
    ({}, {}) is what cannot be asked. ValueError as for `read`."""
    if file := pickled(source):
        tensors, config = _read_pickled(file)
        return {name: list(one.shape) for name, one in tensors.items()}, config
    if Path(source).is_dir():
        return _headers(Path(source))
    from huggingface_hub import get_safetensors_metadata, try_to_load_from_cache

    hub_id = str(source)
    cached = try_to_load_from_cache(hub_id, WEIGHTS, revision=revision)
    if isinstance(cached, str):
        return _headers(Path(cached).parent)
    try:
        found = get_safetensors_metadata(hub_id, revision=revision).files_metadata[WEIGHTS]
        folder = download(hub_id, revision, [CONFIG])
    except Exception:  # of many kinds: whether the model is there is said by `check_hub`
        return {}, {}
    return {name: list(one.shape) for name, one in found.tensors.items()}, _config(folder, found.metadata)


def config(source: str | Path, revision: str | None = None) -> dict[str, Any]:
    """A model's configuration; of the hub its config.json alone is fetched, and where that is not of a 4M model, as of
    TerraMind, the weights. ValueError if there is none."""
    here = Path(source)
    local, found = here.is_dir() or pickled(here) is not None, dict[str, Any]()
    if not local:
        found = _config(download(str(source), revision, [CONFIG]), {})
    if "domains_in" not in found:
        folder = here if local else download(str(source), revision)
        file = pickled(folder)
        found = _read_pickled(file)[1] if file else _headers(folder)[1]
    if not found:
        raise ValueError(f"{source}: no {CONFIG}, and no configuration in the header of {WEIGHTS}")
    return found


def _headers(folder: Path) -> tuple[dict[str, list[int]], dict[str, Any]]:
    shapes, header = read_shapes(_weights(folder))
    return shapes, _config(folder, header)


def _weights(folder: Path) -> Path:
    if not (path := folder / WEIGHTS).is_file():
        raise ValueError(f"{folder} holds no {WEIGHTS}; expected a folder in the format of apple/ml-4m, or a Hub id")
    return path


def _config(folder: Path, header: Mapping[str, str]) -> dict[str, Any]:
    """The configuration of a folder, or of the header of its weights; {} if neither has one."""
    if (folder / CONFIG).is_file():
        return read_config(folder / CONFIG)
    return of_texts(header) if "domains_in" in header else {}


def check_hub(hub_id: str, revision: str | None = None) -> None:
    """ValueError if the hub says it has no such model; one that cannot be asked is no error. Fetches no weights."""
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        download(hub_id, revision, [CONFIG])
    except ValueError as error:
        if not isinstance(error.__cause__, LocalEntryNotFoundError):
            raise


def download(hub_id: str, revision: str | None, files: Sequence[str] = (WEIGHTS, CONFIG, "*.pt")) -> Path:
    """The folder of a model of the hub, with these of its files. ValueError if the hub does not give it."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError

    if hub_id.count("/") != 1 or hub_id.startswith((".", "/")):
        raise ValueError(f"{hub_id}: no such folder, and no Hugging Face Hub id (OWNER/NAME)")
    try:
        return Path(snapshot_download(hub_id, revision=revision, allow_patterns=list(files)))
    except (OSError, HFValidationError) as error:  # the Hub's own errors are OSErrors
        raise ValueError(
            f"{hub_id}: no such folder, and the Hugging Face Hub did not give it: {error}; check the id and the "
            "network, or give a folder with model.safetensors"
        ) from error
