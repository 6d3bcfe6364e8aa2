"""Metadata of 4M-21: all 21 types, from pixels, sizes, captions, other labels and the data set's own columns.

Raw numbers; the tokenizer bins them. The paper names the types and prints few formulas. Where it prints none, these
fit the released bins: brightness and contrast are mean and standard deviation of grey (Rec. 601), saturation is the
mean of HSV's S in 0..255, entropy is Shannon's, in bits, of the grey histogram; colourfulness is Hasler and
Suesstrunk's (2003). Shares are of all pixels, those without a class among them.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import cv2
import numpy as np
from PIL import Image
from pydantic import Field

from ....modalities import COCO_PANOPTIC_CLASSES, NO_CLASS, plain_class
from ....tokenize.text.sentences import METADATA_TYPES
from ...reject import Reject
from ..base import Item, Specialist

# Classes of COCO panoptic segmentation, as the paper lists them by number.
WALKABLE: tuple[str, ...] = (
    "floor-wood", "gravel", "playingfield", "road", "sand", "snow", "stairs", "floor-other-merged", "pavement-merged",
    "grass-merged", "dirt-merged", "rug-merged",
)  # fmt: skip
BACKGROUND: tuple[str, ...] = (
    *WALKABLE, "platform", "railroad", "river", "roof", "sea", "wall-brick", "wall-stone", "wall-tile", "wall-wood",
    "water-other", "fence-merged", "ceiling-merged", "sky-other-merged", "mountain-merged", "building-other-merged",
    "wall-other-merged",
)  # fmt: skip
_WALKABLE, _BACKGROUND = (frozenset(map(plain_class, names)) for names in (WALKABLE, BACKGROUND))
OCCLUSION_EDGE = 0.3  # of Sobel's gradient
OCCLUSION_PIXELS = 224 * 224  # at which it is taken

_SENTENCE_END = re.compile(r"[.!?\u2026]+[\"')\]\u2019\u201d]*(?:\s+|$)|[\u3002\uff01\uff1f]+")
Source = Literal["det", "semseg", "normal", "depth", "sam_instance", "human_poses"]


class Metadata(Specialist):
    """Every type whose source an item has; a type without its source is left out, never guessed."""

    name: ClassVar[str] = "metadata"
    label: ClassVar[str] = "metadata"
    version: ClassVar[int] = 2
    first_version: ClassVar[int] = 2
    uses: ClassVar[tuple[str, ...]] = ("det", "semseg", "normal", "depth", "sam_instance", "human_poses")
    needs_image: ClassVar[bool] = False
    record_fields: ClassVar[tuple[str, ...]] = tuple(METADATA_TYPES)

    sources: tuple[Source, ...] = Field(
        ("det", "semseg", "normal", "depth", "sam_instance", "human_poses"),
        description="Labels that types are computed from, where the recipe makes them.",
    )
    min_score: float = Field(
        0.6, ge=0, le=1, description="Boxes below this score do not count; 4M writes boxes from 0.6."
    )
    humans_from_boxes: bool = Field(
        True,
        description="Without human poses, n_humans counts the boxes of persons. The paper counts the instances that "
        "4DHumans finds, itself run on person boxes. Off: the type is left out then.",
    )
    objectness: Literal["objects", "background"] = Field(
        "objects",
        description="Objectness is the share of pixels whose class is none of 28 background classes (floor, road, sky, "
        "wall, building, ...). The paper says that it counts those 28, and calls them countable: 'background' does so, "
        "and is high where there are no objects.",
    )
    formulas: Literal["standard", "ml4m"] = Field(
        "standard",
        description="'ml4m' takes entropy over the bins of all three channels (as Pillow does, up to 9.6 bits) and "
        "colourfulness of absolute opponent colours: the bins that published 4M models answer on the one photo of "
        "apple/ml-4m's notebooks. `convention: ml4m` sets it.",
    )
    later: ClassVar[dict[str, Any]] = {"formulas": "standard"}
    watermark_fields: tuple[str, ...] = Field(
        ("watermark_score", "pwatermark"),
        description="Fields of the JSON sidecar (COYO, LAION), of which the first that holds a number is the "
        "watermark score.",
    )
    aesthetic_fields: tuple[str, ...] = Field(
        ("aesthetic_score_laion_v2", "aesthetic_score", "aesthetic"), description="The same for the aesthetic score."
    )

    def looks_at(self) -> tuple[str, ...]:
        return self.sources

    def __call__(self, items: Sequence[Item]) -> list[dict[str, int | float] | Reject]:
        """Name -> number for each item, in the order of 4M's ids; a Reject if nothing at all is known."""
        return [self._describe(item) or Reject("metadata: no image, caption, labels or sizes") for item in items]

    def _describe(self, item: Item) -> dict[str, int | float]:
        values = original_size(item.info, item.image)
        if item.caption and item.caption.strip():
            values |= caption_statistics(item.caption)
        for source in self.uses:  # poses after boxes: they know better how many humans there are
            if source in self.sources and source in item.labels:
                values |= self._from_label(source, item.labels[source])
        if item.image is not None:
            values |= pixel_statistics(item.image)
            if self.formulas == "ml4m":
                values |= {"colorfulness": colorfulness(item.image, absolute=True), "entropy": entropy(item.image)}
        for name, fields in (("watermark_score", self.watermark_fields), ("aesthetic_score", self.aesthetic_fields)):
            found = next((number for field in fields if (number := _number(item.info.get(field))) is not None), None)
            if found is not None:
                values[name] = found
        return {name: values[name] for name in METADATA_TYPES if name in values}

    def _from_label(self, source: str, label: Any) -> dict[str, int | float]:
        match source:
            case "det":
                return self._box_statistics(label)
            case "semseg":
                return class_statistics(label, self.objectness, self.class_names("semseg"))
            case "normal":
                return {"geometric_complexity": geometric_complexity(label)}
            case "depth":
                return {"occlusion_score": occlusion(label)}
            case "sam_instance":
                return {"n_sam_instances": len(label)}
            case _:
                return {"n_humans": len(label)}

    def _box_statistics(self, boxes: list[dict[str, Any]]) -> dict[str, int | float]:
        classes = [box["label"] for box in boxes if box["score"] >= self.min_score]
        knows = self.humans_from_boxes and "person" in self.class_names("det")
        humans = {"n_humans": classes.count("person")} if knows else {}
        return {**humans, "n_coco_instances": len(classes), "coco_instance_diversity": len(set(classes))}


