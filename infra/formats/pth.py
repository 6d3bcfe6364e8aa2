"""PyTorch's own files (.pth), which are pickles: read without running any code of theirs.

`torch.load(weights_only=True)` reads tensors and plain values; of classes the one that apple/ml-4m's training keeps its
options in, `argparse.Namespace`, is allowed besides, and no other. Tensors are mapped from the file where its format
lets: the state of the optimizer, two thirds of a checkpoint, is never read.
"""

from __future__ import annotations

import argparse
import pickle
import re
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from .. import scratch, storage

ENDINGS = (".pth", ".pt", ".bin", ".ckpt")
LFS = b"version https://git-lfs"  # how the file begins that git leaves in place of a large one
DOWNLOADS = (".incomplete", ".part", ".crdownload", ".aria2")  # how names of downloads end until they are whole
# Some of these endings other files have as well.
UNFINISHED = (*DOWNLOADS, ".partial", ".download", ".tmp")
_FORBIDDEN = re.compile(r"(?:GLOBAL|class|global:?) ([\w.]+\.\w+)")


@contextmanager
def opened(url: str) -> Iterator[dict[str, Any]]:
    """The object that a .pth file holds; its tensors are valid within the context.

    Args:
        url: of a file here, or of another storage: then it is copied to this machine first.

    Raises:
        ValueError: it is no checkpoint, or none whole, or asks for other classes; says what it is and what to do.
    """
    if storage.is_local(url):
        yield read(storage.local_path(url))
        return
    with scratch.folder() as folder:
        copy = Path(folder, "checkpoint.pth")
        with open(copy, "wb") as file:
            for block in storage.blocks(url):
                file.write(block)
        try:
            yield read(copy)
        except ValueError as error:
            raise ValueError(str(error).replace(str(copy), url)) from error


def tensors(path: Path) -> dict[str, Any]:
    """The tensors of a local file by name: of its `model` or `state_dict`, or at its top. ValueError as of `opened`."""
    import torch

    content = read(path)
    held = next((content[key] for key in ("model", "state_dict") if isinstance(content.get(key), Mapping)), content)
    return {str(name): value for name, value in held.items() if isinstance(value, torch.Tensor)}


def read(path: Path) -> dict[str, Any]:
    """See `opened`, of a local file."""
    import torch

    check(path)
    is_zip = zipfile.is_zipfile(path)
    try:
        with torch.serialization.safe_globals([argparse.Namespace]):
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=is_zip)
    except pickle.UnpicklingError as error:
        raise ValueError(_refused(path, str(error))) from None
    except (RuntimeError, EOFError, ValueError, KeyError, IndexError, AttributeError, TypeError, OSError) as error:
        if isinstance(error, OSError) and not isinstance(error, EOFError) and error.errno is not None:
            raise
        first = str(error).partition("\n")[0] or type(error).__name__
        raise ValueError(
            f"{path}: damaged, cut off, or no checkpoint of PyTorch ({first}); copy or download it again"
        ) from None
    if not isinstance(content, Mapping):
        raise ValueError(f"{path}: it holds a {type(content).__name__}; expected a checkpoint with `model` and `args`")
    return dict(content)


def alone(place: str | Path, beside: str) -> Path | None:
    """The file of PyTorch's that a local place is, or that a folder holds alone; None if there is none, or `beside`.

    Args:
        beside: the name of a file that says more, and is read in its place.
    """
    path = Path(place).expanduser()
    if path.is_file():
        return path if path.suffix in ENDINGS else None
    if not path.is_dir() or (path / beside).is_file():
        return None
    held = sorted(file for file in path.iterdir() if file.suffix in ENDINGS and file.is_file())
    return held[0] if len(held) == 1 else None


def check(path: Path) -> None:
    """ValueError if a file says by its name or its first bytes that it is no checkpoint, or none whole."""
    size = path.stat().st_size
    with open(path, "rb") as file:
        head = file.read(1024)
    if path.suffix in UNFINISHED:
        raise ValueError(f"{path}: a download that is not finished; finish it, or download the file again")
    if not size:
        raise ValueError(f"{path}: the file is empty; copy or download it again")
    if head.startswith(LFS):
        meant = re.search(rb"size (\d+)", head)
        whole = f" for a file of {int(meant[1]):,} bytes" if meant else ""
        raise ValueError(f"{path}: only a pointer of Git LFS{whole}; run `git lfs pull` where it was cloned")
    if head.lstrip().lower().startswith((b"<!doctype", b"<html", b"<?xml")):
        raise ValueError(f"{path}: a web page and no checkpoint: the address wants a login, or is wrong")
    if head.startswith(b"PK") and not zipfile.is_zipfile(path):
        raise ValueError(f"{path}: cut off after {size:,} bytes, its end is missing; download it again")


def _refused(path: Path, text: str) -> str:
    named = sorted({name for name in _FORBIDDEN.findall(text) if name != "argparse.Namespace"})
    if not named:
        # The rest of PyTorch's text advises to run whatever the file says.
        why = re.search(r"WeightsUnpickler error: ([^\n]+)", text)
        return f"{path}: no checkpoint of PyTorch{f' ({why[1].strip()})' if why else ''}; copy or download it again"
    return (
        f"{path}: besides tensors and options it holds {', '.join(named)}, and to load that would run code of the "
        "file's; nothing was loaded. Where it comes from a place that you trust, save its tensors and plain options "
        "alone: torch.save({'model': state_dict, 'args': args}, ...)"
    )
