"""Metadata of 4M-21 that pixels, sizes, captions and boxes give. Raw numbers; the tokenizer bins them.

The paper names the types and prints few formulas. Where it prints none, these fit the released bins:
brightness and contrast are mean and standard deviation of grey (Rec. 601), saturation is the mean of HSV's S in 0..255,
entropy is Shannon's, in bits, of the grey histogram; colourfulness is Hasler and Suesstrunk's (2003).
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any, ClassVar

import cv2
import numpy as np
from pydantic import Field

from ..reject import Reject
from .base import Item, Specialist

_SENTENCE_END = re.compile(r"[.!?\u2026]+[\"')\]\u2019\u201d]*(?:\s+|$)|[\u3002\uff01\uff1f]+")


class Metadata(Specialist):
    """Every type whose source an item has; a type without its source is left out, never guessed.

    Walkability, objectness and the other types that need dense labels are left out.
    """

    label: ClassVar[str] = "metadata"
    needs: ClassVar[tuple[str, ...]] = ("det",)
    needs_image: ClassVar[bool] = False

    min_score: float = Field(
        0.6, ge=0, le=1, description="Boxes below this score do not count; 4M writes boxes from 0.6."
    )
    humans_from_boxes: bool = Field(
        True,
        description="n_humans counts the boxes of persons. The paper counts the instances that 4DHumans finds, "
        "itself run on person boxes. Off: the type is left out.",
    )
    watermark_fields: tuple[str, ...] = Field(
        ("watermark_score", "pwatermark"),
        description="Fields of the JSON sidecar (COYO, LAION), of which the first that holds a number is the "
        "watermark score.",
    )
    aesthetic_fields: tuple[str, ...] = Field(
        ("aesthetic_score_laion_v2", "aesthetic_score", "aesthetic"), description="The same for the aesthetic score."
    )

    def __call__(self, items: Sequence[Item]) -> list[dict[str, int | float] | Reject]:
        """Name -> number for each item, in the order of 4M's ids; a Reject if nothing at all is known."""
        return [self._describe(item) or Reject("metadata: no image, caption, boxes or sizes") for item in items]

    def _describe(self, item: Item) -> dict[str, int | float]:
        values = original_size(item.info, item.image)
        if item.caption and item.caption.strip():
            values |= caption_statistics(item.caption)
        if "det" in item.labels:
            values |= self._box_statistics(item.labels["det"])
        if item.image is not None:
            values |= pixel_statistics(item.image)
        for name, fields in (("watermark_score", self.watermark_fields), ("aesthetic_score", self.aesthetic_fields)):
            found = next((number for field in fields if (number := _number(item.info.get(field))) is not None), None)
            if found is not None:
                values[name] = found
        return values

    def _box_statistics(self, boxes: list[dict[str, Any]]) -> dict[str, int | float]:
        classes = [box["label"] for box in boxes if box["score"] >= self.min_score]
        humans = {"n_humans": classes.count("person")} if self.humans_from_boxes else {}
        return {**humans, "n_coco_instances": len(classes), "coco_instance_diversity": len(set(classes))}


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


def colorfulness(image: np.ndarray) -> float:
    """Hasler and Suesstrunk (2003): std + 0.3 mean of the opponent colours rg = R - G and yb = (R + G) / 2 - B."""
    red, green, blue = cv2.split(image.astype(np.int16))
    rg_mean, rg_std = cv2.meanStdDev(red - green)
    yb_mean, yb_std = cv2.meanStdDev(red + green - 2 * blue)  # twice yb, which stays an integer
    spread = math.hypot(rg_std[0, 0], yb_std[0, 0] / 2)
    offset = math.hypot(rg_mean[0, 0], yb_mean[0, 0] / 2)
    return spread + 0.3 * offset


def _number(value: Any) -> int | float | None:
    """A finite number as it is; None for anything else (null, NaN, True, text)."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return value
