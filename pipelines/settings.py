"""Settings of what is read and labelled: the sections `samples`, `images` and `labels` of a recipe."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from ..infra.fields import Positive, Section, Share, UrlList

CROP_SETTINGS = "crop_settings"  # of imported tokens: which window of its image each crop is


class Samples(Section):
    """Where the source shards are. Each field takes a URL, a brace pattern, a glob, a folder, or a list of these."""

    train: UrlList
    val: UrlList = []


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
