"""Sentences: labels as text and back. Those of humans and of instances are in pose_sentences.py, instance_sentences.py.

Boxes, palettes and metadata are written in words that WordPiece holds as single tokens, `v0=0` .. `v3=999`, in exactly
the forms of 4M-21 as released (where the paper prints others, e.g. `color=c R=r`, the released models decide).

Decisions:
- Writing is strict: a value that has no word is a ValueError. Reading is forgiving: a generated sentence may be broken
  anywhere; what is whole is kept, what is not is left out, and nothing raises.
- Text read back is in the crop's frame; the source frame is lost when a sentence is written.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from ...modalities import COCO_CLASSES
from ..crops import Crop, hashed_uniforms

COORDINATE_BINS = 1000
FIRST, CORNERS = "v0=", 4  # how a box begins, and how many words its corners are
MAX_PALETTE = 7
DEFAULT_SCORE = 0.6

NUMBER = r"(\d{1,3})(?!\d)"  # of at most three digits, as the words v0=0 .. v3=999 have them
_PALETTE = re.compile(rf"v1={NUMBER}((?:\s+v0={NUMBER})*)", re.ASCII)
_VALUE = re.compile(rf"v0={NUMBER}", re.ASCII)
_PAIR = re.compile(rf"v1={NUMBER}\s+v0={NUMBER}", re.ASCII)


# Boxes


def folded(name: str) -> str:
    """Without case and accents, as WordPiece reads text and gives it back."""
    return "".join(c for c in unicodedata.normalize("NFD", name) if unicodedata.category(c) != "Mn").lower()


@cache
def _box_pattern(classes: tuple[str, ...]) -> tuple[re.Pattern[str], dict[str, str]]:
    """What a box looks like, and the class by its folded name."""
    # Longest first, or "bear" would match the end of "teddy bear" before it.
    spellings = {*classes, *map(folded, classes)}
    words = "|".join(sorted(map(re.escape, sorted(spellings)), key=len, reverse=True))
    pattern = re.compile(rf"v0={NUMBER}\s+v1={NUMBER}\s+v2={NUMBER}\s+v3={NUMBER}\s+({words})(?!\w)", re.ASCII)
    return pattern, {folded(name): name for name in classes}


def boxes_to_text(
    boxes: Sequence[Mapping[str, Any]], width: int, height: int, crop: Crop, min_score: float = DEFAULT_SCORE,
    classes: tuple[str, ...] = COCO_CLASSES,
) -> str:  # fmt: skip
    """Detections as a sentence: `v0=xmin v1=ymin v2=xmax v3=ymax class` for each box, nearest to the top left first.

    Boxes are cut to the crop, and left out when nothing remains (minimum visibility 0, as released). A coordinate is
    round(999 c), half to even, with c in [0, 1] in the frame of the crop, after the flip.

    Args:
        boxes: {"box": [xmin, ymin, xmax, ymax], "label": class, "score": float}, relative to the source frame.
        width, height: of the source image, in pixels.
        crop: the window of the source image.
        min_score: boxes with a lower score are left out.
        classes: that have words.

    Returns:
        The sentence, "" if no box is left. ValueError for a label that is none of the classes and for coordinates that
        are not finite.
    """
    rows: list[tuple[tuple[float, float, float, float], str]] = []
    for box in boxes:
        if box["score"] < min_score:
            continue
        if box["label"] not in classes:
            whose = "COCO classes" if classes == COCO_CLASSES else "classes of the recipe"
            raise ValueError(f"det: got the class {box['label']!r}; expected one of the {len(classes)} {whose}")
        window = box_in_crop(box["box"], width, height, crop)
        if window is not None:
            rows.append((window, box["label"]))
    rows.sort(key=lambda row: row[0][0] ** 2 + row[0][1] ** 2)  # stable: ties keep the detector's order
    return " ".join(
        " ".join(f"v{axis}={round(c * (COORDINATE_BINS - 1))}" for axis, c in enumerate(window)) + f" {label}"
        for window, label in rows
    )


def box_in_crop(
    box: Sequence[float], width: int, height: int, crop: Crop, label: str = "det"
) -> tuple[float, float, float, float] | None:
    """The part of a box inside of the crop, relative to the crop; None if it has no area.

    `width` and `height` are pixels of the source image; `label` is for the message of the ValueError.
    """
    if len(box) != 4 or not all(math.isfinite(c) for c in box):
        raise ValueError(f"{label}: got the box {list(box)}; expected four finite numbers, relative to the image")
    left, right = ((box[axis] * width - crop.left) / crop.width for axis in (0, 2))
    top, bottom = ((box[axis] * height - crop.top) / crop.height for axis in (1, 3))
    left, top, right, bottom = (min(max(c, 0.0), 1.0) for c in (left, top, right, bottom))
    if right <= left or bottom <= top:
        return None
    # A mirrored crop: left and right change places.
    return (1 - right, top, 1 - left, bottom) if crop.flip else (left, top, right, bottom)


def split_id(code: int) -> str:
    """The word of a codebook id below 1024, in poses and masks: v0=id, from 512 on v1=id - 512."""
    if not 0 <= code < 1024:
        raise ValueError(f"got the id {code}; expected 0 to 1023, which sentences have words for")
    # 4M has no words of its own for ids: it uses those of the first two coordinates, 512 each.
    return f"v{code // 512}={code % 512}"


def id_rows(label: str, ids: np.ndarray, count: int, length: int) -> list[list[int]]:
    """Ids (count, length) as lists; ValueError if they have another shape, unless there are none."""
    rows = np.asarray(ids)
    if len(rows) != count or (count and rows.shape[1:] != (length,)):
        raise ValueError(f"{label}: got ids of shape {rows.shape}; expected {(count, length)}")
    return rows.tolist()


def text_to_boxes(text: str, classes: tuple[str, ...] = COCO_CLASSES) -> list[dict[str, Any]]:
    """The whole boxes of a sentence: {"box": [xmin, ymin, xmax, ymax] in [0, 1] of the crop, "label": class}.

    Anything else is skipped: cut boxes, unknown classes, boxes whose corners are swapped.
    """
    boxes = []
    pattern, names = _box_pattern(classes)
    for match in pattern.finditer(text):
        corners = [int(match[i]) / (COORDINATE_BINS - 1) for i in range(1, 5)]
        if corners[0] <= corners[2] and corners[1] <= corners[3]:
            boxes.append({"box": corners, "label": names[folded(match[5])]})
    return boxes


# Palettes


def pick_palette(palettes: Sequence[Sequence[Sequence[int]]], seed: int, key: str) -> Sequence[Sequence[int]]:
    """One of a sample's palettes, its size uniform over those there are (1 to 7): a pure function of (seed, key)."""
    if not palettes:
        raise ValueError(f"{key}: got no palette; expected palettes of 1 to {MAX_PALETTE} colours")
    (draw,) = hashed_uniforms(1, "palette", seed, key)
    return palettes[int(draw * len(palettes))]


