"""The native checkpoint of a 4M model: `model.safetensors` and `config.json` in one folder; no pickle.

`tokenizers.json` beside them, of models of all formats, holds the fingerprint of each tokenizer whose ids the model has
learned; models of older releases, and published ones, lack it.

`ml4m.save` writes the same model for apple/ml-4m; this form keeps fourmill's names and needs no published vocabulary.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..infra import side_files, storage, sums
from ..infra.formats import header as headers
from .config import CONFIG, TOKENIZERS, WEIGHTS, FourMConfig
from .fourm import FourM

__all__ = [
    "CONFIG", "TOKENIZERS", "WEIGHTS", "load", "read_config", "read_shapes", "read_tokenizers", "read_weights",
    "save", "write", "write_tokenizers",
]  # fmt: skip


def save(model: FourM, folder: str | Path) -> None:
    """Write a model and the sums of its files; the configuration comes last, so that a folder that has one is whole."""
    tensors = {k: v.detach().cpu().contiguous() for k, v in model.state_dict().items()}
    write_tokenizers(model, folder)
    write(Path(folder), tensors, model.config.to_dict(), sealed=True)


def load(folder: str | Path, device: torch.device | str = "cpu") -> FourM:
    """Read a model that `save` wrote, onto `device`, in evaluation mode.

    Raises:
        ValueError: the folder is not a whole checkpoint, its tensors do not fit its configuration, or a file is not the
            one that was written.
    """
    folder = Path(folder)
    if not (folder / CONFIG).is_file() or not (folder / WEIGHTS).is_file():
        raise ValueError(f"{folder}: expected {WEIGHTS} and {CONFIG}; is this a checkpoint, and was it written whole?")
    config, (tensors, _) = read_config(folder / CONFIG), read_weights(folder / WEIGHTS)
    try:
        model = FourM(FourMConfig.from_dict(config))
    except ValueError as error:
        raise ValueError(f"{folder / CONFIG}: {error}") from error
    try:
        model.load_state_dict(tensors)
    except RuntimeError as error:
        raise ValueError(f"{folder}: the tensors do not fit {CONFIG}: {error}") from error
    sums.check(folder, (WEIGHTS, CONFIG))
    model.tokenizers = read_tokenizers(str(folder))
    return model.to(device).eval()


def write_tokenizers(model: FourM, folder: str | Path) -> None:
    """Write what a model knows of its tokenizers; what an older model left in the folder is taken away."""
    url = storage.join(str(folder), TOKENIZERS)
    if model.tokenizers:
        storage.put(url, (json.dumps(model.tokenizers, indent=1) + "\n").encode())
    else:
        storage.delete(url)


def read_tokenizers(folder: str) -> dict[str, str]:
    """Name -> fingerprint of the tokenizers whose ids the model of a folder (any URL) has learned; {} if it does not
    say."""
    noted = side_files.read_object(storage.join(folder, TOKENIZERS)) or {}
    return {name: print_ for name, print_ in noted.items() if isinstance(print_, str)}


def write(
    folder: Path, tensors: dict[str, Tensor], config: dict[str, Any], header: bool = False, sealed: bool = False
) -> None:
    """Write weights, then the configuration: killed in between, the folder holds none that is of other weights.

    Args:
        header: whether the weights hold the configuration as well, as strings.
        sealed: whether the sums of both are written.
    """
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    (folder / CONFIG).unlink(missing_ok=True)
    with storage.replaced(folder / WEIGHTS) as path:
        save_file(tensors, path, metadata={k: str(v) for k, v in config.items()} if header else None)
    text = json.dumps(config, indent=1) + "\n"
    if sealed:
        known = {WEIGHTS: sums.of_url(str(folder / WEIGHTS)), CONFIG: sums.of(text.encode())}
        storage.put(str(folder / sums.FILE), sums.dumps(known))
    (folder / CONFIG).write_text(text)


def read_weights(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors of a safetensors file, and the strings of its header. ValueError naming the file if it is damaged."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            return {key: file.get_tensor(key) for key in file.keys()}, file.metadata() or {}
    except SafetensorError as error:
        raise ValueError(f"{path}: damaged or cut off ({error}); copy, download or save it again") from error


def read_shapes(path: Path) -> tuple[dict[str, list[int]], dict[str, str]]:
    """Name -> shape of the tensors of a safetensors file, and the strings of its header, of which nothing else is
    read. ValueError as for `read_weights`."""
    found = headers.of_url(str(path))
    return found.shapes, found.metadata


def read_header(path: Path) -> dict[str, str]:
    """The strings of a safetensors file's header. ValueError naming the file if it is damaged."""
    return headers.of_url(str(path)).metadata


def read_config(path: Path) -> dict[str, Any]:
    """A configuration. ValueError naming the file if it is no JSON object."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:  # broken JSON, or not UTF-8
        raise ValueError(f"{path}: no JSON ({error}); copy, download or save it again") from error
    if not isinstance(values, dict):
        raise ValueError(f"{path}: got a {type(values).__name__}, expected a JSON object")
    return values
