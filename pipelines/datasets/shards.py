"""Shards of a data set: which layouts are known, and what writes their samples into tars.

Decisions:
- Samples are in the order of a hash of their keys, so that the first few of a shard are of all classes and scenes.
- A shard that is there is whole and is kept. `shards.json` names what the folder was made of, and the samples that were
  left out, with the reason; a folder of something else is refused.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ...infra import storage
from ...infra.progress import Progress
from ..archive import archive, record_of
from .coco import coco
from .imagenet import imagenet
from .layout import Found, Sample
from .scanned import diode, nyuv2

RECORD = "shards.json"


@dataclass(frozen=True)
class Layout:
    """A layout of files: what finds its samples, its usual split, samples of a shard (at most a gigabyte)."""

    find: Callable[[Path, str], Found]
    split: str
    shard_size: int


LAYOUTS: dict[str, Layout] = {
    "coco": Layout(coco, "val2017", 1000),
    "diode": Layout(diode, "val", 100),
    "imagenet": Layout(imagenet, "val", 1000),
    "nyuv2": Layout(nyuv2, "test", 200),
}


@dataclass
class Written:
    """What is in the folder: its shards, how many are new, samples that were left out by key, with the reason."""

    shards: list[str]
    truth: dict[str, Any]
    notes: list[str]
    made: int = 0
    left_out: dict[str, str] = field(default_factory=dict)


def write(layout: str, root: str, out: str, split: str = "", shard_size: int = 0) -> Written:
    """Write the shards that are missing below a folder or any fsspec URL, OUT/SPLIT-00000.tar, ...

    Args:
        layout: a key of LAYOUTS.
        root: the local folder of the data set.
        split: of the data set, its usual one unless given.
        shard_size: samples of a shard, which is held in memory; that of the layout if 0.

    Raises:
        ValueError: the folder is not laid out like this, or `out` holds something else.
    """
    of = LAYOUTS[layout]
    split, shard_size = split or of.split, shard_size or of.shard_size
    if shard_size < 1:
        raise ValueError(f"--shard-size: got {shard_size}, expected at least 1")
    if not Path(root).is_dir():
        raise ValueError(f"{root}: there is no such folder")
    try:
        found = of.find(Path(root), split)
    except KeyError as error:
        raise ValueError(f"{root}: an entry of its JSON has no {error}; expected the format of {layout}") from None
    samples = sorted(found.samples, key=lambda one: hashlib.sha256(one.key.encode()).digest())
    asked = {"layout": layout, "split": split, "samples": len(samples), "shard_size": shard_size}
    done = Written([], found.truth, found.notes, left_out=_claim(out, asked))
    with Progress("shards", len(samples), "samples") as progress:
        for number, first in enumerate(range(0, len(samples), shard_size)):
            here = samples[first : first + shard_size]
            done.shards.append(storage.join(out, f"{split}-{number:05d}.tar"))
            if not storage.exists(done.shards[-1]):
                storage.put(done.shards[-1], archive(_members(here, done.left_out, progress)))
                done.made += 1
                _record(out, asked, done.left_out)
    return done


def _members(samples: list[Sample], left_out: dict[str, str], progress: Progress) -> list[tuple[str, bytes]]:
    made: list[tuple[str, bytes]] = []
    for sample in samples:
        try:
            members = sample.read()
            made += [(f"{sample.key}.{name}", data) for name, data in members.items()]
        except (OSError, ValueError, KeyError) as error:
            reason = f"no {error}" if isinstance(error, KeyError) else str(error)
            left_out[sample.key] = reason
        progress.update(1)
    return made


def _claim(out: str, asked: dict[str, Any]) -> dict[str, str]:
    """What was left out before; ValueError if the folder holds something else."""
    if record := record_of(out, RECORD):
        if differing := [f"{name} {record.get(name)}" for name in asked if record.get(name) != asked[name]]:
            raise ValueError(f"--out: {out} holds other shards ({', '.join(differing)}); choose another folder")
        return dict(record["left_out"])
    _record(out, asked, {})
    return {}


def _record(out: str, asked: dict[str, Any], left_out: dict[str, str]) -> None:
    storage.put(storage.join(out, RECORD), json.dumps({**asked, "left_out": left_out}, indent=1).encode())
