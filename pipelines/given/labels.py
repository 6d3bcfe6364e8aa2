"""What a person gives as an input of generation, as labels: pictures, arrays, JSON and words, from files or memory.

    photo.jpg -> rgb        boxes.json -> det        edges.png -> canny_edge        "a red boat" -> caption

A label that is read here is what a specialist would have stored, so that it becomes tokens by the same codecs.

Decisions:
- Mistakes are one `ValueError`, a `Mistake`, that says what to do; the caller puts the input's name before it.
- What was taken in another way than a person may expect (a drawing inverted, a range scaled) is a note.
"""

from __future__ import annotations

from typing import Any

from ...modalities import LABELS, Form, class_names
from ...sensors.declared import SENSORS
from ..reject import Reject
from . import instruments, maps, of_sensors, polygons, records
from .given import Given, Mistake


def is_dense(label: str) -> bool:
    """Whether a label is a map over the picture, and so has a frame of its own."""
    form = LABELS[label].form
    return not form.is_record and form not in (Form.VECTOR, Form.SEQUENCE, Form.SERIES, Form.NUMBERS)


def read(
    label: str,
    given: Any,
    max_pixels: int,
    frame: tuple[int, int] | None = None,
    classes: tuple[str, ...] | None = None,
) -> Given:
    """A label from what a person gave.

    Args:
        label: a key of LABELS.
        given: a path or URL, an array, a PIL image, or what JSON can say; of captions, palettes and metadata also the
            words themselves.
        max_pixels: larger pictures are refused before they are decoded.
        frame: (width, height) of the sample's picture, which boxes in pixels are relative to; None if it has none.
        classes: names of the label's classes by id; its own if None.

    Raises:
        Mistake: it cannot be read, or is no such label.
    """
    form = LABELS[label].form
    if label in SENSORS:
        return of_sensors.read(label, given) if form.is_record else instruments.read(label, given)
    names = class_names(label, {}) if classes is None else classes
    try:
        if form is Form.RECORD:
            if label == "sam_instance":
                return polygons.read(given, frame, max_pixels)
            return records.read(label, given, frame, names)
        if form in (Form.VECTOR, Form.SEQUENCE):
            return maps.read_vectors(form, given)
        return maps.read(form, given, max_pixels, names)
    except Reject as reject:
        raise Mistake(f"{reject}; give a picture that opens in a viewer") from None
