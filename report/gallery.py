"""`fourmill view`: a dataset as a static gallery; every sample with its labels, crops, tokens and rejects.

A page is a pure function of the dataclasses below. It holds a few hundred samples (a sample takes 50 to 150 kB); larger
datasets are shown as several pages or as a random choice.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from ..modalities import LABELS, MODALITIES, Kind
from . import draw, page

if TYPE_CHECKING:
    from ..tokenize.crops import Crop

FOLD = 280  # characters of a caption that are shown before it is folded


@dataclass(frozen=True)
class TokenView:
    """One modality's tokens of one crop, and what they say when they are decoded again.

    Attributes:
        modality: a key of `modalities.MODALITIES`.
        tokens: integers (length,); None if the modality was rejected for this sample.
        truth: the label in the frame of the crop, as it went into the tokenizer; None if unknown.
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

    `bins` are the metadata bins by type, `rejects` the reasons by output ("labels/det", "tokens/tok_rgb", ...), `credit` the
    author and licence where they are known.
    """

    key: str
    shard: str
    image: np.ndarray | None = None
    caption: str | None = None
    labels: Mapping[str, Any] = field(default_factory=dict)
    crops: Sequence[Crop] = ()
    tokens: Sequence[TokenView] = ()
    bins: Mapping[str, int] = field(default_factory=dict)
    rejects: Mapping[str, str] = field(default_factory=dict)
    credit: str = ""


@dataclass(frozen=True)
class Gallery:
    """A page: `facts` are short (name, value) pairs for its head; `total` is the size of the dataset it was chosen from."""

    title: str
    samples: Sequence[GallerySample]
    total: int | None = None
    facts: Sequence[tuple[str, str]] = ()
    page_size: int = 24


@dataclass(frozen=True)
class TitledPanel:
    """A panel with its name and a line below it."""

    title: str
    panel: draw.Panel
    summary: str = ""
    note: str = ""


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
    tokens: list[TokenCard]
    folded: str  # the first characters of a long caption; "" if it is short


def label_title(name: str) -> str:
    """A label's name for people: "canny_edge" -> "Canny edge"."""
    known = {"rgb": "RGB", "det": "Boxes", "clip": "CLIP", "color_palette": "Colour palette", "semseg": "Segmentation"}
    return known.get(name, name.replace("_", " ").capitalize())


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
    )


def draw_sample(sample: GallerySample) -> SampleCard:
    """Everything of one sample as panels."""
    caption = sample.caption or ""
    height, width = sample.image.shape[:2] if sample.image is not None else (0, 0)
    source = draw.draw("rgb", sample.image, size=480)
    if isinstance(source, draw.Picture):
        source = draw.draw_rgb(sample.image, size=480, alt=caption[:200] or f"sample {sample.key}")
    labels = []
    for name, label in sample.labels.items():
        if name in ("rgb", "caption"):  # shown already, larger
            continue
        panel = draw.draw_metadata(label, sample.bins) if name == "metadata" else draw.draw(name, label, sample.image)
        labels.append(TitledPanel(label_title(name), panel, LABELS[name].summary if name in LABELS else ""))
    return SampleCard(
        sample=sample,
        source=source if sample.image is not None else draw.Text("no image", quiet=True),
        size=f"{width} x {height}" if width else "",
        crops=[_outline(crop, i, len(sample.crops), width, height) for i, crop in enumerate(sample.crops)] if width else [],
        labels=labels,
        tokens=[draw_token_view(view, sample) for view in sample.tokens],
        folded=caption[:FOLD].rsplit(" ", 1)[0] if len(caption) > FOLD else "",
    )


def draw_token_view(view: TokenView, sample: GallerySample | None = None) -> TokenCard:
    """One modality's tokens: truth beside what the tokens give back, the tokens themselves, the error."""
    modality = MODALITIES.get(view.modality)
    label = modality.label if modality else view.modality
    backdrop = crop_image(sample, view.crop) if sample is not None else None
    ids, grid, size = "", None, "rejected"
    if view.tokens is not None:
        tokens = np.asarray(view.tokens).reshape(-1)
        ids, size = " ".join(map(str, tokens.tolist())), f"{tokens.size} tokens"
        is_grid = modality is not None and modality.kind is Kind.GRID
        grid = draw.draw_tokens(tokens) if is_grid and tokens.size else None
    return TokenCard(
        title=label_title(label),
        modality=view.modality,
        size=size,
        truth=None if view.truth is None else draw.draw(label, view.truth, backdrop, size=224),
        decoded=None if view.decoded is None else draw.draw(label, view.decoded, backdrop, size=224),
        grid=grid,
        ids=ids,
        text=view.text,
        error="" if view.error is None else f"{view.error[0]} {view.error[1]:.4g}",
        crop=f"crop {view.crop + 1}" if view.crop is not None and sample is not None and len(sample.crops) > 1 else "",
    )


def crop_image(sample: GallerySample, index: int | None) -> np.ndarray | None:
    """The pixels of a sample's crop, uint8 (h, w, 3), at the source's resolution; the whole image for `index` None."""
    if sample.image is None or index is None or index >= len(sample.crops):
        return sample.image
    crop = sample.crops[index]
    window = sample.image[crop.top : crop.top + crop.height, crop.left : crop.left + crop.width]
    return window[:, ::-1] if crop.flip else window


def _outline(crop: Crop, index: int, count: int, width: int, height: int) -> tuple[str, str]:
    """Where a crop lies on the image, as CSS in per cent, and what it is called."""
    left, top = 100 * crop.left / width, 100 * crop.top / height
    style = f"left:{left:.2f}%;top:{top:.2f}%;width:{100 * crop.width / width:.2f}%;height:{100 * crop.height / height:.2f}%"
    return style, ("crop" if count == 1 else f"{index + 1}") + (", flipped" if crop.flip else "")
