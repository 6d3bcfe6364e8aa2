"""What a step of a tokenizer's fit asks of a GPU, by 4M-21's settings of each, with networks that are a layer deep.

- waits: of the host for the device, in a step.
- sent: bytes that go to the device for a step, over those of what the tokenizer reads.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
from fourmill_tests.counted.operations import Operations

from fourmill.modalities import TOKENIZERS, Form
from fourmill.tokenize.settings import ROWS as SETTINGS
from fourmill.tokenize.settings import merge
from fourmill.train.tokenizers import build
from fourmill.train.tokenizers.examples import batches
from fourmill.train.tokenizers.vq import VQTrainer

TITLE = "A step of a tokenizer's fit"
SIDE, BATCH = 64, 4
SMALL: dict[str, Any] = {
    "dim": 32, "encoder_depth": 1, "decoder_depth": 1, "heads": 1, "latent_dim": 16, "unet_channels": 32,
    "unet_multipliers": [1, 2], "unet_blocks": 1, "codebook_size": 64, "batch_size": BATCH, "steps": 3,
}  # fmt: skip


def examples(name: str) -> np.ndarray:
    """Rows of a tokenizer, of random values."""
    entry, random = TOKENIZERS[name], np.random.default_rng(0)
    side = entry.image_size or SIDE
    shapes = {
        Form.COLORS: (side, side, 3),
        Form.NORMALS: (side, side, 3),
        Form.FEATURES: (4, 4, 24),
        Form.VECTOR: (24,),
    }
    shape = (2 * BATCH, *shapes.get(entry.form, (side, side)))
    if entry.form in (Form.COLORS, Form.EDGES, Form.CLASSES):
        return random.integers(0, 2, shape, np.uint8)
    return random.standard_normal(shape).astype(np.float16)


def counted(name: str) -> Mapping[str, float]:
    """The columns of one tokenizer."""
    rows, settings = examples(name), merge(name, SMALL, {"latent_dim": 32, "codebook_size": 64})
    model = build.model(name, settings, SIDE, rows.shape[1:], 0)
    trainer, waits, sent = VQTrainer(model, settings), 0, 0.0
    for batch in batches(name, settings, rows, SIDE, 0, 0, BATCH, 0, "cpu"):
        x, _ = batch.to(name, "cpu")
        sent = sum(tensor.nbytes for tensor in batch.tensors()) / x.nbytes
        with Operations() as operations:
            trainer.step(x)
        waits = max(waits, sum(operations.waits.values()))
    return {"waits": waits, "sent, over what is read": sent}


ROWS = {name: partial(counted, name) for name in SETTINGS}
