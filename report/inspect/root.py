"""A whole dataset for `fourmill inspect`: outputs by the ledger, tokenizers, runs, and one sample across them."""

from __future__ import annotations

import posixpath
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from ...infra import ledger, storage
from ...modalities import Kind
from ...tokenize import codecs, labels, store
from ..draw.sensors import false_colours
from ..html.gallery import GallerySample, TokenView
from .decoding import codec_beside
from .files import Footer, footer, locate
from .records import has_records, summarize, uncommitted
from .runs import run_rows
from .view import Inspection
from .weights import read_json

FAMILIES = ("tokens", "labels")


def is_root(url: str) -> bool:
    """Whether a folder with ledger/, tokens/ or labels/ is a root; data sets of others have labels/ as well."""
    return has_records(storage.join(url, "ledger")) or any(_files(url, output) for output in _outputs(url))


def inspect_root(path: str, root: str, row: int) -> Inspection:
    """Facts of ROOT; `row` counts samples over all shards, as the columns have them.

    Raises:
        ValueError: there is no such row, or a file that is read for it is damaged.
    """
    outputs, rejects, remarks = summarize(storage.join(root, "ledger"))
    loose = uncommitted(root)
    notes = remarks[:5]
    if loose:
        notes.append(f"{len(loose)} files have no record in the ledger and do not count: {', '.join(loose[:3])}")
    facts = {
        "path": path,
        "kind": "dataset",
        "recipe": storage.exists(storage.join(root, "recipe.yaml")),
        "notes": notes,
        "outputs": outputs,
        "tokenizers": _tokenizers(root),
        "runs": run_rows(storage.join(root, "runs")),
        "rejects": rejects,
        "sample": None,
    }
    inspection = Inspection(facts)
    if place := _place(root, row):
        inspection.gallery = gather(root, *place)
        facts["sample"] = _sample_facts(row, inspection.gallery)
    return inspection


def _tokenizers(root: str) -> list[dict[str, Any]]:
    rows = []
    for name in storage.list_names(storage.join(root, "tokenizers")):
        url = storage.join(root, "tokenizers", name, "config.json")
        config = read_json(url) if storage.exists(url) else {}
        record = ledger.read(root, "tokenizers", name)
        rows.append(
            {
                "tokenizer": name,
                "fingerprint": record.sha256 if record else None,
                "vocab_size": config.get("codebook_size") or config.get("vocab_size"),
                "quality": ", ".join(f"{k} {v:.4g}" for k, v in (config.get("quality") or {}).items()) or None,
            }
        )
    return rows


def _outputs(root: str) -> list[str]:
    """Names of what is stored, "tokens/det", columns first."""
    return [f"{f}/{n}" for f in FAMILIES for n in storage.list_names(storage.join(root, f))]


def _files(root: str, output: str) -> list[str]:
    return [name for name in storage.list_names(storage.join(root, output)) if name.endswith(".parquet")]


def _place(root: str, row: int) -> tuple[str, int] | None:
    """(shard, row in it) of a row counted over all shards, by the first output that has files; None if none has."""
    footers = next(filter(None, (_footers(root, output) for output in _outputs(root))), [])
    return _at(footers, row) if footers else None


def _footers(root: str, output: str) -> list[Footer]:
    with ThreadPoolExecutor(ledger.THREADS) as pool:
        return list(pool.map(lambda name: footer(storage.join(root, output, name)), _files(root, output)))


def _at(footers: Sequence[Footer], row: int) -> tuple[str, int] | None:
    """(shard, row in it) of a row counted over these files; None beyond the last."""
    if (place := locate(footers, row)) is None:
        return None
    at = next(one for one in footers if one.url == place[0])
    return posixpath.basename(at.url).removesuffix(".parquet"), sum(at.groups[: place[1]]) + place[2]


def stored(root: str, count: int) -> tuple[list[GallerySample], int, int]:
    """`count` samples, evenly over all rows of a root, with all that is stored of them; and how many samples and shards
    there are, by the first output that has files."""
    for output in _outputs(root):
        footers = _footers(root, output)
        total = sum(sum(one.groups) for one in footers)
        if total:
            rows = [i * total // min(count, total) for i in range(min(count, total))]
            places = [place for row in rows if (place := _at(footers, row))]
            return [gather(root, *place) for place in places], total, len(footers)
    return [], 0, 0


def gather(root: str, shard: str, row: int) -> GallerySample:
    """Everything that is stored of one sample: row `row` of every column and label file of its shard."""
    sample: dict[str, Any] = {"key": "", "image": None, "caption": None}
    label_values: dict[str, Any] = {}
    tokens: list[TokenView] = []
    rejects: dict[str, str] = {}
    classes: dict[str, tuple[str, ...]] = {}
    for output in _outputs(root):
        url = ledger.output_url(root, output, shard)
        if not storage.exists(url):
            continue
        record = ledger.read(root, output, shard)
        expected = record.footer if record is not None else ""
        about = footer(url)
        place = locate([about], row)
        assert place is not None, f"{url}: row {row} is there in another output of the shard"
        if output.startswith("tokens/"):
            sample["key"], view, picture = _tokens(about, place, expected)
            sample["image"] = picture if picture is not None else sample["image"]
            tokens += [view] if view else []
        else:
            keys, values = labels.read_labels(url, [place[1]], expected)
            name = output.removeprefix("labels/")
            sample["key"], label_values[name] = keys[place[2]], values[place[2]]
            if names := labels.read_classes(url):
                classes[name] = names
        for reject in record.rejects if record else ():
            if reject["key"] == sample["key"]:
                rejects[output] = reject["reason"]
    caption = next((view.text for view in tokens if view.modality == "caption"), None)
    sample["caption"] = label_values.get("caption") or caption
    return GallerySample(shard=shard, labels=label_values, tokens=tokens, rejects=rejects, classes=classes, **sample)


def _tokens(
    about: Footer, place: tuple[str, int, int], expected: str
) -> tuple[str, TokenView | None, np.ndarray | None]:
    """(key, tokens of the first crop, its picture if the column holds pixels).

    Args:
        expected: the sum of the file's footer by its record.
    """
    url, group, index = place
    column = store.read(url, [group], expected)
    key, spec = column.keys[index].as_py(), column.spec
    if not column.valid[index]:
        return key, None if spec.kind is Kind.PIXELS else TokenView(spec.modality, None), None
    codec, _ = codec_beside(url, spec) if spec.kind is not Kind.GRID else (None, "")
    ids = column.crop(index, 0)
    if spec.kind is Kind.PIXELS:
        picture = false_colours(spec.modality, codec.decode(ids)) if codec else None
        return key, None, picture
    text = codec.wordpiece.decode(ids) if isinstance(codec, codecs.Text) else ""
    if spec.kind is Kind.EMBEDDING:
        return key, None, None
    return key, TokenView(spec.modality, ids, text=text, crop=0), None


def _sample_facts(row: int, sample: GallerySample) -> dict[str, Any]:
    return {
        "row": row,
        "shard": sample.shard,
        "key": sample.key,
        "caption": sample.caption,
        "labels": sorted(sample.labels),
        "tokens": {
            view.modality: None if view.tokens is None else {"tokens": len(view.tokens), "text": view.text or None}
            for view in sample.tokens
        },
        "rejects": dict(sample.rejects),
    }
