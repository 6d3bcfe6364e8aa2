"""The native checkpoint of a 4M model: `model.safetensors` and `config.json` in one folder; no pickle.

`ml4m.save` writes the same model for apple/ml-4m; this form keeps fourmill's names and needs no published vocabulary.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch

from .config import FourMConfig
from .fourm import FourM

WEIGHTS, CONFIG = "model.safetensors", "config.json"


def save(model: FourM, folder: str | Path) -> None:
    """Write a model; the configuration comes last, so that a folder that has one is whole."""
    from safetensors.torch import save_file

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / CONFIG).unlink(missing_ok=True)
    save_file({k: v.detach().cpu().contiguous() for k, v in model.state_dict().items()}, folder / WEIGHTS)
    (folder / CONFIG).write_text(json.dumps(model.config.to_dict(), indent=1) + "\n")


def load(folder: str | Path, device: torch.device | str = "cpu") -> FourM:
    """Read a model that `save` wrote, onto `device`, in evaluation mode.

    Raises:
        ValueError: the folder is not a whole checkpoint, or its tensors do not fit its configuration.
    """
    from safetensors.torch import load_file

    folder = Path(folder)
    if not (folder / CONFIG).is_file() or not (folder / WEIGHTS).is_file():
        raise ValueError(f"{folder}: expected {WEIGHTS} and {CONFIG}; is this a checkpoint, and was it written whole?")
    model = FourM(FourMConfig.from_dict(json.loads((folder / CONFIG).read_text())))
    try:
        model.load_state_dict(load_file(folder / WEIGHTS))
    except RuntimeError as error:
        raise ValueError(f"{folder}: the tensors do not fit {CONFIG}: {error}") from error
    return model.to(device).eval()
