"""A root exported for other programs: Parquet for the Hugging Face hub, WebDataset tars, or a Lance dataset.

One shard after the other. OUT/.fourmill/SPLIT/SHARD.json says of which columns a shard was written, so that a second
call writes only what has changed, and one that was killed goes on.
"""

from __future__ import annotations

import json
import posixpath
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

import pyarrow as pa

from ....infra import ledger, removals, side_files, storage
from ....infra.fingerprint import fingerprint
from ....infra.index import index
from ....infra.ledger import SAMPLES, Entry, Record
from ....infra.progress import Progress
from ....pipelines import plan as plans
from ....pipelines import source
from ....recipe import Recipe
from ... import licences
from .. import destination
from . import card, placed, rows, selected, writers
from .card import CROISSANT, README, Card
from .selected import COLUMN, Selected
from .writers import Writer

DONE = ".fourmill"
LICENCE_FIELDS = ("license", "licence", "rights")  # of a sample's JSON
VERSION = 1
_NAMED = 200  # characters of a licence


@dataclass
class Plan:
    """What is exported.

    splits: name -> its shards. outputs: names, "tokens/tok_rgb". recipe: of the root, None if it cannot be read.
    urls: of the source shards. left_out: what is not exported, and why. licence: of the images, as the user says.
    restrictions: what has to be known before use, by column; known when all is written. entries: of the records, by
    (output, shard). selected: by `train.select` of the recipe, or by another expression. has_places: whether sources
    say where samples lie.
    """

    root: str
    to: str
    splits: dict[str, list[str]]
    outputs: list[str]
    recipe: Recipe | None
    urls: dict[str, str] = field(default_factory=dict)
    left_out: list[str] = field(default_factory=list)
    licence: str = ""
    restrictions: dict[str, list[str]] = field(default_factory=dict)
    entries: Mapping[tuple[str, str], Entry] = field(default_factory=dict)
    selected: Selected | None = None
    has_places: bool = False

    @property
    def columns(self) -> list[str]:
        """What an export of other columns differs in."""
        return [*self.outputs, *self.beside]

    @property
    def beside(self) -> list[str]:
        """Columns that are no outputs."""
        selects = self.selected is not None and not self.selected.only
        return [COLUMN] * selects + [placed.COLUMN] * self.has_places


@dataclass(frozen=True)
class Written:
    """A shard that is written: its rows, the licences that its images state, and whether it was there before."""

    rows: int
    images: dict[str, int]
    existed: bool


def plan(
    root: str, to: str, columns: str | None = None, licence: str = "", select: str | None = None, only: bool = False
) -> Plan:
    """Look at a root. ValueError if there is nothing to export. None of the code that its recipe asks for is run.

    Args:
        columns: names of outputs with commas between them, "tok_rgb,labels/depth"; all columns of tokens if None.
        licence: of the images, as the user says; the recipe's if empty.
        select: an expression in place of the recipe's `train.select`.
        only: export what it selects, and nothing else of the training shards.
    """
    root = storage.absolute(root).rstrip("/")
    there = [one for one in ledger.outputs(root) if one != SAMPLES]
    if not there:
        raise ValueError(f"{root} is no root, there is no ledger/ with records; name the root of a recipe")
    outputs = _chosen(there, columns)
    names = {name for output in outputs for name in storage.list_names(storage.join(root, "ledger", output))}
    shards = sorted(name.removesuffix(".json") for name in names if name.endswith(".json"))
    entries = index.read_many(root, outputs, shards).entries
    whole = [shard for shard in shards if all((output, shard) in entries for output in outputs)]
    left_out = []
    known = set(whole)
    if lacking := [shard for shard in shards if shard not in known]:
        left_out.append(f"{len(lacking)} shards lack one of the outputs ({', '.join(lacking[:3])}, ...)")
    if not whole:
        raise ValueError(f"{root}: no shard has all of {', '.join(outputs)}; choose some with --columns")
    recipe, why = licences.recipe_of(root)
    left_out += [why] if why else []
    splits, urls = _splits(root, recipe, whole)
    licence = licence or (recipe.licence if recipe is not None else "")
    asked = Plan(root, to, splits, outputs, recipe, urls, left_out, licence, entries=entries)
    of_training = {name: entries[outputs[0], name] for name in splits.get("train", ())}
    labels = [one.removeprefix("labels/") for one in there if one.startswith("labels/")]
    found = selected.asked(root, recipe, select, only, labels, of_training)
    if isinstance(found, str):
        left_out.append(f"the column {COLUMN}: {found}")
    else:
        asked.selected = found
    asked.has_places = placed.known(urls.values())
    return asked


