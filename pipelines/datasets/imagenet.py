"""ImageNet-1k, and any folder of classes: SPLIT/CLASS/NAME.JPEG, where a class is a synset (n01440764) or any name."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from .layout import Found, Members, Sample, folder

_KINDS = {".jpeg": "jpg", ".jpg": "jpg", ".png": "png", ".webp": "webp"}


def imagenet(root: Path, split: str) -> Found:
    """The samples of a split. ValueError if no folder of a class has an image."""
    place = folder(root, split)
    images = [path for path in sorted(place.glob("*/*")) if path.suffix.lower() in _KINDS]
    if not images:
        raise ValueError(f"{place}: there is no image in a folder of its class (SPLIT/CLASS/NAME.JPEG)")
    classes = len({path.parent.name for path in images})
    # The same name may be in two classes.
    names = [path.stem for path in images]
    keys = names if len(set(names)) == len(names) else [f"{path.parent.name}-{path.stem}" for path in images]
    samples = [Sample(key.replace(".", "_"), partial(_read, path)) for key, path in zip(keys, images, strict=True)]
    return Found(samples, {"classes": "cls"}, [f"{classes} classes, by the names of their folders"])


def _read(path: Path) -> Members:
    return {_KINDS[path.suffix.lower()]: path.read_bytes(), "cls": path.parent.name.encode()}
