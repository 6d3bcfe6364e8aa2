"""Weights of the hub that are kept beside a root: fetched once, for all nodes, which may have no way out.

WEIGHTS/ORG--NAME/COMMIT/{model.safetensors, ..., files.json}, where WEIGHTS is ROOT/weights or `engine.weights`
(kept_weights.py). A node copies them into its own Hugging Face cache, where all else finds them.
"""

from __future__ import annotations

import fnmatch
import logging
from collections.abc import Iterable, Iterator
from pathlib import Path

from ...infra import hub, storage, sums
from .base import Specialist
from .kept_weights import FILES, Kept, dumps, read
from .pretrained import Pretrained

logger = logging.getLogger(__name__)

FOLDER = "weights"
BESIDE_ROOT = "root"  # what `engine.weights` says unless given


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
            one.setup_on_node()  # a download that was killed is completed here, and looked at
            here = one.folder()
        except ValueError as error:
            logger.warning("%s; the nodes try it by themselves", error)
            continue
        files = dict(kept.files) if kept else {}
        for name, path in _chosen(here, one.patterns()):
            found = path.stat().st_size, sums.of_url(str(path))
            if files.get(name) != found:
                logger.info("%s of %s is copied into %s", name, one.weights, folder)
                storage.put_file(storage.join(folder, name), path)
                files[name] = found
        patterns = tuple(sorted({*one.patterns(), *(kept.patterns if kept else ())}))
        storage.put(storage.join(folder, FILES), dumps(Kept(files, patterns)))


def _of_hub(specialists: Iterable[Specialist]) -> Iterator[Pretrained]:
    """Those whose weights come from the hub, at a commit that is known."""
    for one in specialists:
        if isinstance(one, Pretrained) and not one.is_local and hub.is_commit(one.read_revision or ""):
            yield one


def _folder(weights: str, one: Pretrained) -> str:
    return storage.join(weights, one.weights.replace("/", "--"), str(one.read_revision))


def _chosen(folder: Path, patterns: Iterable[str]) -> Iterator[tuple[str, Path]]:
    """Name and path of the files of a snapshot that patterns choose, as the hub's own download chooses them."""
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        name = path.relative_to(folder).as_posix()
        if any(fnmatch.fnmatch(name, pattern) for pattern in patterns):
            yield name, path
