"""A tiny untrained model that reads RGB, and labelled images of one colour a class, for `fourmill transfer`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from fourmill import modalities
from fourmill.model import checkpoint
from fourmill.model.config import FourMConfig
from fourmill.model.fourm import FourM

from . import data


def model(folder: Path, size: int = 32, patch: int = 8) -> None:
    torch.manual_seed(0)
    names = ("rgb", "tok_rgb")
    specs = tuple(modalities.spec(name, image_size=size, patch_size=patch, vocab_size=16) for name in names)
    checkpoint.save(FourM(FourMConfig(specs, dim=32, encoder_depth=1, decoder_depth=1, num_heads=2)), folder)


def images(folder: Path, count: int, classes: Sequence[str] = ("cat", "dog"), size: int = 40) -> None:
    """PNGs and table.csv."""
    folder.mkdir(parents=True)
    rng, rows = np.random.default_rng(0), ["path,label"]
    for i in range(count):
        number = i % len(classes)
        noise = rng.integers(0, 30, (size, size, 3), np.uint8)
        picture = np.uint8(40 + 150 // max(len(classes) - 1, 1) * number) + noise
        (folder / f"{i:03d}.png").write_bytes(data.encode(picture, "PNG"))
        rows.append(f"{i:03d}.png,{classes[number]}")
    (folder / "table.csv").write_text("\n".join(rows) + "\n")


def arguments(folder: Path, epochs: int, *more: str) -> list[str]:
    """The command on `model`, `train` and `val` below a folder."""
    tables = ["--train", f"{folder}/train/table.csv", "--val", f"{folder}/val/table.csv", "--out", f"{folder}/out"]
    return ["transfer", f"{folder}/model", *tables, "--image-size", "32", "--epochs", str(epochs), *more]
