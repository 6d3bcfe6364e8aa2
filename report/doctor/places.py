"""Where a recipe reads and writes: source shards, the root, other roots, and the room on the disks of this machine."""

from __future__ import annotations

import os
import posixpath
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ...infra import faults, storage
from ...infra.secrets import hide, public
from ...pipelines import plan, source
from ...pipelines.sensors import places as tars
from ...pipelines.settings import sets_of
from ...recipe import Recipe
from . import amounts
from .finding import Finding, know, plain_size, sentence, unasked, wrong

SPARE = 64 * 2**20  # bytes: a disk with less room is full
_NAMED = 3
_ASKED = 4  # shards of a web server, and the last one


@dataclass
class Samples:
    """The shards of a recipe: how many tars, their bytes, and what the first one says (None if it cannot be read).

    counted: bytes of those that samples are counted in: of sets beside each other those of the first set.
    """

    shards: int = 0
    bytes: int = 0
    counted: int = 0
    first: amounts.FirstShard | None = None
    findings: list[Finding] = field(default_factory=list)

    @property
    def count(self) -> float | None:
        """About how many samples there are."""
        return self.counted / self.first.bytes if self.first and self.first.bytes else None

    @property
    def largest(self) -> float:
        return self.bytes / self.shards if self.shards else 0.0


def samples(recipe: Recipe) -> Samples:
    """Whether the shards of every split are there, and the first of each can be read."""
    found = Samples()
    for split in plan.SPLITS:
        spec = getattr(recipe.samples, split) if recipe.reads_samples else []
        if not spec:
            continue
        what = f"samples.{split}"
        try:
            sets = {name: list(dict.fromkeys(source.expand(one))) for name, one in sets_of(spec).items()}
        except (ValueError, OSError, ImportError) as error:
            if recipe.download:
                found.findings.append(know(what, f"{error}; `fourmill download` makes them"))
            else:
                found.findings.append(_said(what, error, "check the pattern, and whether the shards are there"))
            continue
        for number, (name, urls) in enumerate(sets.items()):
            _look_at(f"{what}.{name}" if name else what, urls, found, counts=not number)
        if len(sets) > 1:
            try:
                tars.aligned(sets)
            except ValueError as error:
                found.findings.append(wrong(what, str(error), "bring them, or name the tars that all sets have"))
    return found


def _look_at(what: str, urls: Sequence[str], found: Samples, counts: bool) -> None:
    found.shards += len(urls)
    try:
        sizes = _sizes(urls)
    except (ValueError, OSError) as error:
        found.findings.append(_said(what, error, "check the address and the credentials"))
        return
    there = [url for url in urls if sizes.get(url) is not None]
    size = sum(sizes[url] or 0 for url in there)
    found.bytes, found.counted = found.bytes + size, found.counted + size * counts
    if lost := [public(url) for url in urls if sizes.get(url) is None]:
        named = ", ".join(lost[:_NAMED]) + (", ..." if len(lost) > _NAMED else "")
        found.findings.append(
            wrong(what, f"{len(lost)} of {len(urls)} shards are not there: {named}", "put them there, or take them out")
        )
    if empty := [public(url) for url in there if sizes[url] == 0]:
        found.findings.append(
            wrong(what, f"{len(empty)} shards have no bytes, {empty[0]} first", "bring them again, or take them out")
        )
    for url in (url for url in there if sizes[url]):
        try:
            first = amounts.look(url)
        except (ValueError, OSError) as error:
            advice = "look at it with `fourmill inspect`, or bring it again"
            found.findings.append(_said(f"{what}: {public(url)}", error, advice))
        else:
            found.first = found.first or first
        return


def _sizes(urls: Sequence[str]) -> dict[str, int | None]:
    """Bytes of each URL, None of what is not there. Folders of buckets are listed once."""
    found: dict[str, int | None] = {}
    listed: dict[str, dict[str, int]] = {}
    for number, url in enumerate(urls):
        on_web = url.startswith(("http://", "https://"))
        if on_web and _ASKED <= number < len(urls) - 1:  # each would be a request: they are taken to be like the first
            found[url] = found[urls[0]]
        elif on_web or storage.is_local(url):
            stat = storage.stat(url)
            found[url] = None if stat is None else stat.size
        else:
            folder, name = posixpath.split(url)
            if folder not in listed:
                listed[folder] = storage.list_sizes(folder)
            found[url] = listed[folder].get(name)
    return found


def _said(what: str, error: Exception, do: str) -> Finding:
    """An error of storage or of a pattern."""
    if isinstance(error, OSError) and faults.of_place(error):
        return sentence(what, hide(faults.sentence(error)))
    text = " ".join(hide(str(error)).split()) or type(error).__name__
    return wrong(what, text, do)


