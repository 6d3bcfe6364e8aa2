"""Folders in the layout of apple/ml-4m, and imports of them."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import numpy as np
from fourmill_tests import data, runs

Members = dict[str, bytes]


def npy(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def write(folder: Path, name: str, shard: str, members: Members) -> None:
    (folder / name).mkdir(parents=True, exist_ok=True)
    (folder / name / f"{shard}.tar").write_bytes(data.tar(list(members.items())))


def members(path: Path) -> list[tuple[str, bytes]]:
    with tarfile.open(path) as archive:
        return [(one.name, archive.extractfile(one).read()) for one in archive]  # type: ignore[union-attr]


def bring(place: Path, root: Path, *more: str, status: int = 0) -> str:
    code, out, err = runs.command("import", str(place), "--from", "ml4m", "--root", str(root), *more)
    assert code == status, out + err
    return " ".join((out + err).split())
