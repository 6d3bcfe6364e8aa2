"""What can be seen of each thing in a rendered scene, for boxes, captions and the description of the scene."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from . import kinds
from .render import Rendered
from .world import Scene, Thing

LEAST_VISIBLE = 0.35  # of its pixels in the frame, for a thing to be named
LEAST_SHARE = 0.004  # of the image, likewise: 37 pixels at 96 px
LEAST_GROUND = 0.04  # of the image, for floor, wall and sky


@dataclass(frozen=True)
class Seen:
    """One thing in the image.

    pixels: how many show it. visible: the share of its pixels in the frame that nothing stands before.
    box: xmin, ymin, xmax, ymax of its pixels in 0..1 of the frame. centre: x, y of their mean, likewise.
    depth: their median, metres. share: of the image.
    """

    thing: Thing
    pixels: int
    visible: float
    box: tuple[float, float, float, float]
    centre: tuple[float, float]
    depth: float
    share: float

    @property
    def clear(self) -> bool:
        """Whether a person can say what it is; only such things are named in captions."""
        return self.visible >= LEAST_VISIBLE and self.share >= LEAST_SHARE


def seen(scene: Scene, rendered: Rendered) -> list[Seen]:
    """The things of which at least one pixel shows, by instance."""
    height, width = rendered.instances.shape
    found = []
    for thing in scene.things:
        rows, columns = np.nonzero(rendered.instances == thing.id)
        if not len(rows):
            continue
        box = (columns.min() / width, rows.min() / height, (columns.max() + 1) / width, (rows.max() + 1) / height)
        centre = ((columns.mean() + 0.5) / width, (rows.mean() + 0.5) / height)
        found.append(
            Seen(
                thing,
                len(rows),
                rendered.visible[thing.id],
                (float(box[0]), float(box[1]), float(box[2]), float(box[3])),
                (float(centre[0]), float(centre[1])),
                float(np.median(rendered.depth[rows, columns])),
                len(rows) / (width * height),
            )
        )
    return found


def grounds(rendered: Rendered) -> set[int]:
    """Which of kinds.SKY, FLOOR and WALL fill enough of the image to be named."""
    shares = np.bincount(rendered.semseg.ravel(), minlength=len(kinds.CLASSES)) / rendered.semseg.size
    return {one for one in (kinds.SKY, kinds.FLOOR, kinds.WALL) if shares[one] >= LEAST_GROUND}
