"""A small root whose truth is known: coloured cups and books in front of a wall, labelled by what the tars say, with a
4M that has learned them by heart.

Samples are named by their number; those of the validation shard are the same scenes as the training ones, so that a
model which has learned anything knows them.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from fourmill import recipe as recipes
from fourmill.project import Project
from fourmill.recipe import Recipe

from .. import data, training

COLOURS = {"red": (220, 30, 30), "blue": (30, 40, 220), "green": (30, 190, 40)}
NAMES = ("cup", "book")
CLASSES = ["wall", "cup", "book"]  # of semseg.png, by id
WIDTH, HEIGHT, COUNT = 48, 40, 8  # the crop is the middle 40 x 40
TRUTH: dict[str, Any] = {
    "depth": "depth.npy",
    "normal": "normal.npy",
    "semseg": {"member": "semseg.png", "classes": CLASSES},
    "det": "boxes.json",
    "sam_instance": "instances.png",
    "classes": "cls",
    "caption": {"member": "scene.json", "objects": "objects", "name": "shape", "colours": "colour", "visible": "seen"},
}
_STEPS = 220


@dataclass(frozen=True)
class Thing:
    """A rectangle: what it is, its colour, its place in pixels (left, top, right, bottom), its distance in metres."""

    name: str
    colour: str
    place: tuple[int, int, int, int]
    distance: float


def things(number: int) -> list[Thing]:
    """What scene `number` shows; all scenes differ."""
    rng = np.random.default_rng(number)
    found = []
    for side in range(1 + number % 2):
        left, top = 5 + 20 * side + int(rng.integers(0, 4)), int(rng.integers(4, 20))
        place = (left, top, left + int(rng.integers(10, 16)), top + int(rng.integers(10, 16)))
        name, colour = NAMES[(number + side) % 2], list(COLOURS)[int(rng.integers(0, 3))]
        found.append(Thing(name, colour, place, 1 + float(rng.integers(0, 4)) / 2))
    return found


def scene(number: int) -> dict[str, np.ndarray]:
    """The maps of a scene: rgb, depth, normal, semseg, instances."""
    rgb = np.full((HEIGHT, WIDTH, 3), 200, np.uint8)
    depth = np.tile(np.linspace(4, 6, HEIGHT, dtype=np.float32)[:, None], (1, WIDTH))
    depth[:2] = 0  # no distance is known of the uppermost rows
    normal = np.tile(np.array([0, 0, 1], np.float32), (HEIGHT, WIDTH, 1))
    semseg, instances = (np.zeros((HEIGHT, WIDTH), np.uint8) for _ in range(2))
    for index, one in enumerate(things(number), 1):
        left, top, right, bottom = one.place
        here = (slice(top, bottom), slice(left, right))
        rgb[here], depth[here], instances[here] = COLOURS[one.colour], one.distance, index
        semseg[here] = CLASSES.index(one.name)
        normal[here] = (0.6, 0, 0.8) if one.name == "cup" else (-0.6, 0, 0.8)
    return {"rgb": rgb, "depth": depth, "normal": normal, "semseg": semseg, "instances": instances}


def members(number: int) -> dict[str, bytes]:
    """The files of a scene, by extension."""
    maps, there = scene(number), things(number)
    boxes = [{"box": _relative(one), "label": one.name, "score": 1.0} for one in there]
    objects = [{"shape": one.name, "colour": one.colour, "seen": 1.0} for one in there]
    objects.append({"shape": "cup" if there[0].name == "book" else "book", "colour": "red", "seen": 0.0})  # hidden
    vector = np.random.default_rng(number).normal(size=16) + 4 * (there[0].name == "cup")
    text = "A picture with " + " and ".join(f"a {one.colour} {one.name}" for one in there) + "."
    return {
        "png": _png(maps["rgb"]), "txt": text.encode(), "depth.npy": _npy(maps["depth"]),
        "normal.npy": _npy(maps["normal"]), "semseg.png": _png(maps["semseg"]),
        "instances.png": _png(maps["instances"]), "boxes.json": json.dumps(boxes).encode(),
        "scene.json": json.dumps({"objects": objects}).encode(), "vector.npy": _npy(vector.astype(np.float32)),
        "cls": there[0].name.encode(),
    }  # fmt: skip


def _relative(one: Thing) -> list[float]:
    left, top, right, bottom = one.place
    return [left / WIDTH, top / HEIGHT, right / WIDTH, bottom / HEIGHT]


def _png(pixels: np.ndarray) -> bytes:
    buffer = BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def _npy(array: np.ndarray) -> bytes:
    buffer = BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def shard(count: int = COUNT, first: int = 0) -> bytes:
    """A tar of some scenes."""
    numbers = range(first, first + count)
    return data.tar([(f"{i:04d}.{name}", of) for i in numbers for name, of in members(i).items()])


def recipe(folder: str, **changes: Any) -> Recipe:
    """The recipe of `build`, in a folder or bucket that holds its shards."""
    return recipes.parse(settings(folder, **changes))


def settings(folder: str, **changes: Any) -> dict[str, Any]:
    """The same as a mapping."""
    labels = {
        "depth": {"specialist": "member", "name": "depth.npy"},
        "normal": {"specialist": "member", "name": "normal.npy"},
        "semseg": {"specialist": "member", "name": "semseg.png"},
        "det": {"specialist": "member", "name": "boxes.json"},
        "sam_instance": {"specialist": "member", "name": "instances.png"},
        "dinov2_global": {"specialist": "member", "name": "vector.npy"},
    }
    given = {
        "modalities": ["rgb", "tok_depth", "tok_normal", "tok_semseg", "det", "caption", "sam_instance",
                       "tok_dinov2_global"],
        "classes": {"semseg": CLASSES, "det": list(NAMES)}, "images__size": 32, "images__patch_size": 8,
        "labels": {"keep": ["depth", "normal", "semseg", "det", "caption", "sam_instance"], "specialists": labels},
        "tokenizers__common__steps": 100, "tokenizers__common__base_lr": 0.1,
        "tokenizers__common__patch_size": 8, "tokenizers__common__checkpoint_every": 100,
        "train__steps": _STEPS, "train__input_tokens": 16, "train__target_tokens": 40, "train__base_lr": 0.3,
        "train__validate_every": _STEPS, "train__checkpoint_every": _STEPS,
        "train__mixtures": [{"input_alpha": {"rgb": 1.0}, "target_alpha": 1.0}],
        "generate__chains": [],
        "evaluate": {"truth": TRUTH, "ensemble": 3, "draws": 50, "training_samples": COUNT},
    }  # fmt: skip
    return data.settings(f"{folder}/out", [f"{folder}/s/train.tar"], [f"{folder}/s/val.tar"], **(given | changes))


def build(folder: Path) -> Recipe:
    """Shards, labels, tokenizers, columns and a trained model in FOLDER, without Ray."""
    (folder / "s").mkdir(parents=True)
    for name in ("train", "val"):
        (folder / "s" / f"{name}.tar").write_bytes(shard())
    of = recipe(str(folder))
    data.make(of, data.outputs(of, tokens=False))
    data.fit(of)
    data.make(of, data.outputs(of, labels=False))
    training.train(Project(of).train_job)
    return of


def copy(known_root: tuple[Path, Recipe], folder: Path, **changes: Any) -> Recipe:
    """The root of `build` as a copy that may be changed, and its recipe; `changes` as of `recipe`."""
    shutil.copytree(known_root[0], folder, dirs_exist_ok=True)
    return recipe(str(folder), **changes)
