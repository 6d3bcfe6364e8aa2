"""Semantic segmentation into the 133 classes of COCO panoptic (4M-21's `semseg`), or into the recipe's own.

4M labels with Mask2Former Swin-B. The same goes for EoMT, OneFormer, MaskFormer, and for semantic heads (SegFormer,
UperNet, TIPSv2) that were trained on these classes; models of other classes are refused.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import cv2
import numpy as np
from pydantic import Field, PrivateAttr

from ....modalities import COCO_CLASSES, COCO_PANOPTIC_CLASSES, NO_CLASS, plain_class
from ...reject import Reject
from .base import DenseModel

if TYPE_CHECKING:
    import torch

_DEFORMABLE = ("mask2former", "oneformer")  # sample features at positions that half precision rounds to pixels
_FINEST = 1024  # pixels: longer side of the grid on which masks compete; their own is coarser
_CLASSES_AT_A_TIME = 16


class Panoptic(DenseModel):
    """Class of each pixel, by the panoptic segments of a mask classifier, or by a semantic head.

    Instances of a class are not distinguished. Where no segment passes the thresholds a pixel has no class; a picture
    without any segment has none at all, which is a label like others.

    Thresholds serve mask classifiers only: a semantic head always says a class.
    """

    name: ClassVar[str] = "panoptic"
    label: ClassVar[str] = "semseg"
    task: ClassVar[str] = "COCO panoptic segmentation"
    licence: ClassVar[str] = "MIT (code; the weights' page on the hub says 'other')"
    memory_gb: ClassVar[float] = 4.0
    batch_size: ClassVar[int] = 4
    unneeded: ClassVar[tuple[str, ...]] = (r"^criterion\.",)

    weights: str = Field(
        "facebook/mask2former-swin-base-coco-panoptic", description="Hub id (org/name), or a local folder."
    )
    min_score: float = Field(
        0.5, ge=0, lt=1, description="Segments whose class is less probable are dropped. EoMT's authors take 0.8."
    )
    mask_threshold: float = Field(
        0.5,
        ge=0,
        lt=1,
        description="Probability from which a pixel belongs to a mask, which its visible share is measured against. "
        "EoMT drops the pixels below it; Mask2Former and OneFormer leave them to the strongest mask.",
    )
    min_visible: float = Field(
        0.8, ge=0, lt=1, description="Segments of which others cover more than the rest of this share are dropped."
    )

    _classes: Any = PrivateAttr(default=None)
    _task_tokens: Any = PrivateAttr(default=None)

    def auto_class(self) -> str:
        from transformers.models.auto.modeling_auto import MODEL_FOR_UNIVERSAL_SEGMENTATION_MAPPING_NAMES as UNIVERSAL

        kind = self.config().model_type
        return "AutoModelForUniversalSegmentation" if kind in UNIVERSAL else "AutoModelForSemanticSegmentation"

    def dtype(self, device: str) -> torch.dtype:
        import torch

        if self.precision == "auto" and self.config().model_type in _DEFORMABLE:
            return torch.float32
        return super().dtype(device)

    def setup(self, device: str) -> None:
        """Load the weights. ValueError if they are for another task or other classes."""
        super().setup(device)
        self._classes = class_table(self._model.config.id2label, self.weights, self.class_names())
        if self._auto == "AutoModelForUniversalSegmentation":
            self.require_postprocessing("post_process_panoptic_segmentation")
        processor = self._processor
        # Padding is for batches of unequal sizes, which are not made here; EoMT's network takes squares only.
        if getattr(processor, "pad_size", None) is not None:
            processor.pad_size = None
        if self._kind.startswith("eomt"):
            processor.do_pad, processor.do_split_image = True, False
        if self._kind == "oneformer":
            self._task_tokens = self._tokens_of_task(device)

    @property
    def _kind(self) -> str:
        return str(self._model.config.model_type)

    def open_processor(self) -> Any:
        # OneFormer's would fetch class names for training from the hub.
        return self.processor(class_info_file=None) if self._kind == "oneformer" else self.processor()

    def _tokens_of_task(self, device: str) -> torch.Tensor:
        """OneFormer's query for its task, int64 (1, length)."""
        tokens = self.processor("AutoTokenizer")(
            ["the task is panoptic"],
            padding="max_length",
            max_length=self._model.config.task_seq_len,
            truncation=True,
            return_tensors="pt",
        )
        return (tokens["input_ids"] * tokens["attention_mask"]).to(device)

    def forward(self, pixels: torch.Tensor) -> Any:
        if self._task_tokens is None:
            return super().forward(pixels)
        return self._model(pixel_values=pixels, task_inputs=self._task_tokens.expand(len(pixels), -1))

    def label_of(self, prediction: Any, size: tuple[int, int]) -> np.ndarray | Reject:
        """uint8 (H, W): a class of the label's, COCO_PANOPTIC_CLASSES unless the recipe says others, or NO_CLASS."""
        if self._auto == "AutoModelForSemanticSegmentation":
            ids = argmax_at(prediction.logits[0], size)
            return np.ascontiguousarray(self._classes[ids.cpu().numpy()])
        height, width = self.seen_size(size)  # EoMT's reads from it what is padding
        scale = min(1.0, _FINEST / max(height, width))
        grid = max(1, round(height * scale)), max(1, round(width * scale))
        options: dict[str, Any] = {} if self._kind.startswith("eomt") else {"label_ids_to_fuse": set()}
        segments = self._processor.post_process_panoptic_segmentation(
            prediction,
            threshold=self.min_score,
            mask_threshold=self.mask_threshold,
            overlap_mask_area_threshold=self.min_visible,
            target_sizes=[grid],
            **options,
        )[0]
        classes = classes_of_segments(segments["segmentation"].cpu().numpy(), segments["segments_info"], self._classes)
        if grid == size:
            return classes
        return cv2.resize(classes, (size[1], size[0]), interpolation=cv2.INTER_NEAREST_EXACT)


