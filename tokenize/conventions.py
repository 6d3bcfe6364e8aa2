"""The tokenizers of published 4M models, by name: what `convention: ml4m` fills a recipe with."""

from __future__ import annotations

from ..modalities import BODY_POSE, SAM_MASK

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
