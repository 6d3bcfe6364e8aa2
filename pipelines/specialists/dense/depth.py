"""Relative depth of every pixel (4M-21's `depth`), by any monocular depth model of transformers.

4M labels with Omnidata's DPT-Hybrid; DepthAnything V2 is newer, better, and Apache-2.0 in its small size (Base and
Large are for non-commercial use). Any other goes by its hub id or folder: DPT and MiDaS, TIPSv2, ZoeDepth, Depth Pro,
GLPN.

There are three kinds of models. Metric ones (TIPSv2, ZoeDepth, Depth Pro) predict distance. Relative ones of
inverse depth (Depth Anything, MiDaS) predict a 1 / distance + b with an a and b that nobody knows, so that near things
take most of the range. Relative ones of depth (Omnidata's) predict a distance + b.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from ...reject import Reject
from .. import conventions
from ..base import Specialist
from ..conventions import DEPTH, INVERSE
from .estimation import DepthModel, by_configuration

if TYPE_CHECKING:
    import torch

_RESOLUTION = 1e-5  # of float32 after resizing: a map that varies less, as a share of its values, is constant
_NEAREST = 1e-3  # metres: the least distance that models of metric depth know, whose inverse is large enough


class Depth(DepthModel):
    """Depth in the whole frame, scaled to [0, 1] for each image: 0 is its nearest point, 1 its farthest.

    Between the two it is linear in what the model predicts: models of inverse depth (DepthAnything relative, MiDaS:
    large is near) are turned around, 1 - (d - min) / (max - min), and the label stays linear in inverse depth; those of
    distance are scaled, (d - min) / (max - min). `linear_in` says another scale. Tokens standardise depth crop by crop:
    scale and offset have no meaning, the order has.
    """

    name: ClassVar[str] = "depth"
    label: ClassVar[str] = "depth"
    licence: ClassVar[str] = "Apache-2.0"
    memory_gb: ClassVar[float] = 1.5
    later: ClassVar[dict[str, Any]] = {"linear_in": None, "far_ratio": None}

    weights: str = Field(
        "depth-anything/Depth-Anything-V2-Small-hf", description="Hub id (org/name), or a local folder."
    )
    predicts: Literal["auto", "depth", "inverse_depth"] = Field(
        "auto",
        description="What grows in the model's output: distance, or nearness. auto: what is known of the weights, or "
        "what their configuration says; needed for all others. `fourmill view RECIPE --probe depth` shows it.",
    )
    linear_in: Literal["depth", "inverse_depth"] | None = Field(
        None,
        description="What the label is linear in between its nearest and farthest point: distance, or its inverse; "
        "what the model predicts unless given. Of distances either is exact; of a relative inverse depth `depth` needs "
        "`far_ratio`.",
    )
    far_ratio: float | None = Field(
        None,
        gt=1,
        le=1000,
        description="Distance of the farthest point over that of the nearest, which a relative inverse depth leaves "
        "open: assumed, the same for every image.",
    )

    @property
    def predicted(self) -> str:
        """`DEPTH` or `INVERSE`: stated, known of the weights, or by their configuration; "" if nothing says."""
        if self.predicts != "auto":
            return self.predicts
        fact = self.fact
        return fact.says if fact else by_configuration(conventions.configuration(self.weights))

    @property
    def linear(self) -> str:
        """What the label is linear in: `DEPTH` or `INVERSE`, "" if nothing says."""
        return self.linear_in or self.predicted

    def why_not(self, others: Mapping[str, Specialist]) -> str:
        where = f"labels.specialists.{self.label}"
        if why := super().why_not(others):
            return why
        if not self.predicted:
            kind = conventions.architecture(self.weights)
            return (
                f"depth: nothing says whether {self.weights}{f' ({kind})' if kind else ''} predicts depth or inverse "
                f"depth; state {where}.predicts: depth or inverse_depth. `fourmill view RECIPE --probe depth` shows "
                "its depth of a room whose distances are known, and what to write"
            )
        assumed = (self.predicted, self.linear) == (INVERSE, DEPTH)
        if assumed and self.far_ratio is None:
            return (
                f"depth: {self.weights} predicts inverse depth up to a scale and an offset; linear_in: depth needs how "
                f"much farther the farthest point is than the nearest, for example {where}.far_ratio: 8, or weights of "
                "metric depth"
            )
        if self.far_ratio is not None and not assumed:
            return f"depth: far_ratio has no meaning for {self.weights} and what its label is linear in; leave it out"
        return ""

    def former_parts(self) -> dict[str, Any]:
        """With `predicts: auto`, where the configuration was read as what the recipe states now."""
        parts = super().former_parts()
        fact, config = self.fact, conventions.configuration(self.weights)
        read = (fact.says if fact else "") or by_configuration(config) or _of_dpt(config)
        if self.predicts == read:
            return {**parts, "options": parts["options"] | {"predicts": "auto"}}
        return parts

    def made_with(self, device: str) -> dict[str, Any]:
        return super().made_with(device) | {"predicts": self.predicted, "linear_in": self.linear}

    def label_of(self, drawn: Sequence[torch.Tensor], size: tuple[int, int]) -> np.ndarray | Reject:
        """float16 (H, W) in [0, 1], 0 nearest; a Reject if the model says the same of every pixel."""
        depth = drawn[0].numpy()
        scaled = scaled_depth(depth, self.predicted, self.linear, self.far_ratio)
        if scaled is None:
            return Reject(f"depth: the same everywhere ({float(depth.flat[0]):.4g})")
        return scaled


def _of_dpt(config: Mapping[str, Any]) -> str:
    """What the first release took a DPT of any origin for."""
    return INVERSE if config.get("model_type") == "dpt" else ""


def scaled_depth(prediction: np.ndarray, predicted: str, linear: str, far_ratio: float | None) -> np.ndarray | None:
    """float16 (H, W) in [0, 1], 0 nearest, of a finite float (H, W) prediction; None if it is constant.

    Args:
        predicted, linear: `DEPTH` or `INVERSE`; see `Depth`.
        far_ratio: needed for a label linear in depth of a relative inverse depth.
    """
    if predicted == linear:
        return relative_depth(prediction, predicted == INVERSE)
    if predicted == DEPTH:
        return relative_depth(1 / np.maximum(prediction.astype(np.float32), _NEAREST), True)
    share = relative_share(prediction)
    if share is None or far_ratio is None:
        return None
    return relative_depth(far_ratio / (1 + share * (far_ratio - 1)), False)


def relative_depth(prediction: np.ndarray, inverse: bool) -> np.ndarray | None:
    """float16 (H, W) in [0, 1], 0 nearest, of a finite float (H, W) prediction; None if it is constant.

    Args:
        inverse: large values are near.
    """
    share = relative_share(prediction)
    return None if share is None else np.clip(1 - share if inverse else share, 0, 1).astype(np.float16)


def relative_share(prediction: np.ndarray) -> np.ndarray | None:
    """float32, 0 where a finite prediction is smallest and 1 where it is largest; None if it is constant."""
    low, high = float(prediction.min()), float(prediction.max())
    if high - low <= _RESOLUTION * max(abs(low), abs(high)):
        return None
    share: np.ndarray = (prediction.astype(np.float32) - low) / (high - low)
    return share