def root(recipe: Recipe) -> list[Finding]:
    """Whether the root can be written: a small file is put there and deleted again."""
    url = storage.absolute(recipe.root)
    try:
        storage.check_folder(url)
        if not storage.is_local(url) or Path(url).is_dir():
            storage.check_writable(url)
        else:  # a root that is new must not be made by looking
            if file := next((one for one in Path(url).parents if one.is_file()), None):
                raise ValueError(f"{file} is a file, expected a folder")
            with tempfile.TemporaryFile(dir=_existing(Path(url))) as probe:
                probe.write(os.urandom(storage.PROBE_BYTES))
                probe.flush()
    except (ValueError, OSError, ImportError) as error:
        text = hide(str(error)) if isinstance(error, ValueError) else hide(faults.sentence(error))
        why = " ".join(text.removeprefix("root: ").split())
        return [wrong("root", why if str(url) in why else f"{public(url)}: {why}", "make it writable, or name another")]
    return []


def others(recipe: Recipe) -> list[Finding]:
    """Whether the roots of other datasets, and a model to begin with at a URL, can be read."""
    found = []
    for number, share in enumerate(recipe.train.datasets):
        if share.root is None:
            continue
        what = f"train.datasets.{number}.root"
        try:
            if not storage.exists(storage.join(share.root, "recipe.yaml")):
                why = f"{public(share.root)} is no root, there is no recipe.yaml"
                found.append(wrong(what, why, "label and tokenize it first"))
        except (ValueError, OSError, ImportError) as error:
            found.append(_said(what, error, "check the address and the credentials"))
    init = recipe.train.begins_with
    if init is not None and "://" in init.weights:
        try:
            if not storage.list_names(init.weights):
                why = f"there is nothing at {public(init.weights)}"
                found.append(wrong(init.setting, why, "name a run or a model"))
        except (ValueError, OSError, ImportError) as error:
            found.append(_said(init.setting, error, "check the address and the credentials"))
    return found


@dataclass(frozen=True)
class Disk:
    """A disk of this machine. path: a folder on it. needed: bytes that will be written, by what for."""

    path: str
    free: int
    needed: dict[str, float]

    def as_json(self) -> dict[str, object]:
        return {"path": self.path, "free": self.free, "needed": {name: int(n) for name, n in self.needed.items()}}


def disks(recipe: Recipe, found: Samples, fetch: int) -> list[Disk]:
    """The disks that a run writes to, with what it needs there.

    Args:
        fetch: bytes of weights that are yet to be fetched.
    """
    from huggingface_hub import constants

    wanted: list[tuple[str, str, float]] = []
    url = storage.absolute(recipe.root)
    if storage.is_local(url):
        made = amounts.of_samples(recipe, found.count or 0.0, found.first.pixels if found.first else 0)
        wanted.append((url, "labels and columns", max(0.0, made - _written(url, ("labels", "tokens")))))
        wanted.append((url, "checkpoints", max(0.0, amounts.of_training(recipe) - _written(url, ("runs",)))))
    if fetch:
        wanted.append((constants.HF_HUB_CACHE, "weights that are fetched", float(fetch)))
    # Shards from elsewhere pass through it, and Ray keeps its objects and logs there.
    remote = any(not storage.is_local(one) for one in recipe.samples.places)
    wanted.append((source.scratch_folder(), "copies of shards", 2 * found.largest if remote else 0.0))
    return list(_by_disk(wanted))


def _by_disk(wanted: Sequence[tuple[str, str, float]]) -> Iterator[Disk]:
    merged: dict[int, Disk] = {}
    for path, what, needed in wanted:
        folder = _existing(Path(path))
        try:
            device, free = folder.stat().st_dev, shutil.disk_usage(folder).free
        except OSError:
            continue
        disk = merged.setdefault(device, Disk(str(folder), free, {}))
        disk.needed[what] = disk.needed.get(what, 0.0) + needed
    yield from merged.values()


def room(disk: Disk) -> list[Finding]:
    """Whether a disk has the room that is needed."""
    needed = sum(disk.needed.values())
    parts = ", ".join(f"{plain_size(n)} of {name}" for name, n in disk.needed.items() if n >= 1)
    what, has = f"disk of {disk.path}", f"{plain_size(disk.free)} are free"
    if disk.free < max(needed, SPARE):
        why = f"{has}, and a run needs about {plain_size(needed)} ({parts})" if parts else f"{has}: it is full"
        return [wrong(what, why, "make room, or name another place (root, HF_HOME, TMPDIR)")]
    if disk.free < 2 * needed:
        return [know(what, f"{has}, and a run needs about {plain_size(needed)} ({parts})")]
    return []


def _existing(path: Path) -> Path:
    """The nearest folder that is there."""
    return next((one for one in (path, *path.parents) if one.is_dir()), Path("/"))


def _written(root: str, folders: Sequence[str]) -> int:
    return sum(sum(storage.list_below(storage.join(root, name)).values()) for name in folders)


def late(what: str, seconds: float) -> Finding:
    return unasked(what, f"no answer within {seconds:.0f} s", "look at the network and the address, and ask again")
