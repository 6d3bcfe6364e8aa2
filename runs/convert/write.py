"""What was found, written in the other format: a folder, or the single file that ml-4m's scripts read."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

from ...infra import scratch, storage
from ...model import checkpoint as model_files
from ...model.config import CONFIG
from ...model.fourm import FourM
from ...model.published import ml4m as published_models
from ...tokenize import tokenizer
from ...tokenize.text.wordpiece import WordPiece
from . import fourm, tokenizers
from .sources import FILES, VOCABULARY, Format, Found

TRAINING = ".pth"


def check_dest(dest: str) -> None:
    """ValueError if a place holds something else than a conversion, which would be overwritten."""
    if _is_file(dest):
        if storage.exists(dest) and not storage.is_file(dest):
            raise ValueError(f"{dest} is a folder; name a file that ends so, or another folder")
        return
    if storage.is_file(dest):
        raise ValueError(f"{dest} is a file; name a folder, which may be new, or a file that ends in {TRAINING}")
    if others := [name for name in storage.list_names(dest) if name not in FILES]:
        raise ValueError(f"{dest} holds other files ({', '.join(others[:3])}); name a new or an empty folder")


def _is_file(dest: str) -> bool:
    return dest.endswith((TRAINING, ".json"))


def write(found: Found, dest: str, target: Format) -> list[str]:
    """Write it. Returns what a reader should know, in sentences.

    ValueError if the format cannot hold it.
    """
    content = found.content
    if _is_file(dest):
        _write_file(content, dest, target)
    elif storage.is_local(dest):
        _write_folder(found, storage.local_path(dest), target)
    else:
        with scratch.folder() as folder:
            _write_folder(found, Path(folder), target)
            names = storage.list_names(folder)
            for name in sorted(names, key=lambda name: name == CONFIG):  # a folder that has it is whole
                storage.put(storage.join(dest, name), Path(folder, name).read_bytes())
    return _notes(content, dest, target)


def _notes(content: Any, dest: str, target: Format) -> list[str]:
    """What a format cannot say of it."""
    said = []
    if target == "ml4m" and isinstance(content, tokenizer.Tokenizer) and (sizes := tokenizers.own_sizes(content)):
        said.append(
            f"ml-4m has no network called {', '.join(sizes)}: to open it there, declare them in fourm/vq/models, with "
            f"the sizes of {'its args' if dest.endswith(TRAINING) else tokenizer.ARCH}"
        )
    if target == "ml4m" and isinstance(content, FourM) and (unknown := fourm.unknown_modalities(content)):
        said.append(f"ml-4m has no modality {', '.join(unknown)}: add it to its MODALITY_INFO to open the model there")
    return said


def _write_file(content: Any, dest: str, target: Format) -> None:
    if isinstance(content, WordPiece) != dest.endswith(".json"):
        expected = ".json, or a folder" if isinstance(content, WordPiece) else f"{TRAINING}, or a folder"
        raise ValueError(f"{dest}: expected a name that ends in {expected}")
    if target != "ml4m":
        raise ValueError(f"{dest}: fourmill's format is a folder; name one, or say --to ml4m")
    if isinstance(content, WordPiece):
        storage.put(dest, content.to_json().encode())
        return
    import torch

    values = fourm.as_training(content) if isinstance(content, FourM) else tokenizers.as_training(content)
    buffer = io.BytesIO()
    torch.save(values, buffer)
    storage.put(dest, buffer.getvalue())


def _write_folder(found: Found, folder: Path, target: Format) -> None:
    content = found.content
    if isinstance(content, FourM):
        (model_files.save if target == "fourmill" else published_models.save)(content, folder)
    elif isinstance(content, WordPiece):
        if target == "fourmill":
            content.save(folder)
        else:
            storage.put(str(folder / VOCABULARY), content.to_json().encode())
    elif target == "fourmill":
        tokenizer.save(content, folder, found.quality, found.classes)
    else:
        _publish_tokenizer(content, folder)


def _publish_tokenizer(model: tokenizer.Tokenizer, folder: Path) -> None:
    """As ml-4m publishes: settings in config.json and in the header of the weights, no fields of ours."""
    settings = tokenizers.published(model)
    sizes = settings.pop("sizes", {})
    if sizes:
        storage.put(str(folder / tokenizer.ARCH), (json.dumps(sizes, indent=1) + "\n").encode())
    tensors = {name: value.detach().cpu().clone().contiguous() for name, value in model.state_dict().items()}
    model_files.write(folder, tensors, settings, header=True)
