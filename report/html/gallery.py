"""`fourmill view`: a dataset as a static gallery; every sample with its labels, crops, tokens and rejects.

A page is a pure function of the dataclasses below. It holds a few hundred samples (a sample takes 50 to 150 kB); larger
datasets are shown as several pages or as a random choice.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from ...modalities import LABELS, MODALITIES, Kind
from ..bands import NAMES
from ..draw import labels as draw
from . import page

if TYPE_CHECKING:
    from ...tokenize.crops import Crop

FOLD = 280  # characters of a caption that are shown before it is folded


@dataclass(frozen=True)
class TokenView:
    """One modality's tokens of one crop, and what they say when they are decoded again.

    Attributes:
        modality: a key of `modalities.MODALITIES`.
        tokens: integers (length,); None if the modality was rejected for this sample.
        truth: the label in the frame of the crop, as it went into the tokenizer; None if it is not stored.
        decoded: the label as the tokens give it back, in the same form; None if there is no decoder.
        error: distance between the two, e.g. ("MAE", 0.021); the caller chooses what is usual for the modality.
        text: the sentence of a sequence, as WordPiece words ("v0=12 v1=30 ... person").
        crop: index of the crop in `GallerySample.crops`; None for tokens that belong to the whole sample.
    """

    modality: str
    tokens: np.ndarray | None
    truth: Any = None
    decoded: Any = None
    error: tuple[str, float] | None = None
    text: str = ""
    crop: int | None = None


@dataclass(frozen=True)
class GallerySample:
    """One sample. `image` is uint8 (H, W, 3) or None (rejected); `labels` are in the frame of the image.

    `not_kept` names labels that the recipe makes and does not keep; `rejects` are the reasons by output ("labels/det",
    "tokens/tok_rgb", ...); `credit` is the author and licence, where they are known; `classes` are lists of classes by
    label, where they are not the label's own.
    """

    key: str
    shard: str
    image: np.ndarray | None = None
    caption: str | None = None
    labels: Mapping[str, Any] = field(default_factory=dict)
    not_kept: Sequence[str] = ()
    crops: Sequence[Crop] = ()
    tokens: Sequence[TokenView] = ()
    rejects: Mapping[str, str] = field(default_factory=dict)
    credit: str = ""
    classes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


@dataclass(frozen=True)
class Gallery:
    """A page: `facts` are short (name, value) pairs for its head; `total` is the size of the dataset, if larger;
    `bands` the statistics of sensors, a title and a row for each band."""

    title: str
    samples: Sequence[GallerySample]
    total: int | None = None
    facts: Sequence[tuple[str, str]] = ()
    bands: Sequence[tuple[str, Sequence[Sequence[str]]]] = ()
    page_size: int = 24


@dataclass(frozen=True)
class TitledPanel:
    """A panel with its name, and what the name means."""

    title: str
    panel: draw.Panel
    summary: str = ""


@dataclass(frozen=True)
class TokenCard:
    """A token view, drawn."""

    title: str
    modality: str
    size: str
    truth: draw.Panel | None
    decoded: draw.Panel | None
    grid: draw.Panel | None
    ids: str
    text: str
    error: str
    crop: str


@dataclass(frozen=True)
class SampleCard:
    """A sample, drawn: what the template shows, and nothing else."""

    sample: GallerySample
    source: draw.Panel
    size: str
    crops: list[tuple[str, str]]  # (style of the outline, name)
    labels: list[TitledPanel]
    not_kept: str  # the labels that are missing, and how to keep them
    tokens: list[TokenCard]
    folded: str  # the first characters of a long caption; "" if it is short


def label_title(name: str) -> str:
    """A label's name for people: "canny_edge" -> "Canny edge"."""
    known = {
        "rgb": "RGB", "det": "Boxes", "clip": "CLIP", "color_palette": "Colour palette", "semseg": "Segmentation",
        "normal": "Surface normals", "dinov2": "DINOv2", "dinov2_global": "DINOv2 global", "imagebind": "ImageBind",
        "imagebind_global": "ImageBind global", "sam_instance": "SAM instances", "sam_edge": "SAM edges",
        "t5_caption": "T5 caption embeddings", "metric_depth": "Depth in metres", "open_det": "Boxes of words",
        "vlm_caption": "Caption by a model",
    }  # fmt: skip
    return known.get(name, name.replace("_", " ").capitalize())


def label_summary(name: str, classes: Mapping[str, tuple[str, ...]]) -> str:
    """What a label says, in words."""
    if name in classes:
        return f"{len(classes[name])} classes of the recipe: {', '.join(classes[name][:12])}"
    return LABELS[name].summary if name in LABELS else ""


