"""Which part of an image is the photo, where bars of one colour were added, and how what belongs to it follows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from ...tokenize import masks
from ...tokenize.text import smpl


@dataclass(frozen=True)
class Window:
    """A part of an image, in pixels: what is labelled of it.

    image_width, image_height: of the whole image, upright.
    """

    left: int
    top: int
    width: int
    height: int
    image_width: int
    image_height: int

    @classmethod
    def whole(cls, width: int, height: int) -> Window:
        return cls(0, 0, width, height, width, height)

    @property
    def is_whole(self) -> bool:
        return (self.width, self.height) == (self.image_width, self.image_height)

    @property
    def size(self) -> tuple[int, int]:
        """(height, width), as of an array."""
        return self.height, self.width

    @property
    def image_size(self) -> tuple[int, int]:
        """(height, width) of the whole image."""
        return self.image_height, self.image_width

    @property
    def cut_away(self) -> float:
        """The share of the image's pixels outside of it."""
        return 1 - self.width * self.height / (self.image_width * self.image_height)

    def record(self) -> dict[str, int]:
        """As JSON says it."""
        return asdict(self)

    def scaled(self, width: int, height: int) -> Window:
        """The same part of the image at another size."""
        across, down = width / self.image_width, height / self.image_height
        left, top = round(self.left * across), round(self.top * down)
        right, bottom = round((self.left + self.width) * across), round((self.top + self.height) * down)
        return Window(left, top, max(1, right - left), max(1, bottom - top), width, height)

    def cut(self, array: np.ndarray) -> np.ndarray:
        """Its part of a map (H, W, ...) of the whole image, contiguous; the map itself if it is the whole."""
        if self.is_whole:
            return array
        return np.ascontiguousarray(array[self.top : self.top + self.height, self.left : self.left + self.width])

    def box(self, box: Sequence[float]) -> list[float] | None:
        """A box [xmin, ymin, xmax, ymax] in 0..1 of the whole image as one in 0..1 of the window, cut to it; None if it
        lies outside."""
        if self.is_whole:
            return [float(edge) for edge in box]
        xmin, ymin, xmax, ymax = (min(max(edge, 0.0), 1.0) for edge in (*self.point(box[:2]), *self.point(box[2:])))
        return [xmin, ymin, xmax, ymax] if xmin < xmax and ymin < ymax else None

    def point(self, point: Sequence[float]) -> tuple[float, float]:
        """(x, y) in 0..1 of the whole image as shares of the window, which may lie outside of it."""
        x, y = (float(c) for c in point)
        if self.is_whole:
            return x, y
        return (x * self.image_width - self.left) / self.width, (y * self.image_height - self.top) / self.height

    def follow(self, label: str, value: Any) -> Any:
        """A record of the whole image as one of the window; what has no place in an image stays as it is.

        Boxes, people and instances outside of it are left out.
        """
        if (
            self.is_whole
            or label not in ("det", "open_det", "human_poses", "sam_instance")
            or not isinstance(value, list)
        ):
            return value
        move = {"sam_instance": self._instance, "human_poses": self._person}.get(label, self._boxed)
        placed = (move(one) for one in value)
        return [one for one in placed if one is not None]

    def _boxed(self, one: Any) -> Any:
        if not isinstance(one, Mapping) or "box" not in one:
            return one
        box = self.box(one["box"])
        return None if box is None else {**one, "box": box}

    def _person(self, one: Any) -> Any:
        """Their camera is over the square around their box, which is another one if the box is cut."""
        found = self._boxed(one)
        if found is None or found is one or "camera" not in one:
            return found
        box = *self.point(one["box"][:2]), *self.point(one["box"][2:])
        sides = (self.width, self.height) * 2
        before, after = (
            smpl.person_square([edge * side for edge, side in zip(edges, sides, strict=True)])
            for edges in (box, found["box"])
        )
        return {**found, "camera": smpl.move_camera(one["camera"], before, after)}

    def _instance(self, one: Mapping[str, Any]) -> dict[str, Any] | None:
        mask = masks.decode(one["mask"]) > 0
        height, width = mask.shape
        if (height, width) == self.image_size:
            mask = self.cut(mask)
        else:  # of another size: its pixels whose centres lie in the window
            rows = ((np.arange(height) + 0.5) / height * self.image_height - self.top) / self.height
            columns = ((np.arange(width) + 0.5) / width * self.image_width - self.left) / self.width
            mask = mask[(rows > 0) & (rows < 1)][:, (columns > 0) & (columns < 1)]
        box = self.box(one["box"])
        if box is None or not mask.any():
            return None
        found = {**one, "box": box, "mask": masks.encode(mask)}
        for name in ("point", "query"):
            if name in one:
                found[name] = [min(max(c, 0.0), 1.0) for c in self.point(one[name])]
        return found | ({"area": float(mask.mean())} if "area" in one else {})
