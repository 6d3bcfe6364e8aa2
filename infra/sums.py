"""Sums of the files of a folder: a model or tokenizer says itself whether its files are those that were written.

FOLDER/sums.json holds an XXH3 sum of each file, at the speed of memory, and one of itself. Folders of older releases,
and published ones, have none, and are taken as they are.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import xxhash

from . import storage
from .fingerprint import fingerprint

FILE = storage.SUMS


def of(data: bytes | bytearray | memoryview) -> str:
    """32 hexadecimal digits."""
    return xxhash.xxh3_128_hexdigest(data)


def of_url(url: str) -> str:
    """The sum of a file, read in pieces."""
    digest = xxhash.xxh3_128()
    for block in storage.blocks(url):
        digest.update(block)
    return digest.hexdigest()


def sealed(content: Mapping[str, Any]) -> dict[str, Any]:
    """A JSON object with a sum of itself, as `opened` expects it."""
    plain = json.loads(json.dumps(content))  # as it will be read
    return plain | {"sum": fingerprint(plain)}


def opened(content: dict[str, Any]) -> dict[str, Any]:
    """The inverse; content without a sum, of an older release, as it is. ValueError if the sum is another one."""
    content = dict(content)
    if "sum" in content and content.pop("sum") != fingerprint(content):
        raise ValueError("its sum is another one")
    return content


def text(content: Mapping[str, Any]) -> bytes:
    """A file of a JSON object with a sum of itself."""
    return (json.dumps(sealed(content), indent=1) + "\n").encode()


def whole(data: bytes) -> dict[str, Any]:
    """The inverse of `text`. ValueError if any byte is another one."""
    raw = json.loads(data)
    content = opened(raw) if isinstance(raw, dict) else {}
    if text(content) != data:
        raise ValueError("it is not what was written")
    return content


def dumps(files: Mapping[str, str]) -> bytes:
    """The content of `FILE`, of files and their sums."""
    return text({"files": dict(files)})


def read(folder: str) -> dict[str, str]:
    """File -> sum, {} if the folder has no sums. ValueError if they are damaged."""
    url = storage.join(folder, FILE)
    try:
        content = json.loads(storage.read_bytes(url))
        if "sum" not in content:
            raise ValueError("it has no sum of itself")
        return dict(opened(content)["files"])
    except FileNotFoundError:
        return {}
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(f"{url} is damaged ({error})") from None


def damage(folder: str, names: Collection[str] | None = None) -> list[str]:
    """A sentence for each file of a folder that is not the one that was written; [] if all are, or nothing is known.

    Args:
        names: of the files to look at, all if None.
    """
    try:
        sums = read(folder)
    except ValueError as error:
        return [str(error)]
    wrong = []
    for name, expected in sums.items():
        if names is not None and name not in names:
            continue
        url = storage.join(folder, name)
        try:
            if of_url(url) != expected:
                wrong.append(f"{url} is not the file that was written")
        except FileNotFoundError:
            wrong.append(f"{url} is missing")
    return wrong


def check(folder: str | Path, names: Collection[str]) -> None:
    """ValueError if one of these files of a folder is not the one that was written."""
    if wrong := damage(str(folder), names):
        raise ValueError(f"{'; '.join(wrong)}; copy or make it again (without {FILE}, a folder is taken as it is)")