def _chosen(there: Sequence[str], columns: str | None) -> list[str]:
    if columns is None:
        tokens = [one for one in there if one.startswith("tokens/")]
        return tokens or list(there)
    known = {one: one for one in there} | {one.removeprefix("tokens/"): one for one in there if "tokens/" in one}
    wanted = [name.strip() for name in columns.split(",") if name.strip()]
    if missing := [name for name in wanted if name not in known]:
        raise ValueError(f"--columns: there is no {', '.join(missing)}; there are {', '.join(there)}")
    return list(dict.fromkeys(known[name] for name in wanted))


def _splits(root: str, recipe: Recipe | None, whole: Sequence[str]) -> tuple[dict[str, list[str]], dict[str, str]]:
    """The shards of each split, and their URLs; all are of one split if no recipe says more."""
    if recipe is None:
        return {"train": list(whole)}, {}
    try:
        shards = plans.list_shards(recipe.samples, root)
    except (ValueError, OSError):  # the sources are gone: the columns are there
        return {"train": list(whole)}, {}
    there = set(whole)
    splits = {split: [name for name in of if name in there] for split, of in shards.splits.items()}
    placed = {name for of in splits.values() for name in of}
    splits["train"] = [*splits.get("train", []), *(name for name in whole if name not in placed)]
    return {split: of for split, of in splits.items() if of}, dict(shards.urls)


def check_dest(dest: str, root: str) -> None:
    """ValueError if files of an export cannot go to a place."""
    destination.check(dest, root, lambda names: DONE in names)


def write(asked: Plan, dest: str) -> Iterator[tuple[str, Written]]:
    """Export what is missing, one shard after the other: (shard, what came of it). The card is written at the end."""
    writer = writers.FORMATS[asked.to](dest)
    removed = removals.read(asked.root)
    _check_format(asked, dest)
    total: Counter[str] = Counter()
    images: Counter[str] = Counter()
    first = ""
    types = pa.schema([])
    places = [(split, name) for split, of in asked.splits.items() for name in of]
    with Progress("export", len(places), "shards") as progress:
        for split, name in places:
            records = _records(asked, name)
            first = first or name
            types = types if len(types) else _schema(asked, records)
            written = _shard(asked, split, name, records, removed, writer, dest)
            total[split] += written.rows
            images.update(written.images)
            progress.update(1)
            yield name, written
    _drop_others(asked, dest, writer)
    used = licences.used(asked.root, asked.recipe, {output: _record(asked, output, first) for output in asked.outputs})
    shown = Card(
        posixpath.basename(dest.rstrip("/")) or "fourmill", asked.to, dict(total), asked.outputs, types, used,
        dict(images.most_common()), asked.licence, asked.left_out, datetime.now(UTC).date().isoformat(),
        asked.selected.sentence if asked.selected is not None else "",
    )  # fmt: skip
    asked.restrictions = shown.restrictions
    storage.put(storage.join(dest, README), card.readme(shown))
    storage.put(storage.join(dest, CROISSANT), card.croissant(shown, dest))


def _records(asked: Plan, shard: str) -> dict[str, Record | Entry]:
    """What is known of the outputs of a shard; records are read of those alone in which samples were taken down."""
    entries = {output: asked.entries[output, shard] for output in asked.outputs}
    return {
        output: _record(asked, output, shard) if {removals.REASON, ledger.OTHER_REASONS} & set(entry.reasons) else entry
        for output, entry in entries.items()
    }


