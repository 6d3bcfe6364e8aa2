"""What is known of the outputs of published models: one table, each fact with the place where it was read.

Labels have one convention (docs/conventions.md): specialists look here for that of their weights, and turn. A hub id is
looked up by its name, a local folder by the architecture in its configuration. What is not in the table a recipe must
state: `frame` of a model of normals, `predicts` of a model of depth. Nothing here is guessed.
"""

from __future__ import annotations

import fnmatch
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ...modalities import LABELS, Form
from ...tokenize import frames

DEPTH, INVERSE = "depth", "inverse_depth"
ASKED = ""  # what nothing says

_RUN_VQVAE = "apple/ml-4m cda590f, run_training_vqvae.py"
_TRANSFORMERS = "transformers 5.23.0"


@dataclass(frozen=True)
class Fact:
    """What one source's outputs are like.

    label: that is made of them. source: its name, for people.
    weights: hub ids that are it, as patterns. kind: the architecture of a local folder that is (`model_type`, or the
        pipeline's class), "" if none is.
    says: of normals a frame, of depth `DEPTH` or `INVERSE`, of others words; ASKED if it is not known.
    read: where.
    never: a precision in which it does not hold. why_never: what happens there, and where that was read.
    changes: what labels of this source alone changed at a version, by version (see infra/versions.py).
    """

    label: str
    source: str
    weights: tuple[str, ...] = ()
    kind: str = ""
    says: str = ASKED
    read: str = ""
    never: str = ""
    why_never: str = ""
    changes: Mapping[int, str] = field(default_factory=dict, hash=False)


_TIPS = ("google/tipsv2-*-dpt",)
_TIPS_NEVER = "activations of its decoders reach 1e8 (google-ai-edge/litert-samples, pull request 284)"
_TIPS_PRECISION = "TIPSv2 is not run in float16, where its decoders overflow"


def _tips(label: str, says: str, read: str, change: str) -> Fact:
    return Fact(label, "TIPSv2 DPT", _TIPS, "tipsv2_dpt", says, read, "fp16", _TIPS_NEVER, {2: change})


FACTS: tuple[Fact, ...] = (
    _tips(
        "normal",
        "x left, y up, z toward the viewer",
        "google-deepmind/tips, TIPS_decoder_inference.ipynb: surfaces that face right have x -.87, -.77, -.75, a floor "
        "y +.93, a back wall z +.94",
        f"normals of TIPSv2, whose x points left, are turned to x right; {_TIPS_PRECISION}",
    ),
    Fact(
        "normal",
        "Marigold",
        ("prs-eth/marigold-normals-*",),
        "MarigoldNormalsPipeline",
        frames.DECLARED,
        "diffusers 0.42.1, MarigoldImageProcessor.visualize_normals: x right, y top, z facing the observer",
    ),
    Fact(
        "normal",
        "Sapiens2",
        ("facebook/sapiens2-normal-*",),
        "sapiens2",
        ASKED,
        'facebookresearch/sapiens, issue 50: "camera coordinates, XYZ"; which way they point was asked, not answered',
    ),
    _tips("depth", DEPTH, f"{_TRANSFORMERS}, tipsv2_dpt: predicted depth in metres, 0.001 to 10", _TIPS_PRECISION),
    Fact(
        "depth",
        "Depth Anything, metric",
        ("depth-anything/Depth-Anything-V2-Metric-*",),
        says=DEPTH,
        read="DepthAnything/Depth-Anything-V2, issue 14: the values are in metres",
    ),
    Fact(
        "depth",
        "Depth Anything, relative",
        ("depth-anything/Depth-Anything-V2-*-hf", "LiheYoung/depth-anything-*-hf"),
        says=INVERSE,
        read='DepthAnything/Depth-Anything-V2, issue 174: "The model predicts inverse depth (1 / depth)"',
    ),
    Fact(
        "depth",
        "MiDaS, DPT",
        ("Intel/dpt-*",),
        says=INVERSE,
        read='pytorch.org/hub/intelisl_midas_v2: "relative inverse depth"; the page of Intel/dpt-large: MiDaS 3.0',
    ),
    Fact(
        "depth",
        "DPT on DINOv2",
        ("facebook/dpt-dinov2-*-nyu", "facebook/dpt-dinov2-*-kitti"),
        says=DEPTH,
        read="facebookresearch/dinov2, dinov2/hub/depthers.py: bins of depth, 0.001 to 10 (NYU) and to 80 (KITTI)",
    ),
    Fact(
        "depth",
        "ZoeDepth",
        ("Intel/zoedepth-*",),
        "zoedepth",
        DEPTH,
        f"{_TRANSFORMERS}, zoedepth: heads of metric depth, bins of 0.001 to 10 m",
    ),
    Fact("depth", "Depth Pro", ("apple/DepthPro*",), "depth_pro", DEPTH, "apple/ml-depth-pro, README: depth in [m]"),
    Fact(
        "depth",
        "GLPN",
        ("vinvino02/glpn-*",),
        "glpn",
        DEPTH,
        f"{_TRANSFORMERS}, glpn: a share of the largest distance, 10 m",
    ),
    _tips(
        "semseg",
        "ADE20K's 150 classes, refused unless the recipe's list has them",
        "the page of google/tipsv2-b14-dpt",
        _TIPS_PRECISION,
    ),
    Fact(
        "semseg",
        "Mask2Former, COCO panoptic",
        says="COCO panoptic's 133 classes, in the order of their ids without gaps; names are compared, not counted",
        read="the model's own id2label, when it is loaded; facebookresearch/Mask2Former trains on coco_2017_panoptic",
    ),
    Fact(
        "clip",
        "CLIP",
        says="patch tokens after the last LayerNorm and the projection",
        read=f"{_RUN_VQVAE}: return_final_tokens_no_cls, ln_post(x)[:, 1:] @ proj",
    ),
    Fact(
        "dinov2",
        "DINOv2",
        says="patch tokens after the last LayerNorm",
        read=f"{_RUN_VQVAE}: x_norm_patchtokens",
    ),
    Fact(
        "dinov2_global",
        "DINOv2",
        says="the class token after the last LayerNorm",
        read=f"{_RUN_VQVAE}: x_norm_clstoken",
    ),
    Fact(
        "imagebind",
        "ImageBind",
        says="patch tokens of the trunk before any head: no LayerNorm, no projection",
        read=f"{_RUN_VQVAE}: tokens [:, 1:], 1,280 wide",
    ),
    Fact(
        "imagebind_global",
        "ImageBind",
        says="the class token of the trunk before any head",
        read=f"{_RUN_VQVAE}: token [:, 0]",
    ),
)


