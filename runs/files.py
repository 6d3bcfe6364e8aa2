"""Labels as files that a person can open, in a folder that holds nothing else.

Pictures can be given as inputs again: classes are an indexed PNG of ids, depth is 16-bit grey, dark where it is near.
"""

from __future__ import annotations

import io
import json
import os
import tempfile
from collections.abc import Iterator
from typing import Any

import numpy as np

from ..infra import storage
from ..modalities import LABELS, Form
from ..pipelines.images import encode_png
from ..tokenize.id_colors import class_table
from ..tokenize.labels import encode_array

SETTINGS = "settings.json"
MADE_BY = "fourmill generate"  # what made a folder, in its settings


def check(folder: str) -> set[str]:
    """The files of an earlier generation in a folder, which may be replaced. ValueError if it holds others."""
    held = set(_files_in(folder))
    if not held:
        check_writable(folder)
        return set()
    own: set[str] = set()
    if SETTINGS in held:
        try:
            about = json.loads(storage.read_bytes(storage.join(folder, SETTINGS)))
            own = {*about["files"], SETTINGS} if about.get("made_by") == MADE_BY else set()
        except (ValueError, KeyError, AttributeError, TypeError):
            own = set()
    # Of another storage than this machine's only the names at the top are listed.
    known = own if storage.is_local(folder) else {name.partition("/")[0] for name in own}
    if others := sorted(held - known):
        raise ValueError(
            f"--out {folder} holds files that `fourmill generate` has not written there ({', '.join(others[:3])}); "
            "name a new or an empty folder"
        )
    return own - {SETTINGS}


def check_writable(folder: str) -> None:
    """ValueError if a new local folder cannot be made; better known before minutes of generation."""
    if not storage.is_local(folder):
        return
    path = storage.local_path(folder)
    if path.is_file():
        raise ValueError(f"--out {folder} is a file; name a folder, which may be new")
    above = next(one for one in (path, *path.resolve().parents) if one.is_dir())
    try:
        os.rmdir(tempfile.mkdtemp(prefix=storage.TEMPORARY_PREFIX, dir=above))
    except OSError as error:
        raise ValueError(f"--out {folder}: cannot write in {above}: {error.strerror}; name another folder") from None


def _files_in(folder: str) -> Iterator[str]:
    """Every file below a local folder; of another storage the names directly in it."""
    if not storage.is_local(folder):
        yield from storage.list_names(folder)
        return
    path = storage.local_path(folder)
    for file in path.rglob("*"):
        if not file.is_dir():
            yield file.relative_to(path).as_posix()


def files_of(label: str, value: Any) -> dict[str, bytes]:
    """A label as files: suffix -> content."""
    form = LABELS[label].form
    if form.is_record:
        if isinstance(value, str):
            return {"txt": (value + "\n").encode("utf-8", "replace")}
        return {"json": (json.dumps(value, indent=1, ensure_ascii=False, default=float) + "\n").encode()}
    value = np.asarray(value)
    if form in (Form.COLORS, Form.EDGES):
        return {"png": encode_png(value)}
    if form is Form.CLASSES:
        return {"png": _indexed(value)}
    if form in (Form.RASTER, Form.SERIES, Form.NUMBERS):  # metres and reflectances need more than float16 keeps
        return {"npy": encode_array(value.astype(np.float32))}
    arrays = {"npy": encode_array(value.astype(np.float16))}
    if form is Form.DEPTH:
        return arrays | {"png": encode_png(np.rint(value.astype(np.float32).clip(0, 1) * 65_535).astype(np.uint16))}
    if form is Form.NORMALS:
        return arrays | {
            "png": encode_png(np.rint((value.astype(np.float32).clip(-1, 1) + 1) * 127.5).astype(np.uint8))
        }
    return arrays


def _indexed(classes: np.ndarray) -> bytes:
    """Class ids as a PNG that viewers show in the report's colours."""
    from PIL import Image

    picture = Image.fromarray(classes.astype(np.uint8), "L").convert("P")
    picture.putdata(classes.astype(np.uint8).reshape(-1))
    picture.putpalette(class_table().reshape(-1).tolist())
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return buffer.getvalue()