def _record(asked: Plan, output: str, shard: str) -> Record:
    record = ledger.read(asked.root, output, shard)
    if record is None:
        raise ValueError(f"{asked.root}: {output} of {shard} has no good record; {ledger.again(asked.root)}")
    return record


def _schema(asked: Plan, records: Mapping[str, Record | Entry]) -> pa.Schema:
    return rows.schema([rows.Rows(asked.root, one) for one in records.values()], asked.beside)


def _check_format(asked: Plan, dest: str) -> None:
    """ValueError if a folder holds an export of another format."""
    url = storage.join(dest, DONE, "export.json")
    before = side_files.read_object(url, ("to", "outputs"))
    if before is not None and before["to"] != asked.to:
        raise ValueError(f"--out {dest} holds an export as {before['to']}; name another folder")
    if before is not None and asked.to == "lance" and before["outputs"] != asked.columns:
        raise ValueError(f"--out {dest} has other columns ({', '.join(before['outputs'])}); name another folder")
    storage.put(url, json.dumps({"to": asked.to, "outputs": asked.columns}).encode())


def _shard(
    asked: Plan,
    split: str,
    shard: str,
    records: Mapping[str, Record | Entry],
    removed: removals.Removals,
    writer: Writer,
    dest: str,
) -> Written:
    done = storage.join(dest, DONE, split, f"{shard}.json")
    out = sorted(removed.of_shard(shard))
    chosen = [asked.selected.mark(shard)] if asked.selected is not None else []
    url = asked.urls.get(shard, "")
    chosen += [placed.COLUMN] * asked.has_places
    mark = fingerprint(VERSION, asked.to, [[output, one.sha256] for output, one in records.items()], out, *chosen)
    before = side_files.read_object(done, ("mark", "rows", "images"))
    if before is not None and before["mark"] == mark and writer.has(split, shard, before):
        return Written(before["rows"], before["images"], True)
    storage.delete(done)
    keys: list[str] = []
    lies = (placed.of_shard(url) or {}) if asked.has_places else None

    def noted() -> Iterator[pa.Table]:
        for table in rows.tables(asked.root, shard, records, removed, asked.selected, lies):
            keys.extend(table.column("key").to_pylist())
            yield table

    kept = writer.write(split, shard, _schema(asked, records), noted())
    images = dict(_of_images(url, set(keys)))
    storage.put(done, json.dumps({"mark": mark, "rows": len(keys), "images": images, **kept}, indent=1).encode())
    return Written(len(keys), images, False)


def _of_images(url: str, keys: set[str]) -> Counter[str]:
    """The licences that the JSON of exported samples states; none where the shard is not on this machine."""
    stated: Counter[str] = Counter()
    if not url or not storage.is_local(url):
        return stated
    try:
        with source.open_shard(url, source.scratch_folder()) as shard:
            for sample in (one for one in shard.samples if one.key in keys):
                info = {str(name).lower(): value for name, value in shard.info(sample).items()}
                if said := next((str(info[name]) for name in LICENCE_FIELDS if info.get(name)), ""):
                    stated[said[:_NAMED]] += 1
    except (OSError, ValueError):  # what was made of it can be exported without it
        return Counter()
    if stated and (rest := len(keys) - stated.total()):
        stated["not stated"] += rest
    return stated


def _drop_others(asked: Plan, dest: str, writer: Writer) -> None:
    """Shards of an earlier export that are not in this one: their samples may have been taken down."""
    for split in (name for name in storage.list_names(storage.join(dest, DONE)) if not name.endswith(".json")):
        wanted = set(asked.splits.get(split, ()))
        for name in storage.list_names(folder := storage.join(dest, DONE, split)):
            if name.removesuffix(".json") not in wanted:
                writer.drop(split, name.removesuffix(".json"))
                storage.delete(storage.join(folder, name))
