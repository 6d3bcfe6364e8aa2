"""What a job is sent: fourmill as its wheel holds it, without what it depends on, and modules of the user's own.

A wheel in Ray's `py_modules` is installed with pip on every node, with 6.5 GB of dependencies. So its content is laid
out in the folder of the job: nodes have the dependencies, and `ready` compares them with what fourmill asks for.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import shutil
import sys
import sysconfig
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

ROOT = Path(__file__).parents[2]  # the package, which is the root of a checkout as well
MAX_BYTES = 100 * 2**20  # of all that is sent: the head keeps it in memory
NO_SOURCES = frozenset({"__pycache__", ".git", ".venv"})


def lay_out(folder: Path, sent: Mapping[str, Path] | None = None) -> None:
    """Put fourmill, its metadata and what else is sent into an empty folder.

    Args:
        sent: files and folders, by the path that they get below `folder`.

    Raises:
        ValueError: all of it is too large.
    """
    for name, path in files():
        _copy(path, folder / "fourmill" / name)
    try:
        metadata = importlib.metadata.distribution("fourmill")
        text = metadata.read_text("METADATA")
    except importlib.metadata.PackageNotFoundError:
        text = None
    if text:  # so that nodes know what fourmill depends on
        about = folder / f"fourmill-{metadata.version}.dist-info" / "METADATA"
        about.parent.mkdir()
        about.write_text(text, encoding="utf-8")
    for name, path in (sent or {}).items():
        _copy(path, folder / name)
    sizes = {path: path.stat().st_size for path in folder.rglob("*") if path.is_file()}
    if (total := sum(sizes.values())) > MAX_BYTES:
        largest = max(sizes, key=lambda path: sizes[path])
        raise ValueError(
            f"{total / 2**20:.0f} MiB would be sent with the job, {MAX_BYTES // 2**20} at most; the largest file is "
            f"{largest.relative_to(folder)} with {sizes[largest] / 2**20:.0f} MiB: put it where every node can read it"
        )


def files() -> Iterator[tuple[str, Path]]:
    """What the wheel holds of fourmill: (path below the package, file)."""
    if not (ROOT / "pyproject.toml").exists():  # installed from a wheel
        for path in sorted(ROOT.rglob("*")):
            if path.is_file() and path.suffix != ".pyc":
                yield str(path.relative_to(ROOT)), path
        return
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]
    for package in listed["packages"]:
        folder = ROOT.joinpath(*package.split(".")[1:])
        for pattern in ("*.py", *listed["package-data"].get(package, ())):
            for path in sorted(folder.glob(pattern)):
                if path.is_file():
                    yield str(path.relative_to(ROOT)), path


def modules(names: Iterable[str]) -> tuple[dict[str, Path], list[str]]:
    """Where modules of the user's own lie, with those modules beside them that they have imported.

    Args:
        names: of modules that can be imported, or "module:Class"; "package.module" brings the whole package.

    Returns:
        Files and folders by their names, and the modules that are installed packages: nodes must have them.
    """
    found: dict[str, Path] = {}
    installed: list[str] = []
    for name in dict.fromkeys(name.partition(":")[0].partition(".")[0] for name in names):
        path = _source(name)
        if path is None:
            installed.append(name)
            continue
        found[path.name] = path
        for other in {loaded.partition(".")[0] for loaded in list(sys.modules)}:
            beside = None if other == "fourmill" else _loaded_from(other)
            if beside is not None and beside.parent == path.parent:
                found[beside.name] = beside
    return found, installed


def _source(name: str) -> Path | None:
    """The file or folder of a module, None if it is installed."""
    spec = importlib.util.find_spec(name)
    if spec is None:
        raise ValueError(f"modules: there is no {name!r}; set PYTHONPATH to the folder that holds it")
    places = list(spec.submodule_search_locations or ([spec.origin] if spec.origin else []))
    return _own(places[0]) if places else None


def _loaded_from(name: str) -> Path | None:
    module = sys.modules.get(name)
    places = list(getattr(module, "__path__", None) or [getattr(module, "__file__", None) or ""])
    return _own(places[0]) if places and places[0] else None


def _own(place: str) -> Path | None:
    """The path of a module unless it belongs to Python or to a package that is installed."""
    path = Path(place).absolute()
    known = {Path(sysconfig.get_path(name)) for name in ("stdlib", "platstdlib", "purelib", "platlib")}
    return None if path.suffix not in ("", ".py") or known & set(path.parents) else path


def below(path: Path) -> Iterator[Path]:
    """The files of a folder, or the file, without what Python and git keep beside sources."""
    for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
        if file.is_file() and file.suffix != ".pyc" and not NO_SOURCES & set(file.relative_to(path).parts):
            yield file


def _copy(path: Path, target: Path) -> None:
    for file in below(path):
        to = target / file.relative_to(path)
        to.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, to)