def class_statistics(
    classes: np.ndarray, objectness: str = "objects", names: Sequence[str] = COCO_PANOPTIC_CLASSES
) -> dict[str, int | float]:
    """Walkability, objectness (0..1) and the number of classes of a map, uint8 (H, W).

    Args:
        names: of the classes. Those of COCO's background count as such in any of their spellings ("floor"); walkability
            is left out if none of the names can be walked on.
    """
    counts = np.bincount(classes.reshape(-1), minlength=NO_CLASS + 1)[:NO_CLASS]
    pixels = [(plain_class(name), int(counts[i])) for i, name in enumerate(names)]
    background = sum(count for name, count in pixels if name in _BACKGROUND)
    counted = background if objectness == "background" else sum(count for _, count in pixels) - background
    walkable = [count for name, count in pixels if name in _WALKABLE]
    return {
        **({"walkability": sum(walkable) / classes.size} if walkable else {}),
        "objectness": counted / classes.size,
        "semantic_diversity": int(np.count_nonzero(counts)),
    }


def geometric_complexity(normals: np.ndarray) -> float:
    """Angular variance of unit vectors (H, W, 3): 1 less the length of their mean; 0 for a plane, at most 1."""
    mean = normals.reshape(-1, 3).mean(axis=0, dtype=np.float64)
    return min(max(1.0 - float(np.linalg.norm(mean)), 0.0), 1.0)


