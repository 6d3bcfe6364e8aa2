"""State dicts of training scripts: which weights of a checkpoint count, under the names that the model gives them."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import Any, Literal

from torch import Tensor

Choice = Literal["ema", "model"]
# What DDP, torch.compile, FSDP and activation checkpointing put into the names of parameters.
_WRAPPERS = ("module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "_forward_module")


def arguments(content: Mapping[str, Any]) -> dict[str, Any]:
    """The options that the checkpoint was trained with, {} if it holds none."""
    args = content.get("args")
    if isinstance(args, argparse.Namespace):
        return vars(args)
    return dict(args) if isinstance(args, Mapping) else {}


def state(content: Mapping[str, Any], asked: Choice | None) -> tuple[dict[str, Tensor], Choice]:
    """The tensors of a checkpoint, and whether they are the average (`model_ema`) or the trained ones (`model`).

    Args:
        asked: which; the average where there is one if None.

    Raises:
        ValueError: there are none, or not those that are asked for.
    """
    there: dict[Choice, Any] = {"ema": content.get("model_ema"), "model": content.get("model")}
    if "mask_token" in content or "quant_proj.weight" in content:
        there["model"] = content  # tensors alone, as TerraMind publishes them
    held = [name for name, value in there.items() if isinstance(value, Mapping) and value]
    if asked is not None and asked not in held:
        raise ValueError(
            f"--weights {asked}: it holds {' and '.join(held) or 'neither'}; ml-4m keeps an average (`model_ema`) in "
            "checkpoints of tokenizers, and none in those of 4M"
        )
    if not held:
        raise ValueError(
            f"it holds {', '.join(map(str, list(content)[:8])) or 'nothing'}, expected `model`, as ml-4m's training "
            "writes it"
        )
    chosen = asked or held[0]
    tensors = {_plain(str(name)): value for name, value in there[chosen].items() if isinstance(value, Tensor)}
    if not tensors:
        raise ValueError("its `model` holds no tensor; expected a state dict")
    return tensors, chosen


def _plain(name: str) -> str:
    return ".".join(part for part in name.split(".") if part not in _WRAPPERS)
