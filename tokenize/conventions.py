"""`convention: ml4m`: what a recipe must say for its tokens to be those that published 4M models read and give.

Labels stay as they are declared, in the store, in views and in measures; tokenizers turn them at their own edge. What
is known of the published models, and from where, stands beside each entry. The settings of the model itself are read
from the model that training begins with (train/pretrain/initial.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..infra.configuration import merge
from ..modalities import BODY_POSE, SAM_MASK
from .frames import OMNIDATA

ML4M = "ml4m"

# Tokenizer -> hub id, as apple/ml-4m's README (cda590f) lists them.
PUBLISHED: dict[str, str] = {
    name: f"EPFL-VILAB/4M_tokenizers_{rest}"
    for name, rest in {
        "tok_rgb": "rgb_16k_224-448",
        "tok_depth": "depth_8k_224-448",
        "tok_normal": "normal_8k_224-448",
        "tok_semseg": "semseg_4k_224-448",
        "tok_clip": "CLIP-B16_8k_224-448",
        "tok_dinov2": "DINOv2-B14_8k_224-448",
        "tok_dinov2_global": "DINOv2-B14-global_8k_16_224",
        "tok_imagebind": "ImageBind-H14_8k_224-448",
        "tok_imagebind_global": "ImageBind-H14-global_8k_16_224",
        "tok_canny_edge": "edge_8k_224-512",
        SAM_MASK: "sam-instance_1k_64",
        BODY_POSE: "human-poses_1k_8",
    }.items()
}
# 4M's text tokenizer on the hub: a file of the name and size of apple/ml-4m's; its bytes were not compared.
PUBLISHED_TEXT = "spaces/EPFL-VILAB/4M"


def applied(data: Mapping[str, Any]) -> dict[str, Any]:
    """A recipe as a mapping, with what its convention says wherever it says nothing itself."""
    if data.get("convention") != ML4M:
        return dict(data)
    preset = _ml4m()
    match data:
        case {"labels": {"specialists": dict() as given}}:
            for label, options in given.items():
                if isinstance(options, dict) and "specialist" in options:  # another one, with options of its own
                    preset["labels"]["specialists"].pop(label, None)
    return merge(preset, dict(data))


def _ml4m() -> dict[str, Any]:
    each: dict[str, dict[str, Any]] = {name: {"weights": hub_id} for name, hub_id in PUBLISHED.items()}
    each["tok_normal"]["frame"] = OMNIDATA
    # Its configurations of these tokenizers say imagenet_default_mean_and_std: True (cfgs/default/tokenization/vqvae).
    specialists = {name: {"normalization": "imagenet"} for name in ("clip", "imagebind", "imagebind_global")}
    # Its depth is Omnidata's, of distances (docs/conventions.md).
    specialists["depth"] = {"linear_in": "depth"}
    # Rests on one photo of apple/ml-4m's notebooks, see pipelines/specialists/classical/metadata.py.
    specialists["metadata"] = {"formulas": ML4M}
    return {
        "tokenizers": {"text": {"weights": PUBLISHED_TEXT}, "each": each},
        "labels": {"specialists": specialists},
    }
