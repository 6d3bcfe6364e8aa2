"""A hook of mkdocs: lets mkdocstrings find the package.

mkdocstrings looks for a folder called fourmill with an `__init__.py` in each folder below it. The root of this
repository is the package, may have any name, and has one `__init__.py`: it reads a copy that is as it expects.
"""

from __future__ import annotations

import atexit
import shutil
import sys
import tempfile
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]


def on_startup(**_: object) -> None:
    """Called by mkdocs before its plugins."""
    folder = tempfile.mkdtemp()
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    packages = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    for package in packages:
        target = Path(folder, *package.split("."))
        target.mkdir(parents=True)
        for module in ROOT.joinpath(*package.split(".")[1:]).glob("*.py"):
            shutil.copy(module, target)
        (target / "__init__.py").touch()
    sys.path.insert(0, folder)
