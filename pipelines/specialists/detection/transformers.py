"""Boxes of COCO's 80 classes, or of the recipe's own, by a detector of transformers: D-FINE, RT-DETR, DETR, YOLOS.

Decisions:
- Preprocessing and reading of the outputs are those of the weights' own processor. Images are prepared one by one and
  never padded into each other.
- A label keeps boxes well below the score of 0.6 from which 4M writes them, so that this threshold can be moved without
  detecting again.
- Boxes and scores are rounded to 1e-5: finer digits differ with the size of a batch, and thresholds and the order of
  boxes must not turn on them.
- Classes are known by name. Other spellings of COCO's names are translated; classes that the label lacks are dropped,
  since there are no words for them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import Field, PrivateAttr

from ....infra import faults
from ....modalities import COCO_CLASSES
from ...reject import Reject
from ..base import ImageItem
from ..host import OnHost, sent
from ..pretrained import Pretrained, batches, without_checks

_DIGITS = 5

# Names that older configurations (Pascal VOC's, darknet's) and Objects365 have for classes of COCO.
_SYNONYMS = {
    "aeroplane": "airplane",
    "motorbike": "motorcycle",
    "sofa": "couch",
    "tvmonitor": "tv",
    "tv monitor": "tv",
    "television": "tv",
    "diningtable": "dining table",
    "pottedplant": "potted plant",
    "doughnut": "donut",
    "hair dryer": "hair drier",
    "cellphone": "cell phone",
    "mobile phone": "cell phone",
    "fridge": "refrigerator",
}

# COCO's own category ids run to 90 with ten gaps, 0 being no category; DETR's kin count with them.
_GAPS = (0, 12, 26, 29, 30, 45, 66, 68, 69, 71, 83)
_BY_CATEGORY_ID = tuple("N/A" if i in _GAPS else COCO_CLASSES[i - sum(gap <= i for gap in _GAPS)] for i in range(91))


def label_names(
    names: Sequence[str], option: str = "classes", wanted: Sequence[str] = COCO_CLASSES
) -> list[str | None]:
    """For each class of a model its name among `wanted`, or None if there is no such class.

    Names without a meaning ("LABEL_0", "0") are read by position if they are as many as are wanted, or 80 (the order of
    COCO_CLASSES), or 91 (COCO's category ids). ValueError if no name is wanted; it names the option that helps.
    """
    if not any(name.lower().removeprefix("label").strip("_ 0123456789") for name in names):
        by_position = {len(COCO_CLASSES): COCO_CLASSES, len(_BY_CATEGORY_ID): _BY_CATEGORY_ID, len(wanted): wanted}
        known = by_position.get(len(names))
        if known is None:
            raise ValueError(f"its {len(names)} classes have no names; give them in order as `{option}`")
        names = known
    ours = {_plain(name): name for name in wanted}
    # The label's own spelling first: a list of one's own may have both "sofa" and "couch".
    translated = [ours.get(_plain(name)) or ours.get(_SYNONYMS.get(_plain(name), "")) for name in names]
    if not any(translated):
        whose = f"COCO's {len(wanted)}" if tuple(wanted) == COCO_CLASSES else f"the {len(wanted)} of classes.det"
        raise ValueError(
            f"none of its {len(names)} classes ({', '.join(names[:5])}...) is one of {whose}; if they are, give "
            f"their names in order as `{option}`"
        )
    return translated


def _plain(name: str) -> str:
    return " ".join(name.lower().replace("_", " ").replace("-", " ").split())


def records(
    boxes: np.ndarray, scores: np.ndarray, classes: np.ndarray, names: Sequence[str | None], most: int
) -> list[dict[str, Any]]:
    """Detections of one image as the label has them, best first, rounded to 1e-5.

    Args:
        boxes: float (n, 4) xmin, ymin, xmax, ymax in 0..1 of the frame; what sticks out is cut off.
        scores: float (n,) in 0..1.
        classes: int (n,), indices into `names`; those without a name are dropped.
        names: the label's names of the model's classes.
        most: how many to keep.
    """
    boxes, scores = boxes.astype(np.float64).clip(0, 1).round(_DIGITS), scores.astype(np.float64).round(_DIGITS)
    named = np.array([0 <= c < len(names) and names[c] is not None for c in classes], dtype=bool)
    keep = named & (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])
    boxes, scores, classes = boxes[keep], scores[keep], classes[keep]
    # Ties are broken by class and position: a network's own order is no promise.
    order = np.lexsort((boxes[:, 3], boxes[:, 2], boxes[:, 1], boxes[:, 0], classes, -scores))[:most]
    return [{"box": boxes[i].tolist(), "label": names[classes[i]], "score": float(scores[i])} for i in order]


# Boxes float (n, 4) xmin, ymin, xmax, ymax in 0..1, scores float (n,), indices of classes int (n,).
Detections = tuple[np.ndarray, np.ndarray, np.ndarray]


# Groups of items by their positions, each with what the network takes; and the items that cannot be prepared.
Prepared = tuple[list[tuple[list[int], dict[str, Any]]], dict[int, Reject]]


class Detector(Pretrained):
    """Base of detectors with weights: `read` gives boxes, scores and classes, this makes labels of them.

    Coordinates are written in thousandths, which half precision cannot hold near 1; detectors are small. Hence fp32.
    """

    label: ClassVar[str] = "det"
    version: ClassVar[int] = 2  # boxes and scores rounded
    first_version: ClassVar[int] = 2
    task: ClassVar[str] = "object detection"
    gpu_precision: ClassVar[Literal["fp32", "fp16", "bf16"]] = "fp32"
    gpus: ClassVar[float] = 0.25
    memory_gb: ClassVar[float] = 2.0
    groups: ClassVar[bool] = True

    min_score: float = Field(0.3, ge=0, lt=1, description="Boxes below this score are dropped.")
    max_boxes: int = Field(100, ge=1, description="Boxes of an image that are kept, the best ones.")

    _names: list[str | None] = PrivateAttr(default_factory=list)
    _model: Any = PrivateAttr(default=None)

    def infer(self, prepared: Any) -> Any:
        """What was prepared, outputs of the network for each group, and their logits and boxes on the host."""
        import torch

        groups, _ = prepared
        with torch.inference_mode():
            outputs = [self._model(**inputs) for _, inputs in groups]
            wanted = [tensor.float() for out in outputs for tensor in (out.logits, out.pred_boxes)]
        return prepared, outputs, OnHost(wanted)

    def finish(self, items: Sequence[ImageItem], inferred: Any) -> list[list[dict[str, Any]] | Reject]:
        """For each item its boxes, best first: {"box": [xmin, ymin, xmax, ymax] in 0..1, "label", "score"}."""
        assert self._names, "call setup first"
        return [
            one if isinstance(one, Reject) else records(*one, self._names, self.max_boxes)
            for one in self.read(items, inferred)
        ]

    def read(self, items: Sequence[ImageItem], inferred: Any) -> list[Detections | Reject]:
        """Detections of each item by the network's outputs, or why there are none."""
        raise NotImplementedError

    def _not_finite(self) -> Reject:
        return Reject(f"{self.label}: NaN or infinite outputs; try another precision")

    def _set_names(self, names: Sequence[str]) -> None:
        try:
            self._names = label_names(names, f"labels.specialists.{self.label}.classes", self.class_names())
        except ValueError as error:
            raise ValueError(f"{self.label}: {self.weights}: {error}") from error


class Boxes(Detector):
    """Any `AutoModelForObjectDetection`. The default is D-FINE-X (Peng et al., 2024), 59.3 AP on COCO."""

    name: ClassVar[str] = "detector"
    licence: ClassVar[str] = "Apache-2.0"

    weights: str = Field(
        "ustc-community/dfine-xlarge-obj2coco", description="Hub id or local folder of a detector of transformers."
    )
    classes: tuple[str, ...] = Field(
        (), description="Names of the model's classes, in order, where its configuration has none or others."
    )

    _processor: Any = PrivateAttr(default=None)

    def setup(self, device: str) -> None:
        """Load the detector. ValueError if it is none, or if it knows no class of COCO."""
        without_checks()
        model, processor = self.load("AutoModelForObjectDetection", device), self.processor()
        if not hasattr(processor, "post_process_object_detection"):
            raise ValueError(
                f"{self.label}: the processor of {self.weights}, {type(processor).__name__}, does not read detections; "
                "copy the preprocessor_config.json of the detector that it was trained from"
            )
        names = model.config.id2label
        self._set_names(self.classes or [str(names.get(i, "N/A")) for i in range(max(names) + 1)])
        self._model, self._processor = model, processor

    def prepare(self, items: Sequence[ImageItem]) -> Prepared:
        """Images of equal size together; those that cannot be prepared apart, with the reason."""
        import torch

        made = [self._prepared(item.image) for item in items]
        refused = {i: part for i, part in enumerate(made) if isinstance(part, Reject)}
        good = [i for i in range(len(made)) if i not in refused]
        device, dtype = self._model.device, self._model.dtype
        groups: list[tuple[list[int], dict[str, Any]]] = []
        for indices, pixels in batches([made[i]["pixel_values"][0] for i in good], self.batch_size):
            members = [good[i] for i in indices]
            inputs = {"pixel_values": sent(pixels, device, dtype)}
            if "pixel_mask" in made[members[0]]:  # of processors that may pad an image to a fixed size
                masks = torch.cat([made[i]["pixel_mask"] for i in members])
                inputs["pixel_mask"] = sent(masks, device, masks.dtype)
            groups.append((members, inputs))
        return groups, refused

    def read(
        self, items: Sequence[ImageItem], inferred: tuple[Prepared, list[Any], OnHost]
    ) -> list[Detections | Reject]:
        (groups, refused), every, copies = inferred
        detections: list[Detections | Reject] = [refused.get(i) or self._not_finite() for i in range(len(items))]
        tensors = copies.tensors()
        for (members, _), outputs, logits, boxes in zip(groups, every, tensors[::2], tensors[1::2], strict=True):
            outputs.logits, outputs.pred_boxes = logits, boxes
            # Without target sizes the boxes stay in 0..1.
            parts = self._processor.post_process_object_detection(outputs, threshold=self.min_score)
            for n, (i, part) in enumerate(zip(members, parts, strict=True)):
                if logits[n].isfinite().all() and boxes[n].isfinite().all():
                    detections[i] = (part["boxes"].numpy(), part["scores"].numpy(), part["labels"].numpy())
        return detections

    def _prepared(self, image: np.ndarray) -> Any:
        """What the network takes; a Reject for an image that is too thin for the processor."""
        try:
            # Channels last is said, since an image 3 px high would be ambiguous.
            return self._processor(images=image, input_data_format="channels_last", return_tensors="pt")
        except (ValueError, RuntimeError) as error:
            if faults.of_place(error):
                raise
            height, width = image.shape[:2]
            return Reject(f"{self.label}: an image of {width} x {height} px cannot be prepared: {error}")