def palette_to_text(palette: Sequence[Sequence[int]]) -> str:
    """A palette as a sentence: `v1=n` and, for each of the n colours, `v0=r v0=g v0=b` (0..255)."""
    colours = [int(c) for colour in palette for c in colour]
    if not 1 <= len(palette) <= MAX_PALETTE or any(len(colour) != 3 for colour in palette):
        raise ValueError(f"color_palette: got {list(palette)}; expected 1 to {MAX_PALETTE} colours [r, g, b]")
    if not all(0 <= c <= 255 for c in colours):
        raise ValueError(f"color_palette: got {list(palette)}; expected integers in 0..255")
    return " ".join([f"v1={len(palette)}", *(f"v0={c}" for c in colours)])


def text_to_palette(text: str) -> list[list[int]]:
    """The whole colours [r, g, b] of the first palette of a sentence, at most as many as it announces; [] if none."""
    match = _PALETTE.search(text)
    if match is None:
        return []
    # A generated number may be up to 999.
    values = [min(int(v), 255) for v in _VALUE.findall(match[2])]
    count = min(int(match[1]), MAX_PALETTE, len(values) // 3)
    return [values[3 * i : 3 * i + 3] for i in range(count)]


# Metadata


@dataclass(frozen=True)
class MetadataType:
    """One kind of metadata: its id (`v1=id`) and how a number becomes a bin (`v0=bin`)."""

    id: int
    name: str
    summary: str
    low: float = 0.0
    high: float = 0.0
    bins: int = 0  # linear bins over [low, high]
    step: int = 0  # integer division
    edges: tuple[float, ...] = ()  # the number of edges that the value reaches

    def bin(self, value: float) -> int:
        """The bin of a value, 0..999. Values outside of the range count as its ends. ValueError if not finite."""
        if not math.isfinite(value):
            raise ValueError(f"metadata {self.name}: got {value}; expected a finite number, or leave the type out")
        if self.edges:
            return sum(value >= edge for edge in self.edges)
        if self.bins:
            share = (min(max(value, self.low), self.high) - self.low) / (self.high - self.low)
            return int(share * (self.bins - 1))
        return min(max(int(value // self.step if self.step else value), 0), COORDINATE_BINS - 1)

    def value(self, index: int) -> float:
        """A value in the middle of a bin (or its only value): `bin(value(i)) == i` for each bin there is."""
        if self.edges:
            index = min(index, len(self.edges))
            span = 1.0 if len(self.edges) == 1 else self.edges[1] - self.edges[0]
            return self.edges[0] + (index - 0.5) * span
        if self.bins:
            return min(self.low + (index + 0.5) / (self.bins - 1) * (self.high - self.low), self.high)
        return index * self.step + self.step / 2 if self.step else index


# 4M-21, appendix; the bins are those of the released models. The last of 50 linear bins holds the maximum alone.
METADATA_TYPES: dict[str, MetadataType] = {
    kind.name: kind
    for kind in (
        MetadataType(0, "original_width", "width before cropping, pixels", step=32),
        MetadataType(1, "original_height", "height before cropping, pixels", step=32),
        MetadataType(2, "caption_n_chars", "characters of the caption"),
        MetadataType(3, "caption_n_words", "words of the caption"),
        MetadataType(4, "caption_n_sentences", "sentences of the caption"),
        MetadataType(5, "n_humans", "people"),
        MetadataType(6, "n_sam_instances", "SAM instances"),
        MetadataType(7, "n_coco_instances", "COCO instances"),
        MetadataType(8, "coco_instance_diversity", "different classes among the COCO instances"),
        MetadataType(9, "colorfulness", "Hasler and Suesstrunk", 0, 150, 50),
        MetadataType(10, "brightness", "mean grey", 0, 255, 50),
        MetadataType(11, "contrast", "standard deviation of grey", 0, 127, 50),
        MetadataType(12, "saturation", "mean saturation", 0, 255, 50),
        MetadataType(13, "entropy", "Shannon entropy of grey, bits", 0, 10, 50),
        MetadataType(14, "walkability", "share of walkable pixels", 0, 1, 50),
        MetadataType(15, "objectness", "share of pixels that belong to objects", 0, 1, 50),
        MetadataType(16, "semantic_diversity", "different COCO semantic classes"),
        MetadataType(17, "geometric_complexity", "angular variance of the normals", 0, 0.75, 50),
        MetadataType(18, "occlusion_score", "share of pixels at depth edges", 0, 0.25, 50),
        MetadataType(19, "watermark_score", "classifier's probability", edges=(0.5,)),
        MetadataType(20, "aesthetic_score", "classifier's score, 1..10", edges=(4.5, 5.5)),
    )
}
_METADATA_BY_ID = {kind.id: kind for kind in METADATA_TYPES.values()}


def metadata_to_chunks(metadata: Mapping[str, float], rng: np.random.Generator | None = None) -> list[str]:
    """Metadata as chunks `v1=type v0=bin`, one for each type present, in order of id; shuffled if `rng` is given.

    4M shuffles them for each sample, so that the model cannot rely on an order. ValueError for an unknown type.
    """
    unknown = sorted(set(metadata) - set(METADATA_TYPES))
    if unknown:
        raise ValueError(f"metadata: got {unknown}; expected some of {list(METADATA_TYPES)}")
    # By id first, so that what `rng` shuffles does not depend on the order of the label's keys.
    kinds = sorted((METADATA_TYPES[name] for name in metadata), key=lambda kind: kind.id)
    chunks = [f"v1={kind.id} v0={kind.bin(metadata[kind.name])}" for kind in kinds]
    return chunks if rng is None else [chunks[i] for i in rng.permutation(len(chunks))]


def text_to_metadata(text: str | Iterable[str]) -> dict[str, float]:
    """The whole pairs of a sentence (or of its chunks) as type name -> a value in the middle of its bin.

    Unknown types are skipped; of a type that is said twice the first counts.
    """
    joined = text if isinstance(text, str) else " ".join(text)
    metadata: dict[str, float] = {}
    for kind_id, index in _PAIR.findall(joined):
        kind = _METADATA_BY_ID.get(int(kind_id))
        if kind is not None:
            metadata.setdefault(kind.name, kind.value(int(index)))
    return metadata
