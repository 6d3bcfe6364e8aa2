"""Frames of surface normals: which way their axes point, in words, and how normals are turned from one to another.

A label of normals has one frame, `DECLARED`, wherever it is: in the store, in views, in measures. Who publishes models
and tokenizers has others. A frame is written as three axes, each with the direction in which it grows as the viewer
sees it: "x right, y down, z away from the viewer".
"""

from __future__ import annotations

import re

import numpy as np

DECLARED = "x right, y up, z toward the viewer"
# Of the published 4M tokenizers of normals and of Omnidata, which labelled for them. Source: the outputs that
# apple/ml-4m keeps in generation_4M-7.ipynb (tests/golden/normals.json), and its IMAGENET_SURFACE_NORMAL_MEAN,
# (.501, .405, .137), whose z is -.73 on average.
OMNIDATA = "x right, y down, z away from the viewer"

AXES = "xyz"
# Direction: (the axis of the declared frame, its sign).
_DIRECTIONS = {
    "right": (0, 1), "left": (0, -1), "up": (1, 1), "down": (1, -1), "toward the viewer": (2, 1),
    "away from the viewer": (2, -1),
}  # fmt: skip
_SHORT = {"toward": "toward the viewer", "towards": "toward the viewer", "away": "away from the viewer"}
_AXIS = re.compile(r"([xyz])\s+(right|left|up|down|(?:towards?|away)(?:\s+(?:from\s+)?the\s+viewer)?)", re.IGNORECASE)
_EXPECTED = f"expected a direction of each axis: right, left, up, down, toward or away, as in {DECLARED!r}"


def canonical(frame: str) -> str:
    """The frame with its axes in order, in the words that this module uses. ValueError if it is none.

    Examples:
        >>> canonical("X right,  y down, z away")
        'x right, y down, z away from the viewer'
    """
    return ", ".join(f"{axis} {word}" for axis, word in zip(AXES, _words(frame), strict=True))


def turn(normals: np.ndarray, frame: str, to: str = DECLARED) -> np.ndarray:
    """Normals of one frame in another, exactly: components change places and signs.

    Args:
        normals: floats (..., 3), in `frame`.
        frame, to: in words, see `canonical`.

    Returns:
        A new array of the same shape and dtype, in `to`.

    Raises:
        ValueError: words that are no frame.

    Examples:
        >>> turn(np.array([0.0, -1.0, 0.0]), OMNIDATA)  # a floor
        array([ 0.,  1., -0.])
    """
    sources, targets = (_directions(one) for one in (frame, to))
    turned = np.empty_like(normals)
    for place, (axis, sign) in enumerate(targets):
        source = next(i for i, (along, _) in enumerate(sources) if along == axis)
        component = normals[..., source]
        turned[..., place] = component if sources[source][1] == sign else -component
    return turned


def flipped(axes: str, frame: str = DECLARED) -> str:
    """The frame with these of its axes the other way round: ("yz", DECLARED) is OMNIDATA."""
    opposite = {place: word for word, place in _DIRECTIONS.items()}
    places = zip(AXES, _directions(frame), strict=True)
    return ", ".join(f"{name} {opposite[axis, -sign if name in axes else sign]}" for name, (axis, sign) in places)


def flips(frame: str) -> str | None:
    """The axes in which a frame is opposite to the declared one, "" if none; None if its axes have other places."""
    places = _directions(frame)
    if [axis for axis, _ in places] != [0, 1, 2]:
        return None
    return "".join(name for name, (_, sign) in zip(AXES, places, strict=True) if sign < 0)


def _directions(frame: str) -> list[tuple[int, int]]:
    return [_DIRECTIONS[word] for word in _words(frame)]


def _words(frame: str) -> list[str]:
    """The direction of x, y and z."""
    found = {}
    for part in frame.split(","):
        match = _AXIS.fullmatch(part.strip())
        if match is None or match[1].lower() in found:
            raise ValueError(f"{part.strip()!r} is no axis of a frame, or comes twice; {_EXPECTED}")
        word = match[2].lower()
        found[match[1].lower()] = _SHORT.get(word.split()[0], word)
    words = [found.get(axis) for axis in AXES]
    known = [word for word in words if word]
    if len(known) < len(AXES):
        raise ValueError(f"{frame!r} says {len(known)} of 3 axes; {_EXPECTED}")
    if len({_DIRECTIONS[word][0] for word in known}) < len(AXES):
        raise ValueError(f"{frame!r} has two axes along one line; {_EXPECTED}")
    return known
