"""Source shards for `fourmill inspect`: one tar, or a folder of them."""

from __future__ import annotations

import io
import posixpath
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
from PIL import Image

from ...infra import storage
from ...infra.explain import reason_class
from ...infra.secrets import hide, public
from ...pipelines import images, source
from ...pipelines.grouping import SourceSample
from ...pipelines.reject import Reject
from ...pipelines.sensors import look
from ...pipelines.settings import Images
from ...pipelines.source import Shard
from ..html.gallery import GallerySample
from ..source_samples import read_sample
from . import statistics
from .files import check_row
from .view import Inspection

LOOKED_AT = 256  # samples whose image header and caption are read for statistics
SENSED = 4  # samples whose members are read, where none has a photo
OPENED = 4  # shards of a folder that are opened for statistics


def inspect_shard(path: str, url: str, row: int) -> Inspection:
    """Facts of one WebDataset tar; a remote one is streamed once.

    Raises:
        ValueError: it is no tar, or there is no such row.
    """
    with _open(url) as shard:
        facts = {"path": path, "kind": "shard", **_facts(shard)}
        total = len(shard.samples)
        check_row(row, total)
        inspection = Inspection(facts | {"sample": None})
        if total:
            sample = shard.samples[row]
            inspection.gallery = _sample(shard, sample)
            inspection.facts["sample"] = _sample_facts(row, sample, inspection.gallery)
        # Broken JSON is known only after reading.
        inspection.facts["rejects"] = dict(Counter(reason_class(reason) for _, reason in shard.rejects))
        return inspection


def inspect_shards(path: str, folder: str, tars: Sequence[str], others: Sequence[str], row: int) -> Inspection:
    """Facts of a folder of tars: sizes of all, contents of a few; `row` is one of the first shard.

    Args:
        tars, others: names in the folder; others are counted (img2dataset leaves two files beside each tar).
    """
    urls = [storage.join(folder, name) for name in tars]
    sizes = [stat.size if (stat := storage.stat(url)) else 0 for url in urls]
    opened = [urls[i * len(urls) // min(len(urls), OPENED)] for i in range(min(len(urls), OPENED))]
    rows: list[dict[str, Any]] = []
    for url in opened:
        try:
            with _open(url) as shard:
                about = _facts(shard)
            rows.append(
                {"shard": posixpath.basename(public(url)), **{n: about[n] for n in ("rows", "bytes")}, "problem": None}
            )
        except ValueError as error:
            rows.append(
                {"shard": posixpath.basename(public(url)), "rows": None, "bytes": None, "problem": hide(str(error))}
            )
    first = inspect_shard(path, urls[0], row)
    facts = {
        "path": path,
        "kind": "shards",
        "files": len(urls),
        "bytes": sum(sizes),
        "first": posixpath.basename(public(urls[0])),
        "last": posixpath.basename(public(urls[-1])),
        "other_files": dict(Counter(posixpath.splitext(name)[1].removeprefix(".") or "other" for name in others)),
        "opened": rows,
        "first_shard": {name: v for name, v in first.facts.items() if name not in ("path", "kind", "sample")},
        "sample": first.facts["sample"],
    }
    return Inspection(facts, gallery=first.gallery)


@contextmanager
def _open(url: str) -> Iterator[Shard]:
    """A shard; one without a photo, a text or a JSON is one of sensors, whose members alone make its samples."""
    with source.open_shard(url, source.scratch_folder()) as shard:
        if shard.samples or not shard.ignored:
            yield shard
            return
    with source.open_shard(url, source.scratch_folder(), every_key=True) as shard:
        yield shard


def _facts(shard: Shard) -> dict[str, Any]:
    samples = shard.samples
    step = max(1, -(-len(samples) // LOOKED_AT))
    chosen = samples[::step]
    headers = [_header(shard, sample) for sample in chosen]
    sizes = np.array([size for size, _ in headers if size is not None], np.int64).reshape(-1, 2)
    captions = [caption for sample in chosen if isinstance(caption := _caption(shard, sample), str)]
    return {
        "rows": len(samples),
        "bytes": shard.size,
        "bytes_per_sample": shard.size / len(samples) if samples else None,
        "keys": {
            "count": len(samples),
            "first": samples[0].key if samples else None,
            "last": samples[-1].key if samples else None,
        },
        "extensions": dict(Counter(extension for sample in samples for extension in sample.members)),
        "without_image": sum(not sample.image for sample in samples),
        **_sensors(shard),
        "rejects": dict(Counter(reason_class(reason) for _, reason in shard.rejects)),
        "statistics": {
            "samples": len(chosen),
            "with_caption": len(captions),
            "caption_characters": statistics.histogram(np.array([len(caption) for caption in captions], np.int64)),
            "formats": dict(Counter(form for _, form in headers)),
            "width": statistics.histogram(sizes[:, 0]),
            "height": statistics.histogram(sizes[:, 1]),
        },
    }


def _sensors(shard: Shard) -> dict[str, Any]:
    """What `init` would take for sensors, of a shard without photos; and the members that nothing reads."""
    ignored = dict(shard.ignored)
    if any(sample.image for sample in shard.samples):
        return {"ignored": ignored}
    found = [one for one in look.look(shard, SENSED) if one.settings]
    for one in found:
        ignored.pop(str(one.settings.get("member")), None)
    return {"ignored": ignored} | ({"sensors": {one.name: one.says for one in found}} if found else {})


def _header(shard: Shard, sample: SourceSample) -> tuple[tuple[int, int] | None, str]:
    """((width, height) as stored, format) from an image's header; nothing is decoded."""
    try:
        with Image.open(io.BytesIO(shard.image(sample)), formats=images.FORMATS) as image:
            return image.size, str(image.format)
    except Reject:
        return None, "none"
    except Exception:  # bytes from the web make Pillow raise about anything, see pipelines/images.py
        return None, "unreadable"


def _caption(shard: Shard, sample: SourceSample) -> str | Reject | None:
    try:
        return shard.caption(sample)
    except Reject as error:
        return error


def _sample(shard: Shard, sample: SourceSample) -> GallerySample:
    reasons = [reason for key, reason in shard.rejects if key == sample.key]
    view = read_sample(shard, sample, Images())
    problems = {"tar": "; ".join(reasons)} if reasons else {}
    return replace(view, shard=posixpath.basename(public(shard.url)), rejects=problems | dict(view.rejects))


def _sample_facts(row: int, sample: SourceSample, view: GallerySample) -> dict[str, Any]:
    return {
        "row": row,
        "key": sample.key,
        "bytes": {name: member.size for name, member in (sample.members or sample.others).items()},
        "size": None if view.image is None else [view.image.shape[1], view.image.shape[0]],
        "caption": view.caption,
        "rejects": dict(view.rejects),
    }
