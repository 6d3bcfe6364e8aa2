"""Depth in metres (`metric_depth`), which 4M-21 has not: a label beside the relative `depth`.

By models that predict distances in metres: ZoeDepth, TIPSv2, Depth Anything's metric ones, Depth Pro, GLPN, DPT on
DINOv2. How good the unit is depends on the camera and on the scenes that they were trained on; nothing corrects it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from ...reject import Reject
from .. import conventions
from ..base import Specialist
from ..conventions import DEPTH
from .estimation import DepthModel, by_configuration

if TYPE_CHECKING:
    import torch


class MetricDepth(DepthModel):
    """Metres from the camera to each point, along the axis of view. The default is ZoeDepth, trained on rooms (NYU) and
    streets (KITTI)."""

    name: ClassVar[str] = "metric_depth"
    label: ClassVar[str] = "metric_depth"
    facts_of: ClassVar[str] = "depth"
    licence: ClassVar[str] = "MIT"
    memory_gb: ClassVar[float] = 2.5

    weights: str = Field("Intel/zoedepth-nyu-kitti", description="Hub id (org/name), or a local folder.")
    predicts: Literal["auto", "metres"] = Field(
        "auto",
        description="That the model's output is in metres. auto: what is known of the weights, or what their "
        "configuration says; others are refused until it is stated.",
    )

    @property
    def changes(self) -> dict[int, str]:  # type: ignore[override]
        return {}  # those of the table are of the relative label

    def fingerprint_parts(self) -> dict[str, Any]:
        """That the unit is stated changes no label."""
        parts = super().fingerprint_parts()
        return {**parts, "options": {name: value for name, value in parts["options"].items() if name != "predicts"}}

    def why_not(self, others: Mapping[str, Specialist]) -> str:
        if why := super().why_not(others):
            return why
        says = self.fact.says if self.fact else by_configuration(conventions.configuration(self.weights))
        if self.predicts == "metres" or says == DEPTH:
            return ""
        where = f"labels.specialists.{self.label}"
        if says:
            return (
                f"{self.label}: {self.weights} predicts relative depth, whose unit nobody knows; name a model of "
                f"metric depth in {where}.weights, such as Intel/zoedepth-nyu-kitti"
            )
        return (
            f"{self.label}: nothing says whether {self.weights} predicts metres; if it does, state {where}.predicts: "
            "metres"
        )

    def label_of(self, drawn: Sequence[torch.Tensor], size: tuple[int, int]) -> np.ndarray | Reject:
        """float16 (H, W), metres; a Reject for distances that float16 cannot hold, or that are none."""
        depth = drawn[0].numpy()
        low, high = float(depth.min()), float(depth.max())
        if not (np.isfinite(low) and 0 < high <= float(np.finfo(np.float16).max)):
            return Reject(f"{self.label}: distances from {low:.4g} to {high:.4g}, expected metres")
        if low == high:
            return Reject(f"{self.label}: the same everywhere ({low:.4g})")
        return np.maximum(depth, 0).astype(np.float16)
