"""The page of `fourmill generate` on inputs of one's own: what the model read, and what it made of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..draw import labels as draw
from . import page
from .gallery import TitledPanel, label_title


@dataclass(frozen=True)
class Shown:
    """A label to be drawn: the label's name, the modality's, the value in the frame of the crop, and a remark."""

    label: str
    modality: str
    value: Any
    note: str = ""


@dataclass(frozen=True)
class GeneratedSample:
    """One sample: what was given, and each result with the name of its folder. `backdrop`: what boxes are drawn on."""

    title: str
    given: Sequence[Shown]
    made: Sequence[tuple[str, Sequence[Shown]]]
    backdrop: np.ndarray | None = None


@dataclass(frozen=True)
class GeneratedPage:
    """A page.

    title: what was generated from what. about: the seed and the like, in words. how: each target, and its options in
    words. classes: names of classes, by label.
    """

    title: str
    about: str
    how: Sequence[tuple[str, str]]
    samples: Sequence[GeneratedSample]
    classes: Mapping[str, tuple[str, ...]]


@dataclass(frozen=True)
class Figure:
    """A panel with its title, the modality's name and a remark."""

    panel: TitledPanel
    modality: str
    note: str


@dataclass(frozen=True)
class Card:
    """A sample, drawn."""

    title: str
    given: list[Figure]
    made: list[tuple[str, list[Figure]]]


def render_generated(data: GeneratedPage) -> str:
    """The page as one self-contained HTML text; write it as UTF-8."""

    def figures(shown: Sequence[Shown], sample: GeneratedSample) -> list[Figure]:
        return [_figure(one, sample.backdrop, data.classes) for one in shown]

    cards = [
        Card(one.title, figures(one.given, one), [(folder, figures(made, one)) for folder, made in one.made])
        for one in data.samples
    ]
    return page.render("generated.html", styles=("base.css", "report.css", "generated.css"), data=data, cards=cards)


def _figure(shown: Shown, backdrop: np.ndarray | None, classes: Mapping[str, tuple[str, ...]]) -> Figure:
    panel = draw.draw(shown.label, shown.value, backdrop, size=320, classes=classes)
    return Figure(TitledPanel(label_title(shown.label), panel), shown.modality, shown.note)
