"""AION-1's codecs at small sizes: random weights and inputs by a formula of their names, so that no file holds them.

What the package's own classes made of them is in tests/golden/aion (record.py). Without fourmill: the recording runs
where it need not be.
"""

from __future__ import annotations

import json
import math
import re
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

_NORM = re.compile(r"(encoder_layers\.7\.1|norm|(down|up)sample_layers\.(0\.1|[1-9]\.0))\.weight$")
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


def spectrum() -> tuple[np.ndarray, np.ndarray]:
    """Flux and inverse variance (4, 2, 410), float32, and wavelengths (4, 410), which are not the codec's: lines over a
    slope, of different brightness, with gaps; the last is dark."""
    drawn = _random("spectra")
    at = np.sort(3_450 + 1_150 * drawn.random_sample((4, 410)), axis=1)
    line = 8 * np.exp(-(((at - 4_000) / 12) ** 2))
    bright = np.array([0.4, 3, 60, 0])[:, None]
    flux = bright * (1 + line + 0.001 * (at - 4_000)) + 2 * drawn.standard_normal(at.shape)
    flux[drawn.random_sample(at.shape) < 0.05] = np.nan
    certain = 200 * drawn.random_sample(at.shape)
    return np.stack([flux, certain], 1).astype(np.float32), at.astype(np.float32)


SHOWN = slice(30, 62)  # rows and columns of what is decoded that are kept
SURVEYS = {"DES": ["DES-G", "DES-R", "DES-I", "DES-Z"], "HSC": ["HSC-G", "HSC-R", "HSC-I", "HSC-Z", "HSC-Y"]}


def weight(name: str, shape: Sequence[int]) -> np.ndarray:
    """A weight of this name: of a size that keeps activations; norms around 1; latents that take many levels."""
    drawn = _random(name).standard_normal(tuple(shape)).astype(np.float32)
    if len(shape) == 1:
        return (0.1 * drawn + (_NORM.search(name) is not None)).astype(np.float32)
    large = (
        2.0 if name.startswith(("pre_quant_proj", "quant_conv")) else 0.5 if name.startswith("subsample_out") else 1.0
    )
    return (large * drawn / math.sqrt(math.prod(shape[1:]))).astype(np.float32)


def flux(survey: str, bands: int) -> np.ndarray:
    """Images (2, bands, 96, 96), float32: noise around a source that is brighter than may be."""
    down, across = np.mgrid[0:96, 0:96] - 48
    source = 600 * np.exp(-(down**2 + across**2) / 50)
    drawn = _random(f"{survey} flux").standard_normal((2, bands, 96, 96))
    return (0.05 * drawn + source * np.array([1, 0.01])[:, None, None, None]).astype(np.float32)


def expected() -> dict[str, np.ndarray]:
    with np.load(GOLDEN / "expected.npz") as file:
        return dict(file)


def save_network(of: str, folder: Path) -> Path:
    """The folder of the codec of "images" or "spectra", as it is published."""
    from safetensors.numpy import save_file

    folder.mkdir(parents=True, exist_ok=True)
    stated, known = configs()[of], expected()
    # What follows from the arguments lies in the file as well; only two are read.
    weights = {
        name: known.get(f"{of}/{name}", weight(name, shape)) for name, shape in stated["shapes"].items() if shape
    }
    save_file(weights, str(folder / "model.safetensors"))
    (folder / "config.json").write_text(json.dumps(stated["config"]))
    return folder


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
