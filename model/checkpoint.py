"""The native checkpoint of a 4M model: `model.safetensors` and `config.json` in one folder; no pickle.

`ml4m.save` writes the same model for apple/ml-4m; this form keeps fourmill's names and needs no published vocabulary.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..infra import storage, sums
from .config import CONFIG, WEIGHTS, FourMConfig
from .fourm import FourM

__all__ = ["CONFIG", "WEIGHTS", "load", "read_config", "read_weights", "save", "write"]


def save(model: FourM, folder: str | Path) -> None:
    """Write a model and the sums of its files; the configuration comes last, so that a folder that has one is whole."""
    tensors = {k: v.detach().cpu().contiguous() for k, v in model.state_dict().items()}
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
    return model.to(device).eval()


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


def read_header(path: Path) -> dict[str, str]:
    """The strings of a safetensors file's header. ValueError naming the file if it is damaged."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            return file.metadata() or {}
    except SafetensorError as error:
        raise ValueError(f"{path}: damaged or cut off ({error}); copy, download or save it again") from error


def read_config(path: Path) -> dict[str, Any]:
    """A configuration. ValueError naming the file if it is no JSON object."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:  # broken JSON, or not UTF-8
        raise ValueError(f"{path}: no JSON ({error}); copy, download or save it again") from error
    if not isinstance(values, dict):
        raise ValueError(f"{path}: got a {type(values).__name__}, expected a JSON object")
    return values