def how_to_keep(labels: Sequence[str]) -> str:
    """What a page says of labels that it cannot show because no output holds them; "" for none."""
    if not labels:
        return ""
    return f"Not kept: {', '.join(labels)}. Add them to `labels.keep` in the recipe and run it again to see them."


NOT_KEPT = draw.TextPanel("not kept", quiet=True)


def render_gallery(gallery: Gallery) -> str:
    """The gallery as one self-contained HTML page. Write it as UTF-8; a few hundred samples are its reasonable size."""
    if gallery.page_size < 1:
        raise ValueError(f"page_size is the number of samples shown at a time, at least 1; got {gallery.page_size}")
    cards = [draw_sample(sample) for sample in gallery.samples]
    rejected = sum(bool(sample.rejects) for sample in gallery.samples)
    return page.render(
        "gallery.html",
        styles=("base.css", "gallery.css"),
        script="gallery.js",
        gallery=gallery,
        cards=cards,
        rejected=rejected,
        bands_names=list(NAMES.values()),
    )


def draw_sample(sample: GallerySample) -> SampleCard:
    """Everything of one sample as panels."""
    caption = sample.caption or ""
    source: draw.Panel = draw.TextPanel("no image", quiet=True)
    height, width = 0, 0
    if sample.image is not None:
        height, width = sample.image.shape[:2]
        source = draw.draw_rgb(sample.image, size=480, alt=caption[:200] or f"sample {sample.key}")
    labels = []
    for name, label in sample.labels.items():
        if name not in ("rgb", "caption"):  # those are shown already, larger
            summary = label_summary(name, sample.classes)
            panel = draw.draw(name, label, sample.image, classes=sample.classes)
            labels.append(TitledPanel(label_title(name), panel, summary))
    return SampleCard(
        sample=sample,
        source=source,
        size=f"{width} x {height}" if width else "",
        crops=[_outline(sample, i) for i in range(len(sample.crops))] if width else [],
        labels=labels,
        not_kept=how_to_keep(sample.not_kept),
        tokens=[draw_token_view(view, sample) for view in sample.tokens],
        folded=caption[:FOLD].rsplit(" ", 1)[0] if len(caption) > FOLD else "",
    )


def draw_token_view(view: TokenView, sample: GallerySample | None = None) -> TokenCard:
    """One modality's tokens: truth beside what the tokens give back, the tokens themselves, the error."""
    modality = MODALITIES.get(view.modality)
    label = modality.label if modality else view.modality
    backdrop = crop_image(sample, view.crop) if sample is not None else None
    classes = sample.classes if sample is not None else {}
    many = sample is not None and len(sample.crops) > 1
    ids, grid, size = "", None, "rejected"
    if modality is not None and modality.kind is Kind.PIXELS and view.decoded is not None:
        size = "pixels"
    if view.tokens is not None:
        tokens = np.asarray(view.tokens).reshape(-1)
        ids, size = " ".join(map(str, tokens.tolist())), f"{tokens.size} tokens"
        is_grid = modality is not None and modality.kind is Kind.GRID
        grid = draw.draw_tokens(np.asarray(view.tokens)) if is_grid and tokens.size else None
    truth = None if view.truth is None else draw.draw(label, view.truth, backdrop, size=224, classes=classes)
    if truth is None and view.decoded is not None and sample is not None and label in sample.not_kept:
        truth = NOT_KEPT
    decoded = None
    if view.decoded is not None:
        decoded = draw.draw(label, view.decoded, backdrop, size=224, like=view.truth, classes=classes)
    return TokenCard(
        title=label_title(label),
        modality=view.modality,
        size=size,
        truth=truth,
        decoded=decoded,
        grid=grid,
        ids=ids,
        text=view.text,
        error="" if view.error is None else f"{view.error[0]} {view.error[1]:.4g}",
        crop=f"crop {view.crop + 1}" if view.crop is not None and many else "",
    )


def crop_image(sample: GallerySample, index: int | None) -> np.ndarray | None:
    """The pixels of a crop, uint8 (h, w, 3), at the source's resolution; the whole image for `index` None."""
    if sample.image is None or index is None or index >= len(sample.crops):
        return sample.image
    crop = sample.crops[index]
    window = sample.image[crop.top : crop.top + crop.height, crop.left : crop.left + crop.width]
    return window[:, ::-1] if crop.flip else window


def _outline(sample: GallerySample, index: int) -> tuple[str, str]:
    """Where a crop lies on its image, as CSS in per cent, and what it is called."""
    assert sample.image is not None
    crop, (height, width) = sample.crops[index], sample.image.shape[:2]
    sides = (crop.left / width, crop.top / height, crop.width / width, crop.height / height)
    style = "left:{:.2%};top:{:.2%};width:{:.2%};height:{:.2%}".format(*sides)
    name = "crop" if len(sample.crops) == 1 else str(index + 1)
    return style, f"{name}, flipped" if crop.flip else name
