"""Columns of a root as apple/ml-4m's training reads them: a folder a modality, a tar a shard, a member a sample.

ml-4m reads the tars of all modalities side by side, and gives up a shard whose keys differ: only samples that have all
modalities are written. What was imported comes out as it came: names, order, types and bytes. Rows are read and written
a row group at a time; a file takes its name when it is whole.
"""

from __future__ import annotations

import json
import tarfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ...infra import ledger, storage
from ...infra.fingerprint import fingerprint
from ...infra.ledger import Record
from ...modalities import MODALITIES, Kind
from ...tokenize import labels
from ...tokenize.store import Column, ColumnReader, ColumnSpec
from .. import archive
from . import arrays, layout
from .bring import CROP_SETTINGS

DONE = ".fourmill"  # the folder that says which shards are written, and of which columns
Member = Callable[[Column, int], bytes]
Crops = Callable[[int], np.ndarray | None]  # of a row of the shard; None where they are not known


@dataclass(frozen=True)
class Given:
    """One folder of the export: a column of a shard, and how its rows become members.

    folder, suffix: of the members' names. reader: of the column.
    """

    folder: str
    suffix: str
    reader: ColumnReader
    member: Member


@dataclass
class Outcome:
    """What came of a shard. samples: that were written; lacking: that lack a modality, of those that are asked for.
    existed: it was there before."""

    samples: int = 0
    lacking: int = 0
    existed: bool = False
    folders: list[str] = field(default_factory=list)


def name_of(record: Record) -> tuple[str, bool]:
    """The name of a shard's files, and whether they are tars: as they were imported, else the shard's in the root."""
    said = record.identity.get("imported", {})
    return said.get("shard", record.shard), said.get("layout", "tar") == "tar"


def folder_of(record: Record, spec: ColumnSpec, side: int) -> str:
    """The folder of a column: as it was imported, else the published name that ml-4m looks for."""
    said = record.identity.get("imported", {})
    return str(said.get("folder") or published(spec, side))


def published(spec: ColumnSpec, side: int) -> str:
    """ml-4m's name of a modality: `tok_rgb@224`; of pixels `rgb`, whatever their size."""
    if spec.kind is Kind.PIXELS:
        return spec.modality.partition("@")[0]
    modality = MODALITIES.get(spec.modality)
    return modality.published_name(side) if modality is not None and "@" not in spec.modality else spec.modality


def shard(
    records: Mapping[str, Record],
    given: Sequence[Given],
    crops: Crops | None,
    dest: str,
    chosen: np.ndarray | None = None,
) -> Outcome:
    """Write one shard.

    Args:
        records: of the columns, which say whether it is written already.
        given: the folders; all of one shard. crops: settings of the sample of a row, where they are no label.
        chosen: whether each row is asked for, bool (rows,); None for all.
    """
    name, is_tar = name_of(next(iter(records.values())))
    marks = {output: record.sha256 for output, record in records.items()}
    if chosen is not None:
        marks["selected"] = fingerprint(np.packbits(chosen).tobytes().hex())
    done = storage.join(dest, DONE, f"{name}.json")
    folders = [one.folder for one in given] + ([layout.CROPS] if crops else [])
    if _stands(done, dest, marks, folders):
        return Outcome(existed=True, folders=folders)
    storage.delete(done)
    outcome, first = Outcome(folders=folders), 0
    with ExitStack() as stack:
        suffix = layout.TAR if is_tar else ""
        places = {folder: storage.join(dest, folder, f"{name}{suffix}") for folder in folders}
        opened = {folder: stack.enter_context(_writer(place, is_tar)) for folder, place in places.items()}
        for group in range(given[0].reader.num_row_groups):
            columns = {one.folder: one.reader.read([group]) for one in given}
            valid = np.logical_and.reduce([column.valid for column in columns.values()])
            keys = next(iter(columns.values())).keys.to_pylist()
            for row in range(len(valid)):
                if chosen is not None and not chosen[first + row]:
                    continue
                window = crops(first + row) if crops is not None else None
                if not valid[row] or (crops is not None and window is None):
                    outcome.lacking += 1
                    continue
                outcome.samples += 1
                for one in given:
                    content = one.member(columns[one.folder], row)
                    opened[one.folder](layout.member_name(keys[row], one.suffix, is_tar), content)
                if window is not None:
                    opened[layout.CROPS](layout.member_name(keys[row], ".npy", is_tar), arrays.dump(window))
            first += len(valid)
    files = {folder: _size(place, is_tar) for folder, place in places.items()}
    storage.put(done, (json.dumps({"columns": marks, "files": files}, indent=1) + "\n").encode())
    return outcome


def _stands(done: str, dest: str, marks: dict[str, str], folders: Sequence[str]) -> bool:
    try:
        said = json.loads(storage.read_bytes(done))
    except (FileNotFoundError, ValueError):
        return False
    if not isinstance(said, dict) or said.get("columns") != marks or set(said.get("files", {})) != set(folders):
        return False
    name = done.rpartition("/")[2].removesuffix(".json")
    sizes = {folder: _size(storage.join(dest, folder, f"{name}{layout.TAR}"), True) for folder in folders}
    flat = {folder: _size(storage.join(dest, folder, name), False) for folder in folders}
    return said["files"] in (sizes, flat)


def _size(place: str, is_tar: bool) -> int:
    if not is_tar:
        return sum(storage.list_sizes(place).values())
    stat = storage.stat(place)
    return stat.size if stat else -1


@contextmanager
def _writer(place: str, is_tar: bool) -> Iterator[Callable[[str, bytes], None]]:
    """A function that adds a member to a tar, or to a folder; the tar takes its name when all are in it, and of the
    folder goes what an earlier export put there besides them."""
    if not is_tar:
        before = set(storage.list_sizes(place))

        def put(name: str, content: bytes) -> None:
            storage.put(storage.join(place, name), content)
            before.discard(name)

        yield put
        for name in before:
            storage.delete(storage.join(place, name))
        return
    with archive.whole(place) as path, tarfile.open(path, "w", format=tarfile.GNU_FORMAT) as tar:
        yield lambda name, content: archive.add(tar, name, content)


def ids(dtype: str, crops: int) -> Member:
    """Grids as .npy (crops, tokens), of the first `crops`."""
    return lambda column, row: arrays.dump(column.sample(row)[:crops].astype(np.dtype(dtype)))


def text(decode: Callable[[Any], str], crops: int) -> Member:
    """Texts as JSON: a string, or a list with one for each of the first `crops`."""

    def member(column: Column, row: int) -> bytes:
        texts = [decode(ids) for ids in column.sample(row)[:crops]]
        return json.dumps(texts if len(texts) > 1 else texts[0], ensure_ascii=False).encode()

    return member


def vectors(column: Column, row: int) -> bytes:
    """The vectors of a caption, as .npz."""
    return arrays.packed(np.asarray(column.sample(row)[0]))


def picture(column: Column, row: int) -> bytes:
    """The picture of the first crop, a file."""
    return bytes(column.sample(row)[0])


def imported_crops(root: str, name: str) -> tuple[Crops, Record] | None:
    """Settings of the crops of a shard's rows, of an import that had them, and their record; None without."""
    record = ledger.read(root, CROP_SETTINGS, name)
    if record is None:
        return None
    dtype = np.dtype(record.identity["imported"]["dtype"])
    _, values = labels.read_labels(ledger.output_url(root, CROP_SETTINGS, name), footer=record.footer)
    return lambda row: None if values[row] is None else np.array(values[row], dtype), record
