"""The files of one rendered sample: image, caption, sidecar, and the truth, by extension.

The image is a PNG: beside depth and normals its bytes are few, and JPEG's rings around borders would be no truth.
Extensions hold a dot ("depth.npy"), as WebDataset allows: a sample's key is the name up to the first dot.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from ...tokenize.labels import encode_array
from .. import images
from . import draw, kinds
from .captions import Caption, caption
from .render import render
from .seen import Seen, seen
from .world import Camera, Scene, Thing

EXTENSIONS = (
    "png", "txt", "json", "depth.npy", "normal.npy", "semseg.png", "instances.png", "boxes.json", "camera.json",
    "scene.json",
)  # fmt: skip


@dataclass(frozen=True)
class Options:
    """What a sample depends on beside its split and index: `size` in pixels, `clutter` as draw.things_of takes it."""

    seed: int
    size: int = 96
    clutter: str = "medium"

    record = "scenes.json"
    unit = "images"

    @property
    def sets(self) -> dict[str, tuple[str, ...]]:
        return {}

    def check(self) -> None:
        """ValueError for clutter that there is not."""
        draw.level_of(self.clutter)

    def stated(self) -> dict[str, Any]:
        return {**asdict(self), "version": draw.level_of(self.clutter).version}

    def about(self) -> dict[str, Any]:
        return {"classes": list(kinds.CLASSES)}

    def files(self, split: str, index: int) -> tuple[str, dict[str, bytes]]:
        return files(self, split, index)

    def sums(self, samples: Sequence[dict[str, bytes]]) -> dict[str, Any]:
        return {}


def files(options: Options, split: str, index: int) -> tuple[str, dict[str, bytes]]:
    """The key of a sample, and its files by extension, in the order of EXTENSIONS."""
    scene = draw.draw(options.seed, split, index, options.clutter)
    rendered = render(scene, options.size)
    shown, said = seen(scene, rendered), caption(scene, rendered)
    picture = _png(rendered.rgb)
    return scene.key, {
        "png": picture,
        "txt": said.text.encode(),
        "json": _json(_sidecar(scene, options, said, picture)),
        "depth.npy": encode_array(np.ascontiguousarray(rendered.depth)),
        "normal.npy": encode_array(np.ascontiguousarray(rendered.normal)),
        "semseg.png": _png(rendered.semseg),
        "instances.png": _png(rendered.instances),
        "boxes.json": _json([{"box": list(one.box), "label": one.thing.shape, "score": 1.0} for one in shown]),
        "camera.json": _json(_camera(scene.camera, options.size)),
        "scene.json": _json(_description(scene, options, shown, said)),
    }


def _sidecar(scene: Scene, options: Options, said: Caption, picture: bytes) -> dict[str, Any]:
    """As img2dataset writes it, with the scene's own fields."""
    size = {"width": options.size, "height": options.size}
    return {
        "key": scene.key,
        "caption": said.text,
        "status": "success",
        "error_message": None,
        **size,
        **{f"original_{name}": value for name, value in size.items()},
        "exif": "{}",
        "sha256": hashlib.sha256(picture).hexdigest(),
        "seed": scene.seed,
        "split": scene.split,
        "scene": scene.index,
        "clutter": options.clutter,
    }


def _camera(camera: Camera, size: int) -> dict[str, Any]:
    """Pixel (column, row) is seen along ((column + 0.5 - cx) / fx, (cy - row - 0.5) / fy, -1), x right, y up."""
    pose = np.eye(4)
    pose[:3, :3], pose[:3, 3] = camera.rotation, camera.position
    focal = round(camera.focal(size), 6)
    return {
        "width": size,
        "height": size,
        "fx": focal,
        "fy": focal,
        "cx": size / 2,
        "cy": size / 2,
        "field_of_view": round(float(np.degrees(camera.field_of_view)), 6),
        "camera_to_world": _numbers(pose),
    }


def _description(scene: Scene, options: Options, shown: list[Seen], said: Caption) -> dict[str, Any]:
    by_id = {one.thing.id: one for one in shown}
    surfaces = [
        {"class": kinds.CLASSES[s.class_id], "colour": s.colour, "pattern": s.pattern, "normal": _numbers(s.normal),
         "offset": round(s.offset, 6)}
        for s in scene.surfaces
    ]  # fmt: skip
    lights = [
        {"position": _numbers(one.position), "radius": round(one.radius, 6), "colour": _numbers(one.colour)}
        for one in scene.lights
    ]
    return {
        "key": scene.key,
        "version": draw.level_of(options.clutter).version,
        "objects": [_object(thing, by_id.get(thing.id)) for thing in scene.things],
        "surfaces": surfaces,
        "sky": scene.sky.words.partition(" ")[2],
        "lights": lights,
        "named": list(said.named),
        "relations": [[r.one, r.kind, r.other] for r in said.relations],
    }


def _object(thing: Thing, shown: Seen | None) -> dict[str, Any]:
    return {
        "instance": thing.id,
        "shape": thing.shape,
        "class": thing.class_id,
        "colour": thing.colour,
        "second_colour": thing.second or None,
        "material": thing.material,
        "size": thing.size,
        "half_extents": _numbers(np.array(thing.half)),
        "position": _numbers(thing.centre),
        "rotation": _numbers(thing.rotation),
        "support": thing.support,
        "visible": round(shown.visible, 6) if shown else 0.0,
        "pixels": shown.pixels if shown else 0,
        "box": list(shown.box) if shown else None,
    }


def _numbers(values: np.ndarray) -> Any:
    """Plain numbers, to a micrometre; -0.0 is 0.0."""
    return (np.round(values.astype(np.float64), 6) + 0.0).tolist()


def _json(value: Any) -> bytes:
    return json.dumps(value).encode()


def _png(pixels: np.ndarray) -> bytes:
    return images.encode_png(np.ascontiguousarray(pixels), compress_level=3)  # quick: rendering waits for it
