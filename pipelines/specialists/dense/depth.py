"""Relative depth of every pixel (4M-21's `depth`), by any monocular depth model of transformers.

4M labels with Omnidata's DPT-Hybrid; DepthAnything V2 is newer, better, and Apache-2.0 in its small size (Base and
Large are for non-commercial use). Any other goes by its hub id or folder: DPT and MiDaS, TIPSv2, ZoeDepth, Depth Pro,
GLPN.
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from ...reject import Reject
from .base import DenseModel

_METRIC = ("glpn", "zoedepth", "depth_pro", "tipsv2_dpt")  # return distances, whatever their configuration says
_RESOLUTION = 1e-5  # of float32 after resizing: a map that varies less, as a share of its values, is constant


class Depth(DenseModel):
    """Depth in the whole frame, scaled to [0, 1] for each image: 0 is its nearest point, 1 its farthest.

    Models of inverse depth (DepthAnything relative, MiDaS: large is near) are turned around,
    1 - (d - min) / (max - min): the label stays linear in inverse depth. Models of metric depth are scaled only,
    (d - min) / (max - min). Tokens standardise depth crop by crop: scale and offset have no meaning, the order has.
    """

    name: ClassVar[str] = "depth"
    label: ClassVar[str] = "depth"
    task: ClassVar[str] = "monocular depth estimation"
    licence: ClassVar[str] = "Apache-2.0"
    memory_gb: ClassVar[float] = 1.5
    # DPT's first fusion has nothing to add; its checkpoints leave these out.
    unneeded: ClassVar[tuple[str, ...]] = (r"fusion_stage\.layers\.0\.residual_layer1\.",)

    weights: str = Field(
        "depth-anything/Depth-Anything-V2-Small-hf", description="Hub id (org/name), or a local folder."
    )
    predicts: Literal["auto", "depth", "inverse_depth"] = Field(
        "auto",
        description="What grows in the model's output: distance, or nearness. auto: as its configuration tells; say it "
        "for models whose configuration does not, such as Omnidata's DPT, which has MiDaS's and predicts depth.",
    )

    def auto_class(self) -> str:
        return "AutoModelForDepthEstimation"

    def setup(self, device: str) -> None:
        """Load the weights. ValueError if they are for another task, or if nothing tells what they predict."""
        super().setup(device)
        self.require_postprocessing("post_process_depth_estimation")
        if self.predicts == "auto":
            predicts_inverse_depth(self._model.config, self.weights)

    def label_of(self, prediction: Any, size: tuple[int, int]) -> np.ndarray | Reject:
        """float16 (H, W) in [0, 1], 0 nearest; a Reject if the model says the same of every pixel."""
        options: dict[str, Any] = {"target_sizes": [size]}
        if self._model.config.model_type == "zoedepth":  # the only one that pads and wants to know around what
            options["source_sizes"] = [self.seen_size(size)]
        processed = self._processor.post_process_depth_estimation(prediction, **options)[0]["predicted_depth"]
        depth = processed.float().reshape(size).cpu().numpy()
        scaled = relative_depth(depth, self._inverse)
        if scaled is None:
            return Reject(f"depth: the same everywhere ({float(depth.flat[0]):.4g})")
        return scaled

    @property
    def _inverse(self) -> bool:
        if self.predicts == "auto":
            return predicts_inverse_depth(self._model.config, self.weights)
        return self.predicts == "inverse_depth"


def predicts_inverse_depth(config: Any, name: str = "the model") -> bool:
    """Whether a model's output grows toward the viewer, by its configuration (transformers).

    DPT: MiDaS's checkpoints do; those with a projection before the head are DINOv2's, trained on metric depth.
    ValueError for architectures that it does not know.
    """
    kind = config.model_type
    if kind in _METRIC:
        return False
    if kind in ("depth_anything", "prompt_depth_anything"):
        return bool(config.depth_estimation_type == "relative")
    if kind == "dpt":
        return not config.add_projection
    raise ValueError(
        f"depth: nothing tells whether {name} ({kind}) predicts depth or inverse depth; say "
        "labels.specialists.depth.predicts: depth or inverse_depth"
    )


def relative_depth(prediction: np.ndarray, inverse: bool) -> np.ndarray | None:
    """float16 (H, W) in [0, 1], 0 nearest, of a finite float (H, W) prediction; None if it is constant.

    Args:
        inverse: large values are near.
    """
    low, high = float(prediction.min()), float(prediction.max())
    if high - low <= _RESOLUTION * max(abs(low), abs(high)):
        return None
    share = (prediction.astype(np.float32) - low) / (high - low)
    return np.clip(1 - share if inverse else share, 0, 1).astype(np.float16)
