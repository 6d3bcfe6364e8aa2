"""A fit and an encoding of the largest tokenizers of 4M-21, by the recipe's settings: RGB with a UNet that decodes by
diffusion, DINOv2's features with a ViT."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from counted.training import load
from gpu import Part, Place

from fourmill.modalities import TOKENIZERS, Form
from fourmill.tokenize import tokenizer
from fourmill.tokenize.codec import FittedTokenizer
from fourmill.tokenize.settings import Precision, TokenizerSettings
from fourmill.train.tokenizers import build
from fourmill.train.tokenizers.examples import batches
from fourmill.train.tokenizers.vq import VQTrainer

from .training import GIB, wait

ORDER = 4
FIT, ENCODE = 64, 64  # samples at a time
CHANNELS = 768  # of DINOv2's features


def settings(name: str, place: Place) -> TokenizerSettings:
    small = {
        "dim": 32, "encoder_depth": 1, "decoder_depth": 1, "heads": 2, "decoder": "vit", "codebook_size": 16,
        "latent_dim": 8,
    }  # fmt: skip
    update = {"precision": "bf16" if place.device == "cuda" else "fp32", "warm_start": False, "perceptual_weight": 0.0}
    return load("4m21_b").tokenizer(name).model_copy(update=update | (small if place.tiny else {}))


def rows(name: str, count: int, side: int) -> np.ndarray:
    """Examples as they are cached: bytes of pictures, or float16 of features."""
    rng = np.random.default_rng(0)
    if TOKENIZERS[name].form is Form.FEATURES:
        return rng.standard_normal((count, side // 14, side // 14, CHANNELS)).astype(np.float16)
    return rng.integers(0, 256, (count, side, side, 3), dtype=np.uint8)


def seconds(run: Callable[[], Any], place: Place, rounds: int) -> float:
    """Of one of several rounds, after a few that do not count."""
    for _ in range(1 if place.tiny else 3):
        run()
    wait(place.device)
    begin = time.perf_counter()
    for _ in range(rounds):
        run()
    wait(place.device)
    return (time.perf_counter() - begin) / rounds


def tokenizer_of(name: str, place: Place) -> dict[str, Any]:
    """Steps of its fit, then ids of its crops, as a worker makes them."""
    side, own = 112 if place.tiny else 224, settings(name, place)
    count = 2 if place.tiny else FIT
    examples = rows(name, count, side)
    model = build.model(name, own, side, examples.shape[1:])
    trainer = VQTrainer(model.to(place.device), own)
    prepared = batches(name, own, examples, side, 0, 0, count, 0, place.device)

    def step() -> None:
        trainer.step(*next(prepared).to(name, place.device))

    of_step = seconds(step, place, 1 if place.tiny else 15)
    figures = {"samples": count, "ms a step of the fit": 1e3 * of_step, "fitted images/s": count / of_step}
    if place.device == "cuda":
        figures["peak GiB of the fit"] = torch.cuda.max_memory_allocated() / GIB
    prepared.close()
    tokenizer.save(trainer.result().cpu(), place.folder / name, {})
    fitted = FittedTokenizer(name, str(place.folder / name), place.device, precision=Precision("auto", own.precision))
    crops = rows(name, count if place.tiny else ENCODE, side)
    return figures | {"encoded images/s": len(crops) / seconds(lambda: fitted.encode(crops), place, count)}


PARTS = [Part(name, partial(tokenizer_of, name), 60) for name in ("tok_dinov2", "tok_rgb")]
