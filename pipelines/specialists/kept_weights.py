"""A copy of weights of the hub in a folder, local or in a bucket, with a list of its files and their sums.

FOLDER/{model.safetensors, ...}, and last files.json: the files with their sizes and sums, and the patterns of names by
which they were chosen. A folder without it is not whole.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
from collections.abc import Collection
from dataclasses import asdict, dataclass
from pathlib import Path

import xxhash

from ...infra import storage, sums
from ...infra.side_files import passed_over

FILES = "files.json"


@dataclass(frozen=True)
class Kept:
    """What files.json says: name -> (bytes, XXH3 sum), and the patterns of names that were fetched."""

    files: dict[str, tuple[int, str]]
    patterns: tuple[str, ...]


def fetch(folder: str, patterns: Collection[str], snapshot: Path) -> bool:
    """Copy what a folder holds into a folder of this machine; whether it was there, whole.

    Args:
        patterns: of the files that are needed.
        snapshot: files that are there already, of the right size, stay.

    Raises:
        OSError: this machine cannot keep it.
    """
    kept = read(folder)
    if kept is None or not set(patterns) <= set(kept.patterns):
        return False
    temporary = snapshot.with_name(f".fourmill-{secrets.token_hex(4)}")
    try:
        for name, (size, sum_) in kept.files.items():
            if (snapshot / name).exists() and (snapshot / name).stat().st_size == size:
                continue
            if not _copied(storage.join(folder, name), temporary / name, sum_):
                return False
        for path in sorted(path for path in temporary.rglob("*") if path.is_file()):
            target = snapshot / path.relative_to(temporary)
            target.parent.mkdir(parents=True, exist_ok=True)
            os.replace(path, target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return True


def read(folder: str) -> Kept | None:
    """What a folder holds; None if it is not whole."""
    url = storage.join(folder, FILES)
    try:
        raw = sums.opened(json.loads(storage.read_bytes(url)))
        files = {name: (int(size), str(sum_)) for name, (size, sum_) in raw["files"].items()}
        if any(Path(name).is_absolute() or ".." in Path(name).parts for name in files):
            raise ValueError("it names files outside of its folder")
        return Kept(files, tuple(raw["patterns"]))
    except FileNotFoundError:
        return None
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        passed_over(url, error)
        return None


def _copied(url: str, path: Path, sum_: str) -> bool:
    """Copy a file; whether it was what it should be."""
    path.parent.mkdir(parents=True, exist_ok=True)
    digest = xxhash.xxh3_128()
    try:
        with open(path, "wb") as file:
            for block in storage.blocks(url):
                digest.update(block)
                file.write(block)
    except FileNotFoundError as error:
        passed_over(url, error)
        return False
    if digest.hexdigest() != sum_:
        passed_over(url, ValueError("its sum is another one"))
        return False
    return True


def dumps(kept: Kept) -> bytes:
    return (json.dumps(sums.sealed(asdict(kept)), indent=1) + "\n").encode()
