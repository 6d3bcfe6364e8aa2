"""COCO, and data sets in its formats: panoptic classes, instances, boxes and captions.

SPLIT/*.jpg; annotations/panoptic_SPLIT.json with annotations/panoptic_SPLIT/*.png (or panoptic_SPLIT/*.png);
annotations/instances_SPLIT.json; annotations/captions_SPLIT.json. What is not there is left out; one of the first two
must be. Crowds are no things: their regions are in no instance and no box.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ...modalities import COCO_PANOPTIC_CLASSES, NO_CLASS
from ..images import encode_png
from .layout import Found, Members, Sample, folder, picture

_KINDS = ("panoptic", "instances", "captions")


def coco(root: Path, split: str) -> Found:
    """The samples of a split. ValueError if there are neither panoptic annotations nor instances."""
    annotations = folder(root, "annotations")
    given = {kind: _json(path) for kind in _KINDS if (path := annotations / f"{kind}_{split}.json").exists()}
    if not given.keys() & {"panoptic", "instances"}:
        raise ValueError(f"{annotations}: there is no panoptic_{split}.json and no instances_{split}.json")
    images = folder(root, split)
    makers: list[Any] = []
    truth: dict[str, Any] = {}
    if "panoptic" in given:
        of = _Panoptic(given["panoptic"], folder(root, f"annotations/panoptic_{split}", f"panoptic_{split}"))
        makers.append(of.members)
        truth["semseg"] = of.truth
    if "instances" in given:
        makers.append(_Instances(given["instances"]).members)
        truth |= {"sam_instance": "instances.json", "det": "boxes.json"}
    if "captions" in given:
        makers.append(_Captions(given["captions"]).members)
    listed = {one["id"]: one for data in given.values() for one in data.get("images", [])}

    def read(image: Mapping[str, Any]) -> Members:
        path = images / image["file_name"]
        members = {path.suffix.lstrip(".").lower(): path.read_bytes()}
        for make in makers:
            members |= make(image)
        return members

    keys = {number: Path(image["file_name"]).stem.replace(".", "_") for number, image in listed.items()}
    return Found([Sample(keys[number], partial(read, image)) for number, image in listed.items()], truth)


def _json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_bytes())
    except ValueError as error:
        raise ValueError(f"{path}: {error}; expected JSON") from None
    missing = [key for key in ("images", "annotations") if not isinstance(value, dict) or key not in value]
    if missing:
        raise ValueError(f"{path}: it has no {missing[0]}; expected COCO's format")
    return value


class _Panoptic:
    """Class maps: of each pixel the class of its segment, 255 where there is none."""

    def __init__(self, data: Mapping[str, Any], maps: Path) -> None:
        self.maps = maps
        self.of_image = {one["image_id"]: one for one in data["annotations"]}
        names = {one["id"]: one["name"] for one in sorted(data["categories"], key=lambda one: one["id"])}
        # COCO's own classes get the ids that the label has; others those of the order of the file.
        coco = set(names.values()) <= set(COCO_PANOPTIC_CLASSES)
        self.names = list(COCO_PANOPTIC_CLASSES) if coco else list(names.values())
        if len(self.names) > NO_CLASS:
            raise ValueError(f"panoptic: {len(self.names)} classes, expected at most {NO_CLASS}")
        self.ids = {category: self.names.index(name) for category, name in names.items()}
        self.truth: Any = "semseg.png" if coco else {"member": "semseg.png", "classes": self.names}

    def members(self, image: Mapping[str, Any]) -> Members:
        one = self.of_image.get(image["id"])
        if one is None:
            return {}
        colours = picture(self.maps / one["file_name"]).astype(np.uint32)
        if colours.ndim != 3:
            raise ValueError(f"{one['file_name']}: {colours.shape}, expected a panoptic map in RGB")
        segments = colours[..., 0] + (colours[..., 1] << 8) + (colours[..., 2] << 16)
        there, inverse = np.unique(segments, return_inverse=True)
        table = {segment["id"]: self.ids[segment["category_id"]] for segment in one["segments_info"]}
        ids = np.array([table.get(int(segment), NO_CLASS) for segment in there], np.uint8)
        return {"semseg.png": encode_png(ids[inverse].reshape(segments.shape))}


class _Instances:
    """Masks of things as COCO's run lengths, which may overlap, and their boxes."""

    def __init__(self, data: Mapping[str, Any]) -> None:
        self.names = {one["id"]: one["name"] for one in data["categories"]}
        self.of_image: dict[int, list[Any]] = defaultdict(list)
        for one in data["annotations"]:
            if not one.get("iscrowd"):
                self.of_image[one["image_id"]].append(one)

    def members(self, image: Mapping[str, Any]) -> Members:
        width, height = image["width"], image["height"]
        masks, boxes = [], []
        for one in self.of_image.get(image["id"], []):
            name = self.names[one["category_id"]]
            masks.append({"label": name, "segmentation": _run_lengths(one["segmentation"], height, width)})
            left, top, wide, high = one["bbox"]
            box = [left / width, top / height, (left + wide) / width, (top + high) / height]
            box = [float(min(max(edge, 0.0), 1.0)) for edge in box]
            if box[0] < box[2] and box[1] < box[3]:
                boxes.append({"box": box, "label": name, "score": 1.0})
        return {"instances.json": json.dumps(masks).encode(), "boxes.json": json.dumps(boxes).encode()}


def _run_lengths(segmentation: Any, height: int, width: int) -> dict[str, Any]:
    """Polygons or run lengths as compressed run lengths."""
    from pycocotools import mask

    coded: Any = segmentation
    if isinstance(segmentation, list):
        coded = mask.merge(mask.frPyObjects(segmentation, height, width))
    elif isinstance(segmentation["counts"], list):
        coded = mask.frPyObjects(segmentation, height, width)
    counts = coded["counts"]
    return {"size": [height, width], "counts": counts.decode() if isinstance(counts, bytes) else counts}


class _Captions:
    """The first caption of an image."""

    def __init__(self, data: Mapping[str, Any]) -> None:
        self.of_image: dict[int, str] = {}
        for one in sorted(data["annotations"], key=lambda one: one["id"]):
            self.of_image.setdefault(one["image_id"], one["caption"].strip())

    def members(self, image: Mapping[str, Any]) -> Members:
        text = self.of_image.get(image["id"])
        return {"txt": text.encode()} if text else {}