def known(label: str, weights: str) -> Fact | None:
    """The fact of a label's weights, None if the table has none.

    Args:
        weights: a hub id, or the absolute path of a local folder.
    """
    ours, kind = [fact for fact in FACTS if fact.label == label], architecture(weights)
    by_name = (fact for fact in ours if any(fnmatch.fnmatchcase(weights, pattern) for pattern in fact.weights))
    by_kind = (fact for fact in ours if kind and fact.kind == kind)
    return next(by_name, None) or next(by_kind, None)


def linear(specialist: object) -> str:
    """What a label of depth is linear in by its specialist, `DEPTH` or `INVERSE`; ASKED if it does not say."""
    said = getattr(specialist, "linear", ASKED)
    return said if said in (DEPTH, INVERSE) else ASKED


def depth_scales(specialists: Mapping[str, object]) -> dict[str, str]:
    """Of specialists by label those of relative depth, with what each is linear in."""
    depths = (label for label in specialists if LABELS[label].form is Form.DEPTH)
    return {label: linear(specialists[label]) for label in depths}


def architecture(weights: str) -> str:
    """What the configuration of a local folder says that it is: its `model_type`, or its pipeline's class; "" of a hub
    id, and of a folder that does not say."""
    return str(configuration(weights).get("model_type", ""))


def configuration(weights: str) -> dict[str, Any]:
    """The configuration of a local folder, {} of a hub id or if it has none: read as JSON, which needs no torch."""
    if not os.path.isabs(weights):
        return {}
    for name, kind in (("config.json", "model_type"), ("model_index.json", "_class_name")):
        try:
            found = json.loads((Path(weights) / name).read_text())
        except (OSError, ValueError):
            continue
        if isinstance(found, dict):
            return found | {"model_type": found.get(kind, "")}
    return {}


def markdown() -> Iterator[str]:
    """The rows of the table, as docs/conventions.md shows them."""
    for fact in FACTS:
        ids = ", ".join(f"`{pattern}`" for pattern in fact.weights)
        folder = f"folders of `{fact.kind}`" if fact.kind else ""
        weights = "; ".join(part for part in (ids, folder) if part)
        says = fact.says or "**not known: state it**"
        never = f"; never {fact.never}: {fact.why_never}" if fact.never else ""
        yield f"| `{fact.label}` | {fact.source} | {weights} | {says} | {fact.read}{never} |"