def occlusion(depth: np.ndarray) -> float:
    """Share of pixels at depth edges: Sobel's gradient (3 x 3, not normalized) is above 0.3.

    Depth (H, W) in [0, 1] is first resized to as many pixels as 224 x 224, at its aspect, so that the score does not
    hang on the image's resolution: a step of 8 % of the depth's range is an edge then, a slope over 28 pixels is not.
    """
    height, width = depth.shape
    scale = math.sqrt(OCCLUSION_PIXELS / (height * width))
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    method = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    small = cv2.resize(depth.astype(np.float32), size, interpolation=method)
    gradient = np.hypot(cv2.Sobel(small, cv2.CV_32F, 1, 0), cv2.Sobel(small, cv2.CV_32F, 0, 1))
    return float(np.mean(gradient > OCCLUSION_EDGE))


def original_size(info: dict[str, Any], image: np.ndarray | None) -> dict[str, int | float]:
    """Size in pixels before any download resized the image: the sidecar's, if it has both sides, else the image's."""
    width, height = _number(info.get("original_width")), _number(info.get("original_height"))
    if width is not None and height is not None and width >= 1 and height >= 1:
        return {"original_width": int(width), "original_height": int(height)}
    if image is None:
        return {}
    return {"original_width": image.shape[1], "original_height": image.shape[0]}


def caption_statistics(caption: str) -> dict[str, int | float]:
    """Characters, words (runs of non-space) and sentences of a caption that is not blank.

    A sentence ends at a full stop, exclamation or question mark before white space or the end; text without any is one.
    Abbreviations ("Mr. X") count as ends: a rule that any language and any worker applies alike.
    """
    sentences = sum(any(map(str.isalnum, part)) for part in _SENTENCE_END.split(caption))
    return {
        "caption_n_chars": len(caption),
        "caption_n_words": len(caption.split()),
        "caption_n_sentences": max(1, sentences),
    }


def pixel_statistics(image: np.ndarray) -> dict[str, int | float]:
    """Colourfulness, brightness, contrast (0..127.5), saturation (0..255), entropy (0..8 bits) of a uint8 RGB image."""
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    mean, deviation = cv2.meanStdDev(grey)
    share = cv2.calcHist([grey], [0], None, [256], [0, 256])[:, 0].astype(np.float64) / grey.size
    share = share[share > 0]
    return {
        "colorfulness": colorfulness(image),
        "brightness": float(mean[0, 0]),
        "contrast": float(deviation[0, 0]),
        "saturation": float(cv2.mean(cv2.cvtColor(image, cv2.COLOR_RGB2HSV))[1]),
        "entropy": max(0.0, -float(np.sum(share * np.log2(share)))),
    }


def entropy(image: np.ndarray) -> float:
    """Shannon's, in bits, of the values of all three channels of a uint8 RGB image as 768 kinds: 0 to 9.59."""
    return float(Image.fromarray(image).entropy())


def colorfulness(image: np.ndarray, absolute: bool = False) -> float:
    """Hasler and Suesstrunk (2003): std + 0.3 mean of the opponent colours rg = R - G and yb = (R + G) / 2 - B.

    Args:
        absolute: of the absolute values of rg and yb, a variant in wide use, which gives less.
    """
    red, green, blue = cv2.split(image.astype(np.int16))
    rg, yb = red - green, red + green - 2 * blue  # twice yb, which stays an integer
    if absolute:
        rg, yb = np.abs(rg), np.abs(yb)
    rg_mean, rg_std = cv2.meanStdDev(rg)
    yb_mean, yb_std = cv2.meanStdDev(yb)
    spread = math.hypot(rg_std[0, 0], yb_std[0, 0] / 2)
    offset = math.hypot(rg_mean[0, 0], yb_mean[0, 0] / 2)
    return spread + 0.3 * offset


def _number(value: Any) -> int | float | None:
    """A finite number as it is; None for anything else (null, NaN, True, text)."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return value
