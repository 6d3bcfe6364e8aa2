"""TerraMind's models at small sizes: random weights and inputs by a formula of their names, so that no file holds them.

Names and shapes of weights, and what terratorch's own classes made of them, are in tests/golden/terramind (record.py).
Without fourmill and PyTorch, but where a file is written: the recording runs where neither need be.
"""

from __future__ import annotations

import json
import math
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

GOLDEN = Path(__file__).parents[3] / "golden" / "terramind"


def normal(name: str, shape: Sequence[int]) -> np.ndarray:
    """Standard normal float32 numbers that depend on name and shape alone (streams of RandomState are frozen)."""
    return np.random.RandomState(zlib.crc32(name.encode())).standard_normal(tuple(shape)).astype(np.float32)


def weight(name: str, shape: Sequence[int]) -> np.ndarray:
    """A weight of this name: of a size that keeps activations; norms around 1; latents that take many levels."""
    numbers = normal(name, shape)
    if len(shape) == 1:
        return (0.1 * numbers + (name.endswith("weight") and "norm" in name)).astype(np.float32)
    scale = (1.5 if name == "quant_proj.weight" else 1) / math.sqrt(math.prod(shape[1:]))
    return (scale * numbers).astype(np.float32)


def class_map() -> np.ndarray:
    """Ids of 5 classes, int64 (2, 32, 32)."""
    return np.abs(2 * normal("classes/map", (2, 32, 32))).astype(np.int64) % 5


def expected() -> dict[str, np.ndarray]:
    with np.load(GOLDEN / "expected.npz") as file:
        return dict(file)


def arrays(part: str) -> dict[str, np.ndarray]:
    """The weights of a model: "diffusion" or "classes", a tokenizer, or "4m"."""
    shapes, known = json.loads((GOLDEN / "names.json").read_text())[part], expected()
    made = {}
    for name, shape in shapes.items():
        if name.endswith("pos_emb"):
            made[name] = _positions(name, shape, known)
        elif part == "4m" and name.endswith("bias") and "norm" in name:
            made[name] = np.zeros(shape, np.float32)  # buffers of norms without biases
        else:
            made[name] = weight(name, shape)
    # One parameter under two names: the embedding of a modality, and the decoder's two tables.
    shared = {name: name.replace("decoder_emb", "encoder_emb") for name in made if name.endswith("mod_emb")}
    shared |= {name: name.replace("token_emb", "to_logits") for name in made if "token_emb" in name and name[0] == "d"}
    return made | {name: made[other] for name, other in shared.items() if other in made}


def _positions(name: str, shape: Sequence[int], known: Mapping[str, np.ndarray]) -> np.ndarray:
    if len(shape) == 4:
        return known["positions"]
    if shape[1] <= 16:
        return known["4m/positions/encoder_embeddings.untok_dem@224.pos_emb"]
    place, wave = np.arange(shape[1])[:, None], 1.0 / 10_000 ** (np.arange(shape[2] // 2) / (shape[2] // 2))
    table = np.concatenate([np.sin(place * wave), np.cos(place * wave)], axis=1).astype(np.float32)[None]
    np.testing.assert_allclose(table[:, :16], known["4m/positions/encoder_embeddings.coords.pos_emb"], atol=1e-6)
    return table


def save(part: str, folder: Path, config: Mapping[str, Any] | None = None) -> Path:
    """A .pt of tensors, as TerraMind's are published, and a config.json beside it if there is anything to say."""
    import torch

    folder.mkdir(parents=True, exist_ok=True)
    torch.save({name: torch.from_numpy(value) for name, value in arrays(part).items()}, folder / f"{part}.pt")
    if config:
        (folder / "config.json").write_text(json.dumps(config))
    return folder / f"{part}.pt"
