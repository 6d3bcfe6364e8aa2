"""A published 4M-21 model of tiny sizes, and columns of random tokens for it: numbers that are the same everywhere.

The published layout is that of apple/ml-4m's hub models; the values follow from names alone (RandomState's streams are
frozen), so that its own code gave the recorded loss for the same model and tokens (tests/golden/continue_4m21.json).
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fourmill import recipe as recipes
from fourmill.modalities import Kind, ModalitySpec
from fourmill.model.config import FourMConfig
from fourmill.model.fourm import FourM
from fourmill.model.published import ml4m
from fourmill.recipe import Recipe
from fourmill.tokenize.store import ColumnSpec, encode_column
from fourmill.train.data.groups import ShardRows

RECIPE = Path(recipes.__file__).parent / "recipes" / "continue-4m21.yaml"
WORDS, CODES, DIM, ROWS = 700, 64, 16, 8
SIZES: dict[str, Any] = {
    "dim": DIM, "encoder_depth": 2, "decoder_depth": 2, "num_heads": 2, "share_modality_embeddings": False,
    "tied_heads": False,
}  # fmt: skip
BATCH = {"batch_size": 4, "steps": 2, "warmup_steps": 0, "input_tokens": 160, "target_tokens": 128}


def overrides(folder: Path, place: Path | str) -> list[str]:
    """What the recipe is given: where things are, and sizes of a test."""
    given = {"root": folder / "out", "samples.train": "a.tar", "samples.val": "[]", "train.init": place}
    return [f"{name}={value}" for name, value in (given | {f"train.{k}": v for k, v in BATCH.items()}).items()]


def specs(recipe: Recipe) -> list[ModalitySpec]:
    """Of the recipe's modalities, with few words and codes."""
    from dataclasses import replace

    sizes = {Kind.SEQUENCE: WORDS, Kind.GRID: CODES}
    return [replace(spec, vocab_size=sizes.get(spec.kind, 0)) for spec in recipe.specs()]


def model(sizes: Sequence[ModalitySpec]) -> FourM:
    made = FourM(FourMConfig(tuple(sizes), **SIZES))
    for name, parameter in made.named_parameters():
        random = np.random.RandomState(zlib.crc32(name.encode()))
        values = random.uniform(-0.3, 0.3, tuple(parameter.shape)) + ("norm" in name and name.endswith("weight"))
        parameter.data.copy_(torch.from_numpy(values))
    return made


def save(folder: Path, sizes: Sequence[ModalitySpec]) -> Path:
    """The model in the published layout."""
    ml4m.save(model(sizes), folder)
    return folder


def columns(root: Path, sizes: Sequence[ModalitySpec]) -> ShardRows:
    """A shard of random tokens, in root/tokens."""
    for spec in sizes:
        random = np.random.RandomState(zlib.crc32(spec.name.encode()))
        side = 224 if spec.kind is Kind.PIXELS else spec.max_tokens
        column = ColumnSpec(
            spec.name, spec.kind, 1, side, spec.vocab_size, dim=spec.input_dim * (spec.kind is Kind.EMBEDDING)
        )
        path = root / "tokens" / spec.name / "train.parquet"
        path.parent.mkdir(parents=True)
        path.write_bytes(
            encode_column(column, [f"{i:03d}" for i in range(ROWS)], [_row(spec, random) for _ in range(ROWS)])
        )
    return ShardRows("train", ROWS)


def _row(spec: ModalitySpec, random: np.random.RandomState) -> Any:
    if spec.kind is Kind.PIXELS:
        import cv2

        return [cv2.imencode(".png", random.randint(0, 256, (224, 224, 3)).astype(np.uint8))[1].tobytes()]
    if spec.kind is Kind.GRID:
        return random.randint(0, spec.vocab_size, (1, spec.max_tokens)).astype(np.uint16)
    length = min(spec.max_tokens - 1, 21)
    if spec.kind is Kind.EMBEDDING:
        return random.uniform(-1, 1, (1, length, spec.input_dim)).astype(np.float16)
    return [np.append(random.randint(210, spec.vocab_size, length), 3).astype(np.uint16)]
