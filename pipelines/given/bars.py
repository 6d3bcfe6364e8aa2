"""Bars around a photo that a person gives, cut off as they were from the photos of the run; maps and boxes follow."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from ...modalities import LABELS, Form
from ..borders.find import find
from ..borders.window import Window
from .given import Given


def without_bars(given: Mapping[str, Given], labels: Mapping[str, str]) -> dict[str, Given]:
    """Labels that a person gave, in the frame of the photo without its bars.

    Args:
        given: by input name; maps have the photo's aspect.
        labels: input name -> label.
    """
    photo = next((name for name in given if labels[name] == "rgb"), None)
    window = None if photo is None else find(given[photo].value, {})
    if photo is None or window is None or window.is_whole:
        return dict(given)
    found = {name: _cut(labels[name], one, window) for name, one in given.items()}
    note = (
        f"bars of one colour were cut off, as from the photos of the run: {window.width} x {window.height} px are left "
        f"of {window.image_width} x {window.image_height}"
    )
    return found | {photo: replace(found[photo], notes=(*found[photo].notes, note))}


def _cut(label: str, given: Given, window: Window) -> Given:
    form = LABELS[label].form
    if form in (Form.VECTOR, Form.SEQUENCE, Form.FEATURES):  # of no frame in pixels
        return given
    if not isinstance(given.value, np.ndarray):
        size = None if given.size is None else (window.width, window.height)
        return replace(given, value=window.follow(label, given.value), size=size)
    own = window.scaled(given.value.shape[1], given.value.shape[0])
    known = None if given.known is None else own.cut(given.known)
    return replace(given, value=own.cut(given.value), size=(own.width, own.height), known=known)
