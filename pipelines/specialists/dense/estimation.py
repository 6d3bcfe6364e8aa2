"""Models of monocular depth, as both labels of depth use them: `depth` and `metric_depth`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, ClassVar

from ..conventions import DEPTH, INVERSE
from .base import DenseModel

if TYPE_CHECKING:
    import torch

_METRIC = ("glpn", "zoedepth", "depth_pro", "tipsv2_dpt")  # return distances, whatever their configuration says


class DepthModel(DenseModel):
    """Base of labels by a depth model of transformers: subclasses say what it must predict, and make the label."""

    task: ClassVar[str] = "monocular depth estimation"
    # DPT's first fusion has nothing to add; its checkpoints leave these out.
    unneeded: ClassVar[tuple[str, ...]] = (r"fusion_stage\.layers\.0\.residual_layer1\.",)

    def auto_class(self) -> str:
        return "AutoModelForDepthEstimation"

    def setup(self, device: str) -> None:
        """Load the weights. ValueError if they are for another task, or by `why_not`."""
        super().setup(device)
        self.require_postprocessing("post_process_depth_estimation")

    def drawn(
        self, predictions: Sequence[SimpleNamespace], sizes: Sequence[tuple[int, int]]
    ) -> list[list[torch.Tensor]]:
        seen = [self.seen_size(size) for size in sizes]
        return [[self._at_frame(*given)] for given in zip(predictions, sizes, seen, strict=True)]

    def _at_frame(self, prediction: Any, size: tuple[int, int], seen: tuple[int, int]) -> torch.Tensor:
        """A prediction at the frame of the image, float32 (H, W), in the model's own unit, by the processor of its
        weights, on its device.

        Args:
            size: height and width of the image. seen: those at which preprocessing saw it.
        """
        options: dict[str, Any] = {"target_sizes": [size]}
        if self._model.config.model_type == "zoedepth":  # the only one that pads and wants to know around what
            options["source_sizes"] = [seen]
        processed = self._processor.post_process_depth_estimation(prediction, **options)[0]["predicted_depth"]
        depth: torch.Tensor = processed.float().reshape(size)
        return depth


def by_configuration(config: Mapping[str, Any]) -> str:
    """`DEPTH` or `INVERSE` by what a model's configuration says itself, "" if it does not.

    DPT's says nothing: MiDaS's checkpoints predict inverse depth, Omnidata's of the same shape depth. Those with a
    projection before the head are DINOv2's, trained on metric depth.
    """
    kind = config.get("model_type", "")
    if kind in _METRIC or (kind == "dpt" and config.get("add_projection")):
        return DEPTH
    if kind in ("depth_anything", "prompt_depth_anything"):
        return INVERSE if config.get("depth_estimation_type", "relative") == "relative" else DEPTH
    return ""
