"""The root that the first release made, tests/roots/e78cebb, as a copy that may be changed."""

from __future__ import annotations

import shutil
from pathlib import Path

FIRST = Path(__file__).parents[2] / "roots" / "e78cebb"


def copy(folder: Path) -> Path:
    """FOLDER/first with recipe.yaml (its paths are relative), shards/ and out/."""
    return Path(shutil.copytree(FIRST, folder / "first"))
