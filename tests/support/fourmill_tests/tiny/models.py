"""A tiny local model in the place of each of the hub's that recipes/4m21.yaml names, and of labels that 4M-21 has not,
and the recipe with them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from . import beyond, dense, detectors, features, hmr2, sam, t5

ROOT = Path(__file__).parents[4]


def specialists(folder: Path) -> dict[str, dict[str, Any]]:
    """`labels.specialists` of a recipe: weights below `folder`, thresholds at which random ones speak."""
    folder.mkdir(parents=True, exist_ok=True)
    everything = {"min_score": 0, "mask_threshold": 0, "min_visible": 0}
    depth = dense.depth_anything(folder / "depth")
    dinov2 = features.dinov2(folder / "dinov2")
    imagebind = features.imagebind(folder / "imagebind")
    paths: dict[str, tuple[Path, dict[str, Any]]] = {
        "depth": (depth, {}),
        "normal": (dense.tipsv2(folder / "tipsv2"), {}),
        "semseg": (dense.mask2former(folder / "mask2former"), everything),
        "det": (detectors.rtdetr_v2(folder / "rtdetr_v2", {0: "person"}), {"min_score": 0.0}),
        "clip": (features.clip(folder / "clip"), {}),
        "dinov2": (dinov2, {}),
        "dinov2_global": (dinov2, {}),
        "imagebind": (imagebind, {"num_heads": 4}),
        "imagebind_global": (imagebind, {"num_heads": 4}),
        "sam_instance": (
            sam.sam(folder / "sam"),
            {"points_per_side": 4, "pred_iou_thresh": 0.0, "stability_score_thresh": 0.0},
        ),
        "human_poses": (
            hmr2.safetensors(folder / "hmr2.safetensors"),
            {"backbone_heads": 2, "decoder_heads": 2, "min_score": 0.0, "max_people": 3},
        ),
        "metric_depth": (dense.zoedepth(folder / "zoedepth"), {}),
        "open_det": (beyond.owl(folder / "owl"), {"queries": ["cup", "red chair"], "min_score": 0.0}),
        "vlm_caption": (beyond.smolvlm(folder / "smolvlm"), {"max_tokens": 6}),
        "t5_caption": (t5.t5(folder / "t5", width=16), {}),
    }
    return {label: {"weights": str(path), **options} for label, (path, options) in paths.items()}


def recipe_4m21(folder: Path, train: Any, val: Any, **fields: Any) -> dict[str, Any]:
    """recipes/4m21.yaml with tiny local models, tiny tokenizers and a tiny 4M.

    Args:
        folder: for models and root.
        fields: replace top-level sections.
    """
    data: dict[str, Any] = yaml.safe_load((ROOT / "recipes" / "4m21.yaml").read_text())
    data |= {"root": str(folder / "out"), "samples": {"train": train, "val": val}}
    data["labels"]["specialists"] = specialists(folder / "models")
    data["tokenizers"]["embedding_dim"] = 16
    data["tokenizers"]["common"] |= {
        "codebook_size": 64, "latent_dim": 8, "dim": 32, "encoder_depth": 1, "decoder_depth": 1, "heads": 2, "steps": 4,
        "batch_size": 8, "base_lr": 0.02, "samples": 24, "validation_samples": 8,
    }  # fmt: skip
    data["engine"] = {"batch_size": 4}
    data["train"] |= {
        "model": {"dim": 32, "encoder_depth": 1, "decoder_depth": 1, "heads": 2, "qk_norm": True},
        "batch_size": 8, "steps": 6, "warmup_steps": 2, "log_every": 2, "validate_every": 3, "validation_samples": 8,
        "checkpoint_every": 3,
    }  # fmt: skip
    data["generate"]["samples"] = 2
    for chain in data["generate"]["chains"]:
        for step in chain["to"]:
            step |= {"steps": 2} if step["target"].startswith("tok_") else {"max_tokens": 16}
    return data | fields
