"""Weights of the hub that are kept beside a root: fetched once, for all nodes, which may have no way out.

WEIGHTS/ORG--NAME/COMMIT/{model.safetensors, ...}, files.json last, where WEIGHTS is ROOT/weights or `engine.weights`.
files.json names the files with their sizes and sums, and the patterns that they were chosen by. A node copies them into
its own Hugging Face cache, where all else finds them.
"""

from __future__ import annotations

import json
import logging
import os
import re
import secrets
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import xxhash

from ...infra import storage, sums
from ...infra.side_files import passed_over
from .base import Specialist
from .pretrained import Pretrained

logger = logging.getLogger(__name__)

FOLDER, FILES = "weights", "files.json"
BESIDE_ROOT = "root"  # what `engine.weights` says unless given
_COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True)
class Kept:
    """What files.json says: name -> (bytes, XXH3 sum), and the patterns of names that were fetched."""

    files: dict[str, tuple[int, str]]
    patterns: tuple[str, ...]


def place(root: str, asked: str | None, address: str | None) -> str:
    """The folder in which weights are kept, "" for none.

    Args:
        asked: `engine.weights`. address: of the cluster that the recipe names; one machine needs no copy.
    """
    if asked is None:
        return ""
    if asked != BESIDE_ROOT:
        return storage.absolute(asked)
    return storage.join(root, FOLDER) if address or not storage.is_local(root) else ""


def apply(weights: str, specialists: Iterable[Specialist]) -> None:
    """Let specialists copy from a folder what their node has not fetched yet.

    Args:
        weights: as `place` returns it.
    """
    for one in _of_hub(specialists) if weights else ():
        one.copy_from(_folder(weights, one))


def keep(weights: str, specialists: Iterable[Specialist]) -> None:
    """Fetch what the folder does not hold yet, and put it there. What cannot be fetched here is left to the nodes.

    OSError if the folder cannot be written.
    """
    for one in _of_hub(specialists) if weights else ():
        folder, kept = _folder(weights, one), read(_folder(weights, one))
        if kept is not None and set(one.patterns()) <= set(kept.patterns):
            continue
        try:
            here = one.folder()
        except ValueError as error:
            logger.warning("%s; the nodes try it by themselves", error)
            continue
        files = dict(kept.files) if kept else {}
        for name, path in _chosen(here, one.patterns()):
            found = path.stat().st_size, _sum(path)
            if files.get(name) != found:
                logger.info("%s of %s is copied into %s", name, one.weights, folder)
                storage.put_file(storage.join(folder, name), path)
                files[name] = found
        patterns = tuple(sorted({*one.patterns(), *(kept.patterns if kept else ())}))
        storage.put(storage.join(folder, FILES), _dumps(Kept(files, patterns)))


def fetch(one: Pretrained) -> bool:
    """Copy what is kept of a specialist's weights into this node's cache; whether it was there, whole.

    OSError if this machine cannot keep it.
    """
    kept = read(one.kept_in) if one.kept_in else None
    if kept is None or not set(one.patterns()) <= set(kept.patterns):
        return False
    snapshot = one.snapshot_folder()
    temporary = snapshot.with_name(f".fourmill-{secrets.token_hex(4)}")
    try:
        for name, (size, sum_) in kept.files.items():
            if (snapshot / name).exists() and (snapshot / name).stat().st_size == size:
                continue
            if not _copied(storage.join(one.kept_in, name), temporary / name, sum_):
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


def _of_hub(specialists: Iterable[Specialist]) -> Iterator[Pretrained]:
    """Those whose weights come from the hub, at a commit that is known."""
    for one in specialists:
        if isinstance(one, Pretrained) and not one.is_local and _COMMIT.fullmatch(one.read_revision or ""):
            yield one


def _folder(weights: str, one: Pretrained) -> str:
    return storage.join(weights, one.weights.replace("/", "--"), str(one.read_revision))


def _chosen(folder: Path, patterns: Iterable[str]) -> Iterator[tuple[str, Path]]:
    """Name and path of the files of a snapshot that patterns choose, as the hub's own download chooses them."""
    from huggingface_hub.utils import filter_repo_objects

    paths = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
    for name in filter_repo_objects(sorted(paths), allow_patterns=list(patterns)):
        yield name, paths[name]


def _sum(path: Path) -> str:
    return sums.of_url(str(path))


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


def _dumps(kept: Kept) -> bytes:
    return (json.dumps(sums.sealed(asdict(kept)), indent=1) + "\n").encode()
