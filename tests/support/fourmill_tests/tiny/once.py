"""Tiny models that several tests of a file use, each made once."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path


def once(root: Path, makers: Mapping[str, Callable[[Path], Path]]) -> Callable[[str], str]:
    """A function of a maker's name: the path of its model below `root`, made at the first call."""

    def make(name: str) -> str:
        path = root / name
        return str(path if path.exists() else makers[name](path))

    return make
