"""Generation with 4M-B: text a token at a time, and a grid by MaskGIT."""

from __future__ import annotations

import time
from functools import partial
from typing import Any

import numpy as np
import torch
from generation import ENDLESS
from gpu import Part, Place
from train_step import specs_of

from fourmill.model.config import FourMConfig
from fourmill.model.fourm import FourM
from fourmill.model.generation.generate import Step, generate

from .training import GIB

ORDER = 3


def model(place: Place) -> FourM:
    torch.manual_seed(0)
    with torch.device(place.device):
        return FourM(FourMConfig.preset("Ti" if place.tiny else "B", specs_of(512 if place.tiny else None))).eval()


def made(samples: int, place: Place) -> dict[str, Any]:
    """ms of a token of a caption, with CLIP as its condition, and of a grid of 196 tokens in 8 steps."""
    one, rng = model(place), np.random.default_rng(0)
    samples, tokens, rounds = (1, 4, 1) if place.tiny else (samples, 128, 3)
    given = {"tok_clip": rng.integers(0, 512, (samples, 196))}
    chains = {
        "ms a token": (Step("caption", "autoregressive", max_tokens=tokens), tokens),
        "ms a grid": (Step("tok_depth", "maskgit", steps=2 if place.tiny else 8), 1),
    }
    figures: dict[str, Any] = {"samples": samples}
    for title, (step, parts) in chains.items():
        times = []
        for _ in range(rounds):
            begin = time.perf_counter()
            with torch.autocast(place.device, torch.bfloat16, enabled=place.device == "cuda"):
                generate(one, given, [step], seed=0, special=ENDLESS)  # its result is on the host: it has waited
            times.append(time.perf_counter() - begin)
        figures[title] = 1e3 * min(times) / parts
    return figures | ({"peak GiB": torch.cuda.max_memory_allocated() / GIB} if place.device == "cuda" else {})


PARTS = [Part(f"generation-{samples}", partial(made, samples), 30) for samples in (1, 32)]
