"""Settings of what is read and labelled: the sections `samples`, `images` and `labels` of a recipe."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from ..infra.fields import Positive, Section, Share, UrlList

Tars = UrlList | dict[str, UrlList]
CROP_SETTINGS = "crop_settings"  # of imported tokens: which window of its image each crop is


class Samples(Section):
    """Where the source shards are. Each field takes a URL, a brace pattern, a glob, a folder, or a list of these; or a
    mapping of these by the name of a set, whose tars hold different members of the same samples.

    key: the column of Parquet shards whose values are the samples' keys; by the number of the row unless given.
    """

    train: Tars
    val: Tars = []
    key: str = ""

    @property
    def places(self) -> list[str]:
        """All that is named, of both splits and of all sets."""
        return [one for split in (self.train, self.val) for named in sets_of(split).values() for one in named]

    @property
    def sets(self) -> list[str]:
        """The names of sets, [] where each shard is one tar."""
        return [name for name in sets_of(self.train) if name]

    @model_validator(mode="after")
    def _same_sets(self) -> Self:
        if self.val and set(sets_of(self.train)) != set(sets_of(self.val)):
            train, val = (", ".join(filter(None, sets_of(one))) or "no sets" for one in (self.train, self.val))
            raise ValueError(f"val: it has {val}, and train {train}; both have the same sets of tars")
        if odd := [name for name in self.sets if "/" in name]:
            raise ValueError(f"got the set {odd[0]!r}; expected a name without /")
        return self


def sets_of(named: list[str] | dict[str, list[str]]) -> dict[str, list[str]]:
    """What a split names, by set; without sets {"": all}."""
    return named if isinstance(named, dict) else {"": named}


class Images(Section):
    """How images are read and cropped. `size` is the side of a crop in pixels, 4M's 224 unless you know better."""

    size: Positive = 224
    patch_size: Positive = 16
    crops: Positive = 1  # crop 0 is the centre crop; the others are random
    crop_scale: Annotated[float, Field(gt=0, le=1)] = 0.8  # least share of the largest square that a random crop covers
    hflip: Share = 0.5
    trim_borders: Annotated[bool, Field(strict=True)] = (
        False  # bars of one colour that a download padded photos with are cut off
    )
    max_pixels: Positive = 100_000_000  # larger images are refused before they are decoded
    pixel_format: Literal["jpeg", "png"] = "jpeg"  # of the `rgb` column
    jpeg_quality: Annotated[int, Field(ge=1, le=100)] = 95


class Labels(Section):
    """Which labels are kept raw in labels/, and each specialist's options (`specialist: module:Class` swaps it)."""

    keep: list[str] = []
    specialists: dict[str, dict[str, Any]] = {}
