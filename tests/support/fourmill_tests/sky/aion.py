"""AION-1's codecs at small sizes: random weights and inputs by a formula of their names, so that no file holds them.

What the package's own classes made of them is in tests/golden/aion (record.py). Without fourmill: the recording runs
where it need not be.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

GOLDEN = Path(__file__).parents[3] / "golden" / "aion"


def _random(name: str) -> np.random.RandomState:
    return np.random.RandomState(zlib.crc32(name.encode()))  # streams of RandomState are frozen


def reservoir(name: str, count: int) -> np.ndarray:
    """Numbers that a codec is fitted on, float32: some negative, some alike, a few large."""
    drawn = _random(name).standard_t(3, count)
    drawn[: count // 9] = 0.5
    return (4 * drawn).astype(np.float32)


def numbers(name: str, values: np.ndarray) -> np.ndarray:
    """Numbers to encode, float32: drawn ones, ends, and each code's value with its neighbours, as it is and as the
    curves of the codecs have it."""
    with np.errstate(all="ignore"):
        near = np.concatenate([values, np.exp(values), np.sinh(values)]).astype(np.float32)
    drawn = (4 * _random(f"{name} numbers").standard_normal(200)).astype(np.float32)
    ends = np.array([0, -0.0, 1e-30, -1e30, 1e30, 0.0497, 0.0498, 1], np.float32)
    beside = [np.nextafter(near, np.float32(side)) for side in (-np.inf, np.inf)]
    return np.concatenate([drawn, ends, near, *beside])


def expected() -> dict[str, np.ndarray]:
    with np.load(GOLDEN / "expected.npz") as file:
        return dict(file)


def configs() -> dict[str, dict[str, Any]]:
    return dict(json.loads((GOLDEN / "configs.json").read_text()))


def save(name: str, folder: Path, config: Mapping[str, Any] | None = None, prefix: str = "_quantizer") -> Path:
    """A codec's folder, as it is published.

    Args:
        config: in place of what the package has written. prefix: of the quantizer's tensors.
    """
    from safetensors.numpy import save_file

    folder.mkdir(parents=True, exist_ok=True)
    begin = f"{name}/weights/"
    weights = {key.removeprefix(begin): value for key, value in expected().items() if key.startswith(begin)}
    weights = {key.replace("_quantizer", prefix, 1): np.ascontiguousarray(value) for key, value in weights.items()}
    save_file(weights, str(folder / "model.safetensors"))
    (folder / "config.json").write_text(json.dumps(configs()[name] if config is None else dict(config)))
    return folder
