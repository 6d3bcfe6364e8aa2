"""What a data set is to the shards that are made of it: samples with their members, and where the truth is in these."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

Members = dict[str, bytes]  # of a sample, by extension


@dataclass(frozen=True)
class Sample:
    """A sample: its key, and what reads its members. `read` raises OSError or ValueError if one is not usable."""

    key: str
    read: Callable[[], Members]


@dataclass(frozen=True)
class Found:
    """What is in a folder.

    truth: `evaluate.truth` of a recipe, for the members. notes: what else people should know.
    """

    samples: Sequence[Sample]
    truth: dict[str, Any]
    notes: list[str] = field(default_factory=list)


def folder(root: Path, *places: str) -> Path:
    """The first of these folders below a root that is there. ValueError with all of them if there is none."""
    for place in places:
        if (root / place).is_dir():
            return root / place
    raise ValueError(
        f"{root}: there is no folder {' or '.join(places)}; see the layout in the guide of `fourmill shards`"
    )


def picture(path: Path) -> np.ndarray:
    """The numbers that a picture stores. ValueError if it is none."""
    try:
        with Image.open(path) as image:
            return np.array(image)
    except FileNotFoundError:
        raise
    except Exception as error:  # Pillow raises about anything at damaged bytes
        raise ValueError(f"{path.name}: {error}") from None
