"""Labels that apple/ml-4m turns into sentences while it trains, as fourmill's: captions, metadata, palettes, boxes,
people; and embeddings of captions.

A reader takes a member's suffix and bytes. ValueError if they are of another form.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from . import arrays, poses


def caption(suffix: str, data: bytes) -> str | list[str]:
    """Of .txt its text; of .json a string, an object with `caption`, or a list of these, one for each crop."""
    if not suffix.endswith(".json"):
        return data.decode("utf-8", "replace")
    value = _json(data)
    listed = value if isinstance(value, list) else [value]
    found = [one.get("caption") if isinstance(one, dict) else one for one in listed]
    texts = [text for text in found if isinstance(text, str)]
    if not texts or len(texts) < len(found):
        raise ValueError("expected a text, an object with `caption`, or a list of these")
    return texts if isinstance(value, list) else texts[0]


def metadata(suffix: str, data: bytes) -> dict[str, float]:
    """An object of numbers by the names of 4M's types."""
    value = _json(data)
    if not isinstance(value, dict) or not all(type(one) in (int, float) for one in value.values()):
        raise ValueError("expected an object of numbers by name")
    return value


def palette(suffix: str, data: bytes) -> list[Any]:
    """A list with one object, of palettes by their number of colours: [{"1": [[r, g, b]], "2": ...}]."""
    value = _json(data)
    if not isinstance(value, list) or not value or not isinstance(value[0], dict) or not value[0]:
        raise ValueError('expected [{"1": [[r, g, b]], "2": [[r, g, b], [r, g, b]], ...}]')
    try:
        return [value[0][name] for name in sorted(value[0], key=int)]
    except ValueError:
        raise ValueError(f"got palettes of {', '.join(value[0])} colours, expected numbers") from None


def boxes(suffix: str, data: bytes) -> list[dict[str, Any]]:
    """{"instances": [{"boxes": [xmin, ymin, xmax, ymax], "class_name": class, "score": float}]}; parts of the image."""
    value = _json(data)
    try:
        return [
            {"box": list(map(float, one["boxes"])), "label": str(one["class_name"]), "score": float(one["score"])}
            for one in value["instances"]
        ]
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"expected `instances` with `boxes`, `class_name` and `score` ({error!r})") from None


def _json(data: bytes) -> Any:
    try:
        return json.loads(data.decode("utf-8", "replace"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"no JSON ({error})") from None


READERS: dict[str, Callable[[str, bytes], Any]] = {
    "wordpiece": caption, "metadata": metadata, "palette": palette, "boxes": boxes, "poses": poses.read,
    "embedding": lambda suffix, data: arrays.vectors(data),
}  # fmt: skip
