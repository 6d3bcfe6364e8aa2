"""Semantic segmentation into the 133 classes of COCO panoptic (4M-21's `semseg`), or into the recipe's own.

4M labels with Mask2Former Swin-B. The same goes for EoMT, OneFormer, MaskFormer, and for semantic heads (SegFormer,
UperNet, TIPSv2) that were trained on these classes; models of other classes are refused.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import cv2
import numpy as np
from pydantic import Field, PrivateAttr

from ....modalities import COCO_CLASSES, COCO_PANOPTIC_CLASSES, NO_CLASS, plain_class
from ...reject import Reject
from ..host import OnHost
from .base import DenseModel

if TYPE_CHECKING:
    import torch

_DEFORMABLE = ("mask2former", "oneformer")  # sample features at positions that half precision rounds to pixels
_FINEST = 1024  # pixels: longer side of the grid on which masks compete; their own is coarser
_CLASSES_AT_A_TIME = 16
_STRIDE = 4  # pixels of the network's input to one of a mask, in all mask classifiers

# Least probability of a segment's class in the authors' own configurations for COCO panoptic: Mask2Former
# configs/coco/panoptic-segmentation/maskformer2_R50_bs16_50ep.yaml, on which Swin-B's rests (9b0651c); MaskFormer
# configs/coco-panoptic (da3e60d); OneFormer configs/coco/oneformer_R50_bs16_50ep.yaml (4962ef6); EoMT
# training/mask_classification_panoptic.py (7bd19dd).
PUBLISHED_SCORE = {"mask2former": 0.8, "maskformer": 0.8, "oneformer": 0.8, "eomt": 0.8, "eomt_dinov3": 0.8}
_FIRST_SCORE = 0.5  # of the first release, and of transformers


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
    version: ClassVar[int] = 2
    changes: ClassVar[dict[int, str]] = {
        2: "segments are dropped and drawn as the models' authors do, below a class probability of 0.8; before, below "
        "0.5, on masks that transformers had resized to a square, and pixels that no mask is sure of had a class"
    }
    later: ClassVar[dict[str, Any]] = {"inference": "published"}
    unneeded: ClassVar[tuple[str, ...]] = (r"^criterion\.",)

    weights: str = Field(
        "facebook/mask2former-swin-base-coco-panoptic", description="Hub id (org/name), or a local folder."
    )
    min_score: Literal["published"] | Annotated[float, Field(ge=0, lt=1)] = Field(
        "published",
        description="Segments whose class is less probable are dropped. published: as in the authors' own "
        "configuration for COCO panoptic, 0.8 for Mask2Former, MaskFormer, OneFormer and EoMT; 0.5 where none is "
        "known.",
    )
    mask_threshold: float = Field(
        0.5,
        ge=0,
        lt=1,
        description="Probability from which a pixel belongs to a mask, which its visible share is measured against. "
        "Pixels below it have no class.",
    )
    inference: Literal["published", "transformers"] = Field(
        "published",
        description="How Mask2Former's and OneFormer's masks become segments. published: as their authors' code does. "
        "transformers: as its image processor does, which resizes masks to 384 x 384 first, weighs them by the "
        "probability of their class before it measures them, and leaves no pixel below mask_threshold out. Others "
        "always go through transformers.",
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

    def drawn(
        self, predictions: Sequence[SimpleNamespace], sizes: Sequence[tuple[int, int]]
    ) -> list[list[torch.Tensor]]:
        import torch

        if self._is_semantic:
            return [[argmax_at(p.logits[0], s).to(torch.int16)] for p, s in zip(predictions, sizes, strict=True)]
        if not self._draws_itself:  # transformers' reading waits for each of its segments
            return [[p.class_queries_logits, p.masks_queries_logits] for p in predictions]
        found = published_classes(
            [p.class_queries_logits[0] for p in predictions],
            [p.masks_queries_logits[0] for p in predictions],
            [self._grid(size) for size in sizes],
            self.least_score,
            self.mask_threshold,
            self.min_visible,
        )
        return [[classes.to(torch.int16)] for classes in found]

    def label_of(self, drawn: Sequence[torch.Tensor], size: tuple[int, int]) -> np.ndarray | Reject:
        """uint8 (H, W): a class of the label's, COCO_PANOPTIC_CLASSES unless the recipe says others, or NO_CLASS."""
        if self._is_semantic:
            return np.ascontiguousarray(self._classes[drawn[0].numpy()])
        grid = self._grid(size)
        if self._draws_itself:
            table = np.append(self._classes, NO_CLASS).astype(np.uint8)  # its last entry is of -1
            classes = np.ascontiguousarray(table[drawn[0].numpy()])
        else:
            classes = self._transformers_classes(drawn[0], drawn[1], grid)
        if grid == size:
            return classes
        return cv2.resize(classes, (size[1], size[0]), interpolation=cv2.INTER_NEAREST_EXACT)

    @property
    def _is_semantic(self) -> bool:
        return self._auto == "AutoModelForSemanticSegmentation"

    @property
    def _draws_itself(self) -> bool:
        return self.inference == "published" and self._kind in _DEFORMABLE

    def _grid(self, size: tuple[int, int]) -> tuple[int, int]:
        """Height and width at which masks compete, for an image of `size`."""
        height, width = self.seen_size(size)  # EoMT's reads from it what is padding
        scale = min(1.0, _FINEST / max(height, width))
        return max(1, round(height * scale)), max(1, round(width * scale))

    @property
    def least_score(self) -> float:
        """`min_score` as a number, for the weights that are loaded."""
        return PUBLISHED_SCORE.get(self._kind, _FIRST_SCORE) if self.min_score == "published" else self.min_score

    def _transformers_classes(self, logits: torch.Tensor, masks: torch.Tensor, grid: tuple[int, int]) -> np.ndarray:
        options: dict[str, Any] = {} if self._kind.startswith("eomt") else {"label_ids_to_fuse": set()}
        segments = self._processor.post_process_panoptic_segmentation(
            SimpleNamespace(class_queries_logits=logits, masks_queries_logits=masks),
            threshold=self.least_score,
            mask_threshold=self.mask_threshold,
            overlap_mask_area_threshold=self.min_visible,
            target_sizes=[grid],
            **options,
        )[0]
        return classes_of_segments(segments["segmentation"].numpy(), segments["segments_info"], self._classes)

    def fingerprint_parts(self) -> dict[str, Any]:
        """With the number that the first release had as its default where the recipe gives none, so that labels of that
        release are recognized. A recipe that asks for just that number now asks for something else."""
        parts = super().fingerprint_parts()
        hashed = {"published": _FIRST_SCORE, _FIRST_SCORE: str(_FIRST_SCORE)}.get(self.min_score, self.min_score)
        return {**parts, "options": parts["options"] | {"min_score": hashed}}


