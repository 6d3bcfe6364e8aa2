"""Records that a person gives: captions, boxes, people, palettes, metadata; instances are in polygons.py.

Decisions:
- Coordinates are shares of the picture if none is above 1, and pixels otherwise. Pixels need the picture's size: that
  of the sample's picture, or `{"size": [width, height], "boxes": [...]}`.
- A box that leaves the picture, a class or a field that nothing knows is refused: it would be cut or dropped without a
  word further on.
"""

from __future__ import annotations

import difflib
import json
import math
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import cv2
import numpy as np

from ...infra.explain import nearest
from ...modalities import LABELS
from ...tokenize.text import smpl
from ...tokenize.text.sentences import MAX_PALETTE, METADATA_TYPES, folded
from .given import TEXT_FILES, Given, Mistake, file_json, file_text, is_path

Frame = tuple[int, int] | None

_BOX = '{"class": "dog", "box": [x0, y0, x1, y1]}'


def read(label: str, given: Any, frame: Frame, classes: tuple[str, ...]) -> Given:
    """A record, as of `labels.read`."""
    if label == "det":
        return _boxes(given, frame, classes)
    reader = _READERS.get(label)
    if reader is None:  # a label that a user has declared
        return Given(given if is_path(given) and not is_json(given) else content(given))
    return reader(given, frame)


def content(given: Any) -> Any:
    """What JSON says: of a .json file, of a text that is JSON itself, or a value in memory."""
    if not is_path(given):
        return given
    text = os.fspath(given)
    if text.lstrip()[:1] in ("[", "{"):
        try:
            return json.loads(text)
        except ValueError as error:
            raise Mistake(f"the text is no JSON ({error}); correct it, or give a .json file") from None
    return file_json(given)


def is_json(given: Any) -> bool:
    """Whether a text is JSON itself, or the path of some."""
    return os.fspath(given).endswith(".json") or os.fspath(given).lstrip()[:1] in ("[", "{")


def entries(given: Any, names: Sequence[str], frame: Frame) -> tuple[list[Any], Frame, Frame]:
    """The list in a record, the frame that its pixels count in, and the frame that it says itself.

    Args:
        names: under which a mapping may hold the list, beside "size".
        frame: of the sample's picture.
    """
    value = content(given)
    own: Frame = None
    if isinstance(value, Mapping) and (held := [name for name in names if name in value]):
        if unknown := sorted(set(value) - {"size", held[0]}):
            raise Mistake(f'got the field {unknown[0]!r}; expected {held[0]!r} and "size": [width, height]')
        own, value = _size(value["size"]) if "size" in value else None, value[held[0]]
    elif isinstance(value, Mapping):
        value = [value]
    if not isinstance(value, Sequence) or isinstance(value, str):
        raise Mistake(f"got {short(value)}; expected a list")
    return list(value), own or frame, own


def _size(value: Any) -> tuple[int, int]:
    whole = isinstance(value, Sequence) and len(value) == 2 and all(isinstance(s, int) and s > 0 for s in value)
    if not whole:
        raise Mistake(f'got "size": {short(value)}; expected [width, height] in pixels')
    return int(value[0]), int(value[1])


