"""A sensor of a recipe: its reading, and what tokens and pictures make of it."""

from __future__ import annotations

import re
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from ..infra.fields import Pixels
from ..modalities import Form, Size
from .reading import Reading

_STRETCH = re.compile(r"p(\d+(?:\.\d+)?)-p(\d+(?:\.\d+)?)")


class Sensor(Reading):
    """A sensor of a recipe: its reading, and what tokens and pictures make of it.

    unit: of its values, after scale and offset. transform: in which values are standardized and drawn from quantiles:
        as they are, or their logarithm, or their inverse hyperbolic sine (of values over `softening`).
    size: pixels along a side of its crops, if not the run's, or [height, width]: they are then the largest such part of
        a sample, and no square. show: one band, or three for red, green and blue; the
        first ones unless given. stretch: what is black and white, percentiles ("p2-p98") or values.
    """

    unit: str = ""
    transform: Literal["linear", "log", "arcsinh"] = "linear"
    softening: float = Field(1.0, gt=0)
    size: Pixels | None = None
    show: list[str] = []
    stretch: str | tuple[float, float] = "p2-p98"

    @model_validator(mode="after")
    def _can_be_shown(self) -> Self:
        if self.form in (Form.RASTER, Form.SERIES) and (
            unknown := [name for name in self.show if name not in self.kept]
        ):
            raise ValueError(f"show: {unknown[0]!r} is not among the bands that are kept, {', '.join(self.kept)}")
        if self.form is not Form.SERIES and (
            len(self.show) not in (0, 1, 3) or (self.show and self.form is not Form.RASTER)
        ):
            raise ValueError(f"show: got {self.show}; expected one band of a raster, or three for red, green and blue")
        if isinstance(self.stretch, str):
            found = _STRETCH.fullmatch(self.stretch)
            if not found or not float(found[1]) < float(found[2]) <= 100:
                raise ValueError(f"stretch: got {self.stretch!r}; expected percentiles, p2-p98, or two values")
        elif self.stretch[0] >= self.stretch[1]:
            raise ValueError(f"stretch: {self.stretch[0]} is not below {self.stretch[1]}")
        if self.softening != 1 and self.transform != "arcsinh":
            raise ValueError("softening: it is of arcsinh; leave it out")
        return self

    @property
    def window(self) -> Size:
        """What its crops are like: 1 of squares, (height, width) of others."""
        return self.size if isinstance(self.size, tuple) else 1

    @property
    def on_earth(self) -> bool:
        """Whether coordinates are longitudes and latitudes in degrees."""
        return self.unit in ("degrees", "deg") or not (self.unit or self.ranges)

    def reading(self) -> Reading:
        """What its label depends on."""
        return Reading.model_validate(self.plain())

    def of_fits(self) -> dict[str, Any]:
        """What its tokenizers depend on, beside its label."""
        return self.model_dump(mode="json", include={"transform", "softening", "size"}, exclude_defaults=True)

    @property
    def shown(self) -> list[int]:
        """Numbers of the bands that a picture shows: three, or one."""
        if self.form is Form.SERIES:
            return [self.kept.index(name) for name in self.show or self.kept]
        names = self.show or (self.kept[:3] if self.width > 2 else self.kept[:1])
        return [self.kept.index(name) for name in names]

    @property
    def percentiles(self) -> tuple[float, float] | None:
        """Those of `stretch`; None if it says values."""
        found = _STRETCH.fullmatch(self.stretch) if isinstance(self.stretch, str) else None
        return (float(found[1]), float(found[2])) if found else None
