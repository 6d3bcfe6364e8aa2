"""A root of labels and columns with natural variation between samples, made without any model; faults are planted."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from fourmill.infra import ledger
from fourmill.modalities import LABELS, Kind
from fourmill.tokenize import labels, store
from fourmill.tokenize.store import ColumnSpec

VOCABULARY = 256
SPECS = {
    "tok_depth": ColumnSpec("tok_depth", Kind.GRID, 1, 16, VOCABULARY),
    "tok_rgb": ColumnSpec("tok_rgb", Kind.GRID, 1, 16, VOCABULARY),
    "caption": ColumnSpec("caption", Kind.SEQUENCE, 1, 32, VOCABULARY),
    "rgb": ColumnSpec("rgb", Kind.PIXELS, 1, 32),
}
WORDS = "a the dog cat sofa red blue house tree on under near car bus small large".split()
Faults = Mapping[tuple[str, int], Callable[[np.random.Generator, Any], Any]]


def sample(rng: np.random.Generator) -> dict[str, Any]:
    """All labels and tokens of one sample: one scene is far or near, bright or dark, so that its values go together."""
    height, width = int(rng.integers(40, 60)), int(rng.integers(40, 60))
    far, light = rng.beta(2, 3), rng.uniform(0.2, 0.9)
    ramp = np.linspace(0, 1, height)[:, None] * np.linspace(0.5, 1, width)
    depth = np.clip(far * ramp + 0.02 * rng.standard_normal((height, width)), 0, 1)
    picture = np.clip(255 * light * (0.5 + ramp[..., None] / 2) + 10 * rng.standard_normal((height, width, 3)), 0, 255)
    normal = rng.normal((0, 0, 2), 1, (8, 8, 3))
    boxes = [_box(rng) for _ in range(rng.poisson(2))]
    codes = np.clip(rng.gamma(2, 20) + 8 * rng.standard_normal(16), 0, VOCABULARY - 1)
    words = rng.choice(WORDS, rng.integers(3, 9), p=_zipf())
    return {
        "labels/depth": depth.astype(np.float16),
        "labels/normal": (normal / np.linalg.norm(normal, axis=2, keepdims=True)).astype(np.float16),
        "labels/semseg": rng.choice(12, p=_zipf(12), size=(6, 1)).repeat(6, 1).astype(np.uint8),
        "labels/canny_edge": np.where(rng.random((16, 16)) < rng.uniform(0.05, 0.2), 255, 0).astype(np.uint8),
        "labels/det": boxes,
        "labels/caption": " ".join(words),
        "labels/metadata": {"original_width": width, "original_height": height, "brightness": float(light)},
        "tokens/tok_depth": codes.astype(np.uint16)[None],
        "tokens/tok_rgb": np.clip(light * 200 + 30 * rng.standard_normal(16), 0, 255).astype(np.uint16)[None],
        "tokens/caption": [np.array([WORDS.index(word) for word in words], np.uint16)],
        "tokens/rgb": [cv2.imencode(".jpg", cv2.resize(picture, (32, 32)).astype(np.uint8))[1].tobytes()],
    }


def write(root: Path, shards: int = 10, samples: int = 60, faults: Faults | None = None, first: int = 0) -> None:
    """A root with shards "00000", "00001", ...

    Args:
        faults: (output, shard) -> what becomes of the value of each sample; None makes it null.
        first: the number of the first shard.
    """
    for shard in range(first, first + shards):
        rng = np.random.default_rng(shard)
        rows = [sample(rng) for _ in range(samples)]
        for output in rows[0]:
            change = (faults or {}).get((output, shard), lambda rng, value: value)
            commit(root, output, f"{shard:05d}", [change(rng, row[output]) for row in rows])


def commit(root: Path, output: str, shard: str, values: list[Any], keys: list[str] | None = None) -> None:
    """A file and its record; None is a reject."""
    keys = keys or [f"{shard}-{row:04d}" for row in range(len(values))]
    family, _, name = output.partition("/")
    if family == "labels":
        data = labels.encode_labels(name, LABELS[name].storage, keys, values)
    else:
        data = store.encode_column(SPECS[name], keys, values)
    lost = [key for key, value in zip(keys, values, strict=True) if value is None]
    rejects = [{"key": key, "reason": f"{name}: 0 bytes"} for key in lost]
    source = ledger.Source(0, "", "")
    record = ledger.Record(output, shard, "print", source, len(keys), len(lost), rejects, 0, "", 0.0)
    ledger.commit(str(root), record, data)


def _box(rng: np.random.Generator) -> dict[str, Any]:
    x, y = rng.uniform(0, 0.6, 2)
    box = [x, y, x + rng.uniform(0.1, 0.4), y + rng.uniform(0.1, 0.4)]
    return {"label": str(rng.choice(["dog", "cat", "person"], p=[0.2, 0.3, 0.5])), "score": rng.beta(5, 2), "box": box}


def _zipf(count: int = len(WORDS)) -> np.ndarray:
    weights = 1 / np.arange(1, count + 1)
    return weights / weights.sum()