def class_table(
    names: Mapping[int, str], source: str = "the model", wanted: Sequence[str] = COCO_PANOPTIC_CLASSES
) -> np.ndarray:
    """uint8 (n,): for each class of a model its number among `wanted`, NO_CLASS for a class beyond them.

    Args:
        names: the model's classes by id, in any of the spellings of COCO's tools ("sky-other-merged", "sky").
        wanted: the classes of the label.

    Raises:
        ValueError: the model lacks classes and has others instead. Classes without names (LABEL_0), no more than are
            wanted, are taken to be in their order; so are exactly COCO's 133 whose things are COCO's in order, whatever
            stuff is called.
    """
    ours = {plain_class(name): number for number, name in enumerate(wanted)}
    known = [plain_class(names.get(i, "")) for i in range(max(names, default=-1) + 1)]
    coco = tuple(wanted) == COCO_PANOPTIC_CLASSES
    in_order = coco and known[: len(COCO_CLASSES)] == [plain_class(name) for name in COCO_CLASSES]
    unnamed = known == [f"label {i}" for i in range(len(known))]
    if (len(known) == len(wanted) and in_order) or (0 < len(known) <= len(wanted) and unnamed):
        return np.arange(len(known), dtype=np.uint8)
    lacking = [name for name in wanted if plain_class(name) not in known]
    if lacking and not (known and all(name in ours for name in known)):
        whose, trained = ("COCO panoptic's", "COCO panoptic") if coco else ("the recipe's", "the list classes.semseg")
        raise ValueError(
            f"semseg: {source} knows {len(names)} classes, and {len(lacking)} of {whose} {len(wanted)} are not among "
            f"them ({', '.join(lacking[:3])}...); name weights that were trained on {trained}"
        )
    return np.array([ours.get(name, NO_CLASS) for name in known], np.uint8)


def classes_of_segments(segmentation: np.ndarray, segments: list[dict[str, Any]], table: np.ndarray) -> np.ndarray:
    """uint8 (H, W) of a map of segment ids (H, W): the class of each pixel's segment, NO_CLASS outside of all.

    Args:
        segments: {"id", "label_id"} of each.
        table: class by label_id (see `class_table`).
    """
    ids = segmentation.astype(np.int64)
    lookup = np.full(max([ids.max(), *(segment["id"] for segment in segments)]) + 2, NO_CLASS, np.uint8)
    for segment in segments:
        lookup[segment["id"]] = table[segment["label_id"]]
    return lookup[ids]  # -1, "no segment", is the last entry, which no segment has


def argmax_at(logits: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """int64 (H, W): the largest of logits (C, h, w) resized to H x W, some classes at a time: all would fill memory."""
    import torch

    best = torch.full(size, -torch.inf, device=logits.device)
    winner = torch.zeros(size, dtype=torch.int64, device=logits.device)
    for start in range(0, len(logits), _CLASSES_AT_A_TIME):
        part = logits[None, start : start + _CLASSES_AT_A_TIME]
        value, index = torch.nn.functional.interpolate(part, size, mode="bilinear", align_corners=False)[0].max(0)
        winner = torch.where(value > best, index + start, winner)
        best = torch.maximum(value, best)
    return winner
