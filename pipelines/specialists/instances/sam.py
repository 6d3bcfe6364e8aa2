"""SAM instances (4M-21's `sam_instance`): everything in an image as masks, without names."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

from pydantic import Field, PrivateAttr, model_validator

from ...reject import Reject
from .. import shapes
from ..base import ImageItem
from ..pretrained import Pretrained, loaded

if TYPE_CHECKING:
    from .sam_grid import Instance, Seen, Settings, Window

# The position of an item, a window of its image, and what the network is shown of it, None if that is made later.
Look = tuple[int, "Window", Any]
Prepared = tuple[Sequence[ImageItem], list[Look], dict[int, Reject]]
Inferred = tuple[dict[int, list["Seen"]], dict[int, Reject]]

_MAX_ASPECT = 256  # of images: beyond it the short side has hardly a pixel at the network's resolution


class SamInstances(Pretrained):
    """segment-anything's automatic masks: SAM ViT-H asked at 32 x 32 points, as in 4M-21.

    The default weights are the published ViT-H as transformers stores it, which is safetensors. Others:
    segment-anything's own files (sam_vit_h_4b8939.pth and the like, by `allow_pickle: true`, or the same tensors as
    safetensors), and SAM 2 (facebook/sam2.1-hiera-large), which suits a `pred_iou_thresh` of 0.8.
    """

    name: ClassVar[str] = "sam"
    label: ClassVar[str] = "sam_instance"
    task: ClassVar[str] = "promptable segmentation"
    licence: ClassVar[str] = "Apache-2.0"
    # bfloat16 has 8 bits: points on 1024 pixels would be 4 pixels off.
    gpu_precision: ClassVar[Literal["fp32", "fp16", "bf16"]] = "fp16"
    memory_gb: ClassVar[float] = 7.0
    batch_size: ClassVar[int] = 4

    weights: str = Field(
        "facebook/sam-vit-huge", description="Hub id or folder of SAM or SAM 2, or a file of segment-anything's."
    )
    points_per_side: int = Field(32, ge=1, le=128, description="The grid asks at the square of this number of points.")
    points_per_batch: int = Field(64, ge=1, description="Points at a time: more is faster and takes more memory.")
    pred_iou_thresh: float = Field(0.88, ge=0, le=1, description="Masks that the network thinks worse are dropped.")
    stability_score_thresh: float = Field(
        0.95, ge=0, le=1, description="Least IoU of the masks at a higher and a lower threshold of the logits."
    )
    stability_score_offset: float = Field(1.0, gt=0, description="How much higher and lower these thresholds are.")
    box_nms_thresh: float = Field(
        0.7, gt=0, le=1, description="IoU of boxes above which the mask that the network thinks worse is dropped."
    )
    crop_n_layers: int = Field(
        0, ge=0, le=3, description="Layers of windows that are looked at as well, layer i with 4^i of them: finds more."
    )
    crop_n_points_downscale_factor: int = Field(
        1, ge=1, description="By which points_per_side is divided from one layer of windows to the next."
    )
    min_mask_region_area: int = Field(
        0, ge=0, description="Holes and islands of fewer pixels are removed from masks; 0 for none."
    )
    max_instances: int | None = Field(None, ge=1, description="The largest that are kept; all unless given.")
    working_size: int = Field(
        1024, ge=64, description="Longest side at which masks are judged; those kept have the image's own size."
    )

    _network: Any = PrivateAttr(default=None)

    @model_validator(mode="after")
    def _points_in_every_layer(self) -> Self:
        if self.points_per_side < self.crop_n_points_downscale_factor**self.crop_n_layers:
            raise ValueError(
                f"sam_instance: {self.points_per_side} points along a side, divided by "
                f"{self.crop_n_points_downscale_factor} {self.crop_n_layers} times, leave none; lower crop_n_layers"
            )
        return self

    def setup(self, device: str) -> None:
        """Load the network. ValueError if the weights are none of SAM's."""
        from . import sam_models

        if not Path(self.weights).is_file() and (self.folder() / "config.json").exists():
            model = self.load("AutoModelForMaskGeneration", device)
            self._network = sam_models.transformers(model, self.processor(), device)
        else:
            make = partial(self._segment_anything, device)
            sam = loaded(("segment_anything", self.weights, self.revision, device), make)
            self._network = sam_models.segment_anything(sam, device, self.dtype(device))

    def _segment_anything(self, device: str) -> Any:
        from . import sam_models

        try:
            return shapes.on(sam_models.from_state(self.state_dict()), device)
        except KeyError as error:
            raise ValueError(
                f"{self.label}: {self.weights} holds no weights of segment-anything's SAM: {error.args[0]}"
            ) from error

    def prepare(self, items: Sequence[ImageItem]) -> Prepared:
        """The windows of each image; what the network is shown of the first is made here, of all others just before."""
        from . import sam_grid

        assert self._network is not None, "call setup first"
        looks: list[Look] = []
        refused: dict[int, Reject] = {}
        for i, item in enumerate(items):
            height, width = item.image.shape[:2]
            if max(height, width) > _MAX_ASPECT * min(height, width):
                said = f"an image of {width} x {height} px, expected an aspect below {_MAX_ASPECT}"
                refused[i] = Reject(f"sam_instance: {said}")
                continue
            first, *others = sam_grid.windows(item.image.shape, self._settings)
            looks.append((i, first, self._network.prepare(first.of(item.image))))
            looks += [(i, window, None) for window in others]
        return items, looks, refused

    def infer(self, prepared: Prepared) -> Inferred:
        from . import sam_grid

        items, looks, refused = prepared
        settings, network = self._settings, self._network
        grids = sam_grid.grids(settings)
        found: dict[int, list[Seen]] = {}
        for start in range(0, len(looks), network.together):
            part = looks[start : start + network.together]
            shown = [network.prepare(w.of(items[i].image)) if given is None else given for i, w, given in part]
            for (i, window, _), view in zip(part, network.encode(shown), strict=True):
                try:
                    seen = sam_grid.look(view, window, items[i].image.shape, grids[window.layer], settings)
                except Reject as reject:
                    refused = {**refused, i: reject}
                else:
                    found.setdefault(i, []).append(seen)
        return found, refused

    def finish(self, items: Sequence[ImageItem], inferred: Inferred) -> list[list[dict[str, Any]] | Reject]:
        """Masks for each item, largest first; [] if SAM finds none that are good enough.

        Each is {"box": [xmin, ymin, xmax, ymax] in 0..1, "mask": COCO run lengths at the image's size, "point": [x, y]
        in 0..1, the point asked at, "area": share of the image, "iou": the network's guess of the mask's quality,
        "stability"}.
        """
        found, refused = inferred
        return [refused[i] if i in refused else self._records(found[i], item) for i, item in enumerate(items)]

    def _records(self, seen: list[Seen], item: ImageItem) -> list[dict[str, Any]]:
        from . import sam_grid

        height, width = item.image.shape[:2]
        found = sam_grid.instances(seen, item.image.shape, self._settings)
        return [_record(instance, width, height) for instance in found[: self.max_instances]]

    @property
    def _settings(self) -> Settings:
        from . import sam_grid

        return sam_grid.Settings(**{field.name: getattr(self, field.name) for field in fields(sam_grid.Settings)})

    def identity(self) -> dict[str, Any]:
        identity = super().identity()
        # Not points_per_batch: it changes no mask.
        return {**identity, "options": {k: v for k, v in identity["options"].items() if k != "points_per_batch"}}


def _record(instance: Instance, width: int, height: int) -> dict[str, Any]:
    left, top, right, bottom = instance.box
    return {
        "box": [left / width, top / height, (right + 1) / width, (bottom + 1) / height],
        "mask": instance.code,
        "point": [instance.point[0] / width, instance.point[1] / height],
        "area": instance.area / (width * height),
        "iou": min(max(instance.iou, 0.0), 1.0),  # a regression, which may leave the range
        "stability": instance.stability,
    }
