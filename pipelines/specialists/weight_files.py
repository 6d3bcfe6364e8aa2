"""Files of weights on this machine: which there are, and what is wrong with them before anything is loaded.

Only names, sizes and the headers of safetensors are read.
"""

from __future__ import annotations

import fnmatch
import hashlib
import json
import os
import re
import tempfile
from pathlib import Path

from ...infra import storage
from ...infra.formats import header as headers
from ...infra.formats.pth import DOWNLOADS, LFS

_SMALL = 2**20  # bytes: sums of larger files are kept
PICKLED = ("*.bin", "*.pt", "*.pth", "*.ckpt")
_PART = re.compile(r"(.+)-(\d{1,6})-of-(\d{1,6})\.safetensors")


def is_pickle(name: str) -> bool:
    return any(fnmatch.fnmatch(name, pattern) for pattern in PICKLED)


def listed(path: Path) -> list[Path]:
    """The files of weights at a path: itself, or the safetensors of a folder, or without these its pickles."""
    if path.is_file():
        return [path]
    safe = sorted(path.rglob("*.safetensors"))
    return safe or sorted(file for pattern in PICKLED for file in path.rglob(pattern))


def refused(file: str, label: str) -> str:
    """Why a pickle is not read, and what can be done.

    Args:
        label: whose specialist could read it, "" if nothing else could.
    """
    trust = f", or say labels.specialists.{label}.allow_pickle: true if you trust where it comes from" if label else ""
    return f"{file} is a pickle, which can run any code when it is read; convert it to safetensors{trust}"


def problems(path: Path, label: str, allow_pickle: bool) -> list[str]:
    """What is wrong with the weights at a path, each with what to do; [] if nothing is.

    Args:
        label: whose specialist reads them, for the messages; "" if none does.
        allow_pickle: that specialist's option.
    """
    files = listed(path)
    found = [one for file in files if (one := _problem(file, label, allow_pickle))] + _absent(path)
    if not files:
        fetched = f" (of a hub repository, pickles are fetched only with labels.specialists.{label}.allow_pickle: true)"
        found.append(f"{path} holds no weights; expected .safetensors{fetched if label else ''}")
    # What a download has left behind beside whole weights does no harm.
    return [
        f"{one} is the rest of a download that broke off; fetch it again" for one in _unfinished(path) if found
    ] + found


def _problem(file: Path, label: str, allow_pickle: bool) -> str:
    if _is_pointer(file):
        return f"{file} is a pointer of Git LFS in place of the weights; run `git lfs pull` in its folder"
    if is_pickle(file.name) and not allow_pickle:
        return refused(str(file), label)
    if file.suffix == ".safetensors" and not _is_whole(file):
        return f"{file} is cut short or broken ({file.stat().st_size} bytes); fetch it again"
    return ""


def _unfinished(path: Path) -> list[Path]:
    return sorted(file for ending in DOWNLOADS for file in path.rglob(f"*{ending}")) if path.is_dir() else []


def _is_pointer(file: Path) -> bool:
    with open(file, "rb") as stream:
        return stream.read(len(LFS)) == LFS


def _is_whole(file: Path) -> bool:
    """Whether a safetensors file is as long as its header says."""
    try:
        return bool(headers.of_url(str(file)).tensors)
    except ValueError:
        return False


def _absent(path: Path) -> list[str]:
    """Parts of the weights that an index, or the names of the others, ask for and that are not there."""
    if not path.is_dir():
        return []
    missing, asked = [], _numbered(path)
    for index in sorted(path.rglob("*.safetensors.index.json")):
        if index.with_name(index.name.removesuffix(".index.json")).is_file():
            continue  # all of it in one file, which counts
        try:
            named = {str(name) for name in json.loads(index.read_bytes())["weight_map"].values()}
        except (ValueError, TypeError, KeyError, AttributeError):
            missing.append(f"{index} is broken; fetch it again")
            continue
        asked.setdefault(index.parent, set()).update(named)
    for folder, names in asked.items():
        if lost := sorted(name for name in names if not (folder / name).is_file()):
            missing.append(
                f"{folder} lacks {len(lost)} of {len(names)} parts of its weights, {lost[0]} first; fetch them"
            )
    return missing


def _numbered(path: Path) -> dict[Path, set[str]]:
    """By folder, the names of all parts where one is called NAME-00001-of-00003.safetensors."""
    asked: dict[Path, set[str]] = {}
    for file in path.rglob("*-of-*.safetensors"):
        if parts := _PART.fullmatch(file.name):
            name, width, count = parts[1], len(parts[2]), int(parts[3])
            every = (f"{name}-{number:0{width}d}-of-{parts[3]}.safetensors" for number in range(1, count + 1))
            asked.setdefault(file.parent, set()).update(every)
    return asked


def digest(path: Path) -> str:
    """SHA-256 over the names and contents of a file, or of the files of a folder; of a single file its content alone.

    Large files are hashed once for each (path, size, time of change) on a machine.
    """
    if path.is_file():
        return file_digest(path)
    whole = hashlib.sha256()
    names = sorted(str(file.relative_to(path)) for file in path.rglob("*") if file.is_file())
    for name in names:
        if not re.search(r"(^|/)\.", name):  # hidden ones hold times and traces of downloads
            whole.update(json.dumps([name, file_digest(path / name)]).encode())
    return whole.hexdigest()


def file_digest(path: Path) -> str:
    stat = path.stat()
    key = hashlib.sha256(f"{path.resolve()}|{stat.st_size}|{stat.st_mtime_ns}|{stat.st_ino}".encode()).hexdigest()
    note = Path(tempfile.gettempdir()) / f"fourmill-{os.getuid()}" / "digests" / key
    if stat.st_size > _SMALL and note.exists() and len(text := note.read_text()) == 64:
        return text
    with open(path, "rb") as stream:
        found = hashlib.file_digest(stream, "sha256").hexdigest()
    if stat.st_size > _SMALL:
        note.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        storage.put(str(note), found.encode())
    return found