def shares(numbers: Sequence[float], frame: Frame, what: str) -> list[float]:
    """Coordinates x, y, x, y, ... as shares of the picture."""
    if max(numbers) <= 1:
        if min(numbers) < 0:
            raise Mistake(f"{what} leaves the picture; give coordinates in it, shares of 0 to 1 or pixels")
        return [float(c) for c in numbers]
    if frame is None:
        raise Mistake(
            f"{what} is in pixels of a picture whose size is not known; give rgb, too, or shares of 0 to 1, or "
            '{"size": [width, height], ...}'
        )
    width, height = frame
    sides = (width, height) * (len(numbers) // 2)
    if min(numbers) < 0 or any(c > side for c, side in zip(numbers, sides, strict=True)):
        raise Mistake(f"{what} leaves the picture of {width} x {height} px; give coordinates in it")
    return [c / side for c, side in zip(numbers, sides, strict=True)]


def numbers_of(value: Any, what: str, counts: Sequence[int] = ()) -> list[float]:
    """Finite numbers of a list, nested or not; Mistake unless there are as many as one of `counts` says."""
    try:
        flat = np.asarray(value, np.float64).reshape(-1)
    except (ValueError, TypeError):
        flat = np.array([math.nan])
    if not np.isfinite(flat).all() or (counts and len(flat) not in counts) or not len(flat):
        expected = " or ".join(map(str, counts)) + " numbers" if counts else "numbers"
        raise Mistake(f"{what}: got {short(value)}; expected {expected}")
    return flat.tolist()


def box(value: Any, frame: Frame, what: str) -> list[float]:
    """A box [x0, y0, x1, y1] as shares of the picture."""
    corners = numbers_of(value, what, (4,))
    x0, y0, x1, y1 = corners
    if x0 >= x1 or y0 >= y1:
        raise Mistake(f"{what}: got {short(value)}; expected x0 below x1 and y0 below y1: left, top, right, bottom")
    if max(corners) > 1 and (x1 - x0 < 1 or y1 - y0 < 1):
        raise Mistake(f"{what}: {short(value)} is less than a pixel; give shares of 0 to 1, none above 1, or pixels")
    return shares(corners, frame, f"{what} {short(value)}")


def _boxes(given: Any, frame: Frame, classes: tuple[str, ...]) -> Given:
    listed, frame, own = entries(given, ("boxes", "det"), frame)
    names = {folded(name): name for name in classes}
    boxes = []
    for number, one in enumerate(listed, 1):
        what = f"box {number}"
        if not isinstance(one, Mapping) or "box" not in one or not {"class", "label"} & set(one):
            raise Mistake(f"{what}: got {short(one)}; expected {_BOX}")
        said = " ".join(str(one.get("class", one.get("label"))).split())
        if folded(said) not in names:
            raise Mistake(f"{what}: the vocabulary has no class {said!r}{_near(said, classes)}")
        score = numbers_of(one.get("score", 1.0), f"{what}, score", (1,))[0]
        boxes.append({"box": box(one["box"], frame, what), "label": names[folded(said)], "score": score})
    return Given(boxes, own)


def _near(name: str, classes: Sequence[str]) -> str:
    """The class that is meant, or some of those that there are."""
    near = difflib.get_close_matches(name, classes, n=1, cutoff=0.5)
    return f"; did you mean {near[0]!r}?" if near else f"; expected one of its {len(classes)}, {', '.join(classes[:8])}"


def _people(given: Any, frame: Frame) -> Given:
    listed, frame, own = entries(given, ("people", "humans", "human_poses"), frame)
    return Given([_person(one, frame, f"person {number}") for number, one in enumerate(listed, 1)], own)


def _person(one: Any, frame: Frame, what: str) -> dict[str, Any]:
    needed = ("box", "global_orient", "body_pose", "camera")
    if not isinstance(one, Mapping) or (missing := [name for name in needed if name not in one]):
        lacks = f"it lacks {', '.join(missing)}" if isinstance(one, Mapping) else f"got {short(one)}"
        raise Mistake(f"{what}: {lacks}; expected SMPL's numbers: {', '.join(needed)}, and betas if you have them")
    return {
        "box": box(one["box"], frame, f"{what}, box"),
        "global_orient": _rotations(one["global_orient"], f"{what}, global_orient", 1),
        "body_pose": _rotations(one["body_pose"], f"{what}, body_pose", smpl.BODY_JOINTS),
        "betas": numbers_of(one.get("betas", [0.0] * smpl.SIZES["betas"]), f"{what}, betas", (smpl.SIZES["betas"],)),
        "camera": numbers_of(one["camera"], f"{what}, camera", (smpl.SIZES["camera"],)),
        "score": float(one.get("score", 1.0)),
    }


def _rotations(value: Any, what: str, joints: int) -> list[float]:
    """Row-major matrices, or axis-angle vectors, as SMPL's files have them, as matrices."""
    numbers = numbers_of(value, what, (9 * joints, 3 * joints))
    if len(numbers) == 9 * joints:
        return numbers
    vectors = np.reshape(numbers, (joints, 3))
    return [float(x) for vector in vectors for x in cv2.Rodrigues(vector)[0].reshape(-1)]


def _palette(given: Any, frame: Frame) -> Given:
    """One palette, or several as a label has them."""
    if is_path(given) and not is_json(given):
        text = file_text(given) if os.fspath(given).endswith(TEXT_FILES) else os.fspath(given)
        value: Any = [part for part in text.replace("\n", ",").replace(" ", ",").split(",") if part.strip()]
    else:
        value = content(given)
    if not isinstance(value, Sequence) or isinstance(value, str) or not value:
        raise Mistake(f"got {short(value)}; expected colours, such as '#ff0000,#00ff00' or [[255, 0, 0], [0, 255, 0]]")
    several = all(isinstance(one, Sequence) and one and not isinstance(one[0], int | float) for one in value)
    palettes = value if several and not any(isinstance(one, str) for one in value) else [value]
    return Given([_colours(palette) for palette in palettes])


def _colours(palette: Sequence[Any]) -> list[list[int]]:
    if not 1 <= len(palette) <= MAX_PALETTE:
        raise Mistake(f"got {len(palette)} colours; expected 1 to {MAX_PALETTE}")
    return [_colour(colour) for colour in palette]


def _colour(colour: Any) -> list[int]:
    from PIL import ImageColor

    if isinstance(colour, str):
        try:
            return list(ImageColor.getrgb(colour.strip())[:3])
        except ValueError:
            raise Mistake(f"got the colour {colour!r}; expected #rrggbb, a name such as red, or [r, g, b]") from None
    numbers = numbers_of(colour, "colour", (3,))
    if not all(number == int(number) and 0 <= number <= 255 for number in numbers):
        raise Mistake(f"got the colour {short(colour)}; expected whole numbers [r, g, b] in 0..255")
    return [int(number) for number in numbers]


def _metadata(given: Any, frame: Frame) -> Given:
    if is_path(given) and not is_json(given):
        text = file_text(given) if os.fspath(given).endswith(TEXT_FILES) else os.fspath(given)
        pairs = [part.partition("=") for part in text.replace("\n", ",").split(",") if part.strip()]
        if wrong := [name for name, equals, _ in pairs if not equals]:
            raise Mistake(f"got {wrong[0].strip()!r}; expected name=value, such as brightness=120,n_humans=2")
        value: Any = {name.strip(): text.strip() for name, _, text in pairs}
    else:
        value = content(given)
    if not isinstance(value, Mapping) or not value:
        raise Mistake(f"got {short(value)}; expected names with numbers, such as brightness=120,n_humans=2")
    return Given({str(name): _metadatum(str(name), number) for name, number in value.items()})


def _metadatum(name: str, value: Any) -> float:
    if name not in METADATA_TYPES:
        raise Mistake(f"there is no metadata {name!r}{nearest(name, METADATA_TYPES)}")
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise Mistake(f"{name}: got {short(value)}; expected a number: {METADATA_TYPES[name].summary}")
    return int(number) if number == int(number) else number


def _caption(given: Any, frame: Frame) -> Given:
    if not is_path(given):
        raise Mistake(f"got {short(given)}; expected a text, or a .txt file")
    text = os.fspath(given)
    if text.endswith(".json"):
        return _caption_of(content(given))
    text = file_text(given) if text.endswith(TEXT_FILES) else text
    return _caption_of(text)


def _caption_of(text: Any) -> Given:
    if not isinstance(text, str):
        raise Mistake(f"got {short(text)}; expected a text")
    if not text.strip():
        raise Mistake("there is no word in it; write one, or leave it out")
    return Given(text)


_READERS: dict[str, Callable[[Any, Frame], Given]] = {
    "caption": _caption,
    "human_poses": _people,
    "color_palette": _palette,
    "metadata": _metadata,
}
assert set(_READERS) < set(LABELS)


def short(value: Any) -> str:
    """A value as messages quote it."""
    try:
        text = json.dumps(value, ensure_ascii=False)
    except (TypeError, ValueError):
        text = str(value)
    return text if len(text) <= 80 else text[:77] + "..."