def published_classes(
    logits: Sequence[torch.Tensor],
    masks: Sequence[torch.Tensor],
    sizes: Sequence[tuple[int, int]],
    min_score: float,
    mask_threshold: float,
    min_visible: float,
) -> list[torch.Tensor]:
    """The class of each pixel by the panoptic inference of Mask2Former's and OneFormer's authors; -1 for none.

    Each pixel is the mask's that is strongest there, weighed by the probability of its class. A mask that is stronger
    in less than `min_visible` of its own pixels is dropped, and so are pixels outside of their mask.

    The host waits once, to learn which queries of all images count.

    Args:
        logits: of each image those of classes (queries, classes + 1), the last of no object.
        masks: of each image logits of masks (queries, h, w).
        sizes: (H, W) of each result.

    Returns:
        int64 (H, W) for each image.
    """
    import torch

    scores, labels = torch.stack(list(logits)).softmax(-1).max(-1)
    kept = (labels != logits[0].shape[1] - 1) & (scores > min_score)
    queries = [np.flatnonzero(row).tolist() for row in OnHost([kept]).tensors()[0].numpy()]
    found = []
    for i, (chosen, size) in enumerate(zip(queries, sizes, strict=True)):
        classes = torch.full(size, -1, device=logits[i].device)
        if chosen:
            of = [torch.stack([values[i][q] for q in chosen]) for values in (scores, labels, masks)]
            classes = _segments(of[0], of[1], of[2], classes, mask_threshold, min_visible)
        found.append(classes)
    return found


def _segments(
    scores: torch.Tensor,
    labels: torch.Tensor,
    masks: torch.Tensor,
    found: torch.Tensor,
    mask_threshold: float,
    min_visible: float,
) -> torch.Tensor:
    """`found` (H, W) with the labels (n,) of masks (n, h, w) where they win; no value is waited for."""
    import torch

    resized, size = masks[None], tuple(found.shape)
    for target in ([_STRIDE * side for side in masks.shape[1:]], size):  # by way of the network's input
        resized = torch.nn.functional.interpolate(resized, target, mode="bilinear", align_corners=False)
    shares = resized[0].sigmoid()
    strongest = (scores[:, None, None] * shares).argmax(0)
    for number, label in enumerate(labels):
        won, own = strongest == number, shares[number] >= mask_threshold
        # Without a pixel of its own a mask draws nothing, whatever this quotient is.
        found = torch.where(won & own & (won.sum() / own.sum() >= min_visible), label, found)
    return found


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
