"""Tiny folders in the layouts of data sets, with values that can be computed by hand."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

HEIGHT, WIDTH = 24, 32
SIDE = 224  # of COCO's images here: the crop in which masks are measured is the image itself
SLOPES = ((0.6, 0.0, 0.8), (0.0, 0.6, 0.8), (-0.36, 0.48, 0.8))  # x right, y up, z toward the viewer


def plane(normal: tuple[float, float, float], height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    """Distances along the axis (H, W) of a plane 2 m ahead, seen with a focal length of 0.9 widths."""
    x = (np.arange(width) + 0.5 - width / 2) / (0.9 * width)
    y = (height / 2 - np.arange(height) - 0.5) / (0.9 * width)
    return (2 * normal[2] / (normal[2] - normal[0] * x[None] - normal[1] * y[:, None])).astype(np.float32)


def grey(path: Path, height: int = HEIGHT, width: int = WIDTH) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((height, width, 3), 90, np.uint8)).save(path)


def diode(root: Path) -> list[str]:
    """Three scans whose normals are those of OpenCV's axes (x right, y down, z ahead); the left half has no return."""
    names = []
    for number, slope in enumerate(SLOPES):
        place = root / "val" / ("indoors", "outdoor")[number % 2] / f"scene_{number:05d}" / "scan_00001"
        name = f"{number:05d}_00001_indoors_000_010"
        grey(place / f"{name}.png")
        mask = np.ones((HEIGHT, WIDTH), np.float32)
        mask[:, : WIDTH // 2] = 0
        np.save(place / f"{name}_depth.npy", plane(slope)[..., None])
        np.save(place / f"{name}_depth_mask.npy", mask)
        normal = np.tile(np.array(slope) * (1, -1, -1), (HEIGHT, WIDTH, 1))
        normal[:4] = 0  # no direction
        np.save(place / f"{name}_normal.npy", normal)
        names.append(name)
    return names


def nyuv2(root: Path) -> list[str]:
    """Three pairs as PNG; normals are stored as (x, z, y), 8 bits; a row of each map is not known."""
    for number, slope in enumerate(SLOPES, 1):
        grey(root / f"test_rgb/{number:04d}.png")
        depth = np.round(plane(slope) * 1e4).astype(np.uint16)
        depth[-1] = 0
        normal = np.round((np.tile(np.array(slope)[[0, 2, 1]], (HEIGHT, WIDTH, 1)) + 1) * 127.5).astype(np.uint8)
        normal[0] = 0
        classes = np.full((HEIGHT, WIDTH), number, np.uint8)
        for what, values in {"depth": depth, "sn": normal, "seg13": classes}.items():
            (root / f"test_{what}").mkdir(exist_ok=True)
            Image.fromarray(values).save(root / f"test_{what}/{number:04d}.png")
    return [f"test-{number:04d}" for number in range(1, 4)]


def imagenet(root: Path, classes: Mapping[str, int]) -> None:
    """Folders of classes with so many images."""
    number = 0
    for name, count in classes.items():
        for _ in range(count):
            number += 1
            grey(root / f"val/{name}/ILSVRC2012_val_{number:08d}.JPEG")


CATEGORIES = [
    {"id": 1, "name": "person", "isthing": 1}, {"id": 17, "name": "cat", "isthing": 1},
    {"id": 187, "name": "sky-other-merged", "isthing": 0},
]  # fmt: skip


def rectangle(left: int, top: int, right: int, bottom: int) -> list[float]:
    return [left, top, right, top, right, bottom, left, bottom]


def coco(root: Path, categories: list[dict[str, Any]] = CATEGORIES) -> None:
    """Two images: sky with a person and a cat in front of it; a cat, a crowd, and pixels without a segment."""
    person, cat, sky = (one["id"] for one in categories)
    images = [{"id": i, "file_name": f"{i:012d}.jpg", "width": SIDE, "height": SIDE} for i in (7, 9)]
    segments = {7: np.full((SIDE, SIDE), 3000), 9: np.zeros((SIDE, SIDE), int)}
    segments[7][40:120, 20:80], segments[7][100:160, 60:180] = 70_000, 5
    segments[9][:56] = 9
    infos = {7: [(3000, sky), (70_000, person), (5, cat)], 9: [(9, cat)]}
    panoptic = []
    for image in images:
        number = int(image["id"])
        grey(root / f"val2017/{image['file_name']}", SIDE, SIDE)
        colours = np.stack([segments[number] >> shift & 255 for shift in (0, 8, 16)], -1).astype(np.uint8)
        place = root / f"annotations/panoptic_val2017/{number:012d}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(colours).save(place)
        described = [{"id": of, "category_id": category} for of, category in infos[number]]
        panoptic.append({"image_id": number, "file_name": place.name, "segments_info": described})
    runs = {"size": [SIDE, SIDE], "counts": [0, 56 * SIDE, SIDE * SIDE - 56 * SIDE]}  # columns 0 to 55
    things = [
        (7, person, [rectangle(20, 40, 80, 120)], [20, 40, 60, 80], 0),
        (7, cat, [rectangle(60, 100, 180, 160)], [60, 100, 120, 60], 0),
        (9, cat, [rectangle(0, 0, 224, 56)], [0, 0, 224, 56], 0), (9, person, runs, [0, 0, 56, 224], 1),
    ]  # fmt: skip
    instances = [
        {"id": i, "image_id": of, "category_id": category, "segmentation": shape, "bbox": box, "iscrowd": crowd,
         "area": box[2] * box[3]}
        for i, (of, category, shape, box, crowd) in enumerate(things, 1)
    ]  # fmt: skip
    captions = [{"id": 2, "image_id": 7, "caption": "Later."}, {"id": 1, "image_id": 7, "caption": " A cat sits. "}]
    for kind, given in {"panoptic": panoptic, "instances": instances, "captions": captions}.items():
        data = {"images": images, "annotations": given, "categories": categories}
        (root / f"annotations/{kind}_val2017.json").write_text(json.dumps(data))
