"""Tokens that were made elsewhere, as columns of a root: one shard and one modality at a time, each committed with a
record that says where it is from.

What a sample lacks, or has damaged, is null with its reason, as of what fourmill makes. A tar that is not whole, and a
part of which nothing can be read, is no column: the shard lacks it, and the sentence says why.
"""

from __future__ import annotations

import io
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from ...infra import ledger, removals, storage
from ...infra.formats import npy
from ...infra.ledger import SAMPLES, Record
from ...modalities import Kind, Storage
from ...tokenize import codecs, labels, store, table_file
from ...tokenize.crops import Crop
from ...tokenize.store import ColumnSpec
from ...tokenize.table_file import Origin
from .. import images
from ..outputs import Output
from ..reject import Reject
from ..worker import circumstances
from . import arrays, layout, texts
from .layout import Entry, Members, Part

IN_IMAGES = ("boxes", "poses")  # codecs of labels that have places in the image, whose size is needed
CROP_SETTINGS = f"labels/{layout.CROPS}"
MAX_PIXELS = 100_000_000
_ORIENTATION = 0x0112  # of EXIF
Read = Callable[[Entry, bytes], Any]
_Rows = tuple[list[Any], dict[str, Any], list[dict[str, str]]]  # rows, what a record says of their form, rejects


@dataclass(frozen=True)
class Shard:
    """One shard: its name in the root, its part of each folder, and the crops of a sample.

    reference: the part whose keys, in its order, are those of the shard.
    """

    name: str
    parts: dict[str, Part]
    reference: Part
    crops: int


@dataclass
class Outcome:
    """What came of a shard. samples: how many it has. made: outputs that were committed; existed: that were there.

    missing: output -> why it could not be made. notes: in sentences. rejects: (output, reason).
    """

    samples: int = 0
    made: int = 0
    existed: int = 0
    missing: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    rejects: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Target:
    """One output that is imported: from which folder, as what. codec: of what is no array of ids yet."""

    output: Output
    folder: str
    codec: codecs.Codec | None = None


def shard(root: str, asked: Sequence[Target], samples: Output, one: Shard) -> Outcome:
    """Commit what is missing of a shard.

    Args:
        samples: the output that says which samples the shard holds.
    """
    outcome = Outcome()
    try:
        with layout.opened(one.reference) as members:
            keys = members.keys
    except (ValueError, OSError) as error:
        outcome.missing = {target.output.name: str(error) for target in asked}
        return outcome
    if not keys:
        outcome.missing = {target.output.name: f"{one.reference.url}: no member with a key" for target in asked}
        return outcome
    outcome.samples = len(keys)
    job = _Job(root, one, keys, table_file.sum_of_keys(keys), outcome)
    job.keep_samples(samples)
    for target in asked:
        if target.folder not in one.parts:
            outcome.missing[target.output.name] = f"{target.folder} has no shard {one.name}"
            continue
        try:
            job.bring(target, one.parts[target.folder])
        except (ValueError, OSError) as error:
            outcome.missing[target.output.name] = str(error)
    return outcome


class _Job:
    """One shard at work. The crop settings are read once, when the first output needs them."""

    def __init__(self, root: str, one: Shard, keys: list[str], sum_: str, outcome: Outcome) -> None:
        self.root, self.one, self.keys, self.sum, self.outcome = root, one, keys, sum_, outcome
        self._removed = removals.read(root).of_shard(one.name)
        self._crops: dict[str, list[Crop]] | None = None

    def keep_samples(self, output: Output) -> None:
        before = ledger.read(self.root, SAMPLES, self.one.name)
        if before is None or before.keys != self.sum or before.fingerprint != output.fingerprint:
            ledger.commit(self.root, self._record(output, {}, [], 0.0), None)

    def bring(self, target: Target, part: Part) -> None:
        start, output = time.monotonic(), target.output
        said: dict[str, Any] = {
            "from": "ml4m", "folder": part.folder, "file": part.url, "version": layout.version(part),
            "crops": self.one.crops, "layout": "tar" if part.is_tar else "folder", "shard": part.shard,
        }  # fmt: skip
        if self._stands(output, said):
            self.outcome.existed += 1
            return
        with layout.opened(part) as members:
            data, form, rejects = self._encode(target, members)
        record = self._record(output, said | form, rejects, time.monotonic() - start)
        keys_sum, content = table_file.content(data)
        assert keys_sum == self.sum
        ledger.commit(self.root, replace(record, content=content), data)
        self.outcome.made += 1
        self.outcome.rejects += [f"{output.name}: {one['reason']}" for one in rejects]

    def _stands(self, output: Output, said: dict[str, Any]) -> bool:
        """Whether the column is there already, of the same file."""
        before = ledger.read(self.root, output.name, self.one.name)
        if before is None or before.fingerprint != output.fingerprint or before.keys != self.sum:
            return False
        imported, made_by = before.identity.get("imported", {}), before.identity.get("tokenizers", {})
        if any(imported.get(name) != value for name, value in said.items()) or (
            made_by and made_by != output.tokenizers
        ):
            return False
        stat = storage.stat(ledger.output_url(self.root, output.name, self.one.name))
        return stat is not None and not ledger.damage(self.root, before, stat.size, footers=True)

    def _encode(self, target: Target, members: Members) -> tuple[bytes, dict[str, Any], list[dict[str, str]]]:
        """The file of an output, what its record says of the members' form, and the rejects."""
        output, origin = target.output, Origin(self.one.name, target.output.fingerprint)
        if output.name == CROP_SETTINGS:
            rows, form, rejects = self._rows(members, lambda array: arrays.settings(array, self.one.crops))
            cells = [None if row is None else json.dumps(row) for row in rows]
            return labels.encode_cells(layout.CROPS, Storage.JSON, self.keys, cells, (), origin), form, rejects
        spec = output.spec
        assert spec is not None
        if spec.kind is Kind.EMBEDDING:
            assert target.codec is not None
            rows, form, rejects = self._coded(members, target.codec, self._label(target.codec))
            return store.encode_column(target.codec.column_spec({}), self.keys, rows, origin), form, rejects
        fingerprints = "+".join(output.tokenizers.values())
        column = ColumnSpec(
            spec.name, spec.kind, self.one.crops, spec.max_tokens, spec.vocab_size, 0, fingerprints, spec.columns
        )
        if spec.kind is Kind.GRID:
            rows, form, rejects = self._rows(members, lambda array: _within(arrays.ids(array, *_shape(column)), column))
            return store.encode_column(column, self.keys, rows, origin), form, rejects
        codec = target.codec
        assert codec is not None
        if spec.kind is Kind.PIXELS:
            rows, form, rejects = self._coded(members, codec, self._picture)
            column = replace(column, length=codec.column_spec({}).length)
        else:
            rows, form, rejects = self._coded(members, codec, self._label(codec))
            column = _of_crops(column, rows)
        return store.encode_column(column, self.keys, rows, origin), form, rejects

    def _rows(
        self, members: Members, take: Callable[[Any], Any]
    ) -> tuple[list[Any], dict[str, Any], list[dict[str, str]]]:
        """Rows of arrays. All have the type of the first one, or they could not be given back as they came."""
        dtypes: list[str] = []

        def read(entry: Entry, data: bytes) -> Any:
            array = npy.read(data)
            value = take(array)
            dtypes.append(array.dtype.str)
            if array.dtype.str != dtypes[0]:
                both = f"arrays of {array.dtype.str} and of {dtypes[0]}"
                self.outcome.notes.append(f"{members.part.url}: {both}; `export` gives all as the latter")
                dtypes.pop()
            return value

        rows, form, rejects = self._each(members, read)
        return rows, form | {"dtype": dtypes[0] if dtypes else "<i2"}, rejects

    def _coded(self, members: Members, codec: codecs.Codec, label: Callable[[Entry, bytes], codecs.Labelled]) -> _Rows:
        """Rows that a codec makes of labels."""

        def read(entry: Entry, data: bytes) -> Any:
            labelled = label(entry, data)
            if codec.name != "wordpiece" or not isinstance(labelled.value, list):
                return _made(codec.encode([labelled]))[0]
            # A caption for each crop; of fewer the first is for all.
            listed = labelled.value[: self.one.crops] if len(labelled.value) >= self.one.crops else labelled.value[:1]
            rows = _made(codec.encode([replace(labelled, value=text) for text in listed]))
            return [row[0] for row in rows]

        return self._each(members, read)

    def _each(self, members: Members, read: Read) -> _Rows:
        """A row for each key of the shard: what `read` makes of its member, or None and a reject."""
        by_key = {entry.key: entry for entry in members.entries}
        rows: list[Any] = []
        rejects: list[dict[str, str]] = []
        for key in self.keys:
            entry, row = by_key.pop(key, None), None
            if key in self._removed:
                rejects.append({"key": key, "reason": removals.REASON})
                rows.append(None)
                continue
            try:
                if entry is None:
                    raise ValueError("it has no member there")
                row = read(entry, members.read(entry))
            except (ValueError, Reject) as error:
                rejects.append({"key": key, "reason": f"{members.part.folder}: {error}"})
            rows.append(row)
        if by_key:
            some = ", ".join(list(by_key)[:3])
            self.outcome.notes.append(
                f"{members.part.url}: {len(by_key)} keys are in no sample of the shard ({some}, ...)"
            )
        if all(row is None for row in rows) and not set(self.keys) <= self._removed:
            raise ValueError(f"{members.part.url}: no sample can be read; the first: {rejects[0]['reason']}")
        suffixes = sorted({entry.suffix for entry in members.entries})
        return rows, {"suffix": suffixes[0] if suffixes else ""}, rejects

    def _label(self, codec: codecs.Codec) -> Callable[[Entry, bytes], codecs.Labelled]:
        """What a codec encodes of a member: boxes and people with their crops and the size of the image,
        texts without."""
        read = texts.READERS[codec.name]
        if codec.name not in IN_IMAGES:
            return lambda entry, data: codecs.Labelled(entry.key, read(entry.suffix, data), [], (0, 0))
        sizes = self._sizes()

        def label(entry: Entry, data: bytes) -> codecs.Labelled:
            if entry.key not in sizes:
                raise ValueError(f"{layout.IMAGES} has no picture of it, whose size says where boxes are")
            size = sizes[entry.key]
            return codecs.Labelled(entry.key, read(entry.suffix, data), self._crops_of(entry.key, size), size)

        return label

    def _sizes(self) -> dict[str, tuple[int, int]]:
        """Width and height of the pictures of a shard, by their headers."""
        sizes = {}
        with layout.opened(self.one.parts[layout.IMAGES]) as members:
            for entry in members.entries:
                try:
                    sizes[entry.key] = picture_size(members.read(entry))
                except ValueError:
                    continue  # a reject of what needs it
        return sizes

    def _picture(self, entry: Entry, data: bytes) -> codecs.Labelled:
        size = picture_size(data)
        return codecs.Labelled(entry.key, images.decode(data, MAX_PIXELS), self._crops_of(entry.key, size), size)

    def _crops_of(self, key: str, size: tuple[int, int]) -> list[Crop]:
        if self._has_settings:
            if key not in self._windows():
                raise ValueError("it has no crop settings")
            return self._windows()[key]
        width, height = size
        short = min(size)
        return [Crop((width - short) // 2, (height - short) // 2, short, short)]

    @property
    def _has_settings(self) -> bool:
        return layout.CROPS in self.one.parts

    def _windows(self) -> dict[str, list[Crop]]:
        if self._crops is None:
            self._crops = {}
            with layout.opened(self.one.parts[layout.CROPS]) as members:
                for entry in members.entries:
                    try:
                        rows = arrays.settings(npy.read(members.read(entry)), self.one.crops)
                    except ValueError:
                        continue  # a reject of the settings themselves
                    self._crops[entry.key] = [Crop(int(x), int(y), int(w), int(h), bool(f)) for y, x, h, w, f in rows]
        return self._crops

    def _record(self, output: Output, said: dict[str, Any], rejects: list[dict[str, str]], seconds: float) -> Record:
        identity = output.identity | ({"imported": said} if said else {})
        # Of one shard all outputs have one source: its samples, in their order.
        source = ledger.Source(0, "imported", self.sum)
        return Record(
            output=output.name, shard=self.one.name, fingerprint=output.fingerprint, source=source,
            rows=len(self.keys), nulls=len(rejects), rejects=rejects, bytes=0, sha256="", seconds=round(seconds, 3),
            identity=identity, keys=self.sum, made=circumstances.of_attempt(),
        )  # fmt: skip


def picture_size(data: bytes) -> tuple[int, int]:
    """Width and height of a picture as it is stored. ValueError if it is none, or is shown turned."""
    from PIL import Image

    try:
        with Image.open(io.BytesIO(data)) as picture:
            turned = picture.getexif().get(_ORIENTATION, 1)
            if turned not in (0, 1):
                raise ValueError(f"it is shown turned (EXIF orientation {turned}), and ml-4m's crops are not")
            return picture.width, picture.height
    except OSError as error:
        raise ValueError(f"no picture ({error})") from None


def _made(rows: list[Any]) -> list[Any]:
    """Rows of a codec. ValueError with the reason of the first sample that it could not encode."""
    for row in rows:
        if isinstance(row, Exception):
            raise ValueError(str(row))
    return rows


def _shape(column: ColumnSpec) -> tuple[int, int]:
    return column.crops, column.length


def _within(ids: Any, column: ColumnSpec) -> Any:
    if ids.size and (largest := int(ids.max())) >= column.vocab_size:
        raise ValueError(
            f"got the id {largest}, its vocabulary has {column.vocab_size}; say --set "
            f"tokenizers.each.{column.modality}.codebook_size=N"
        )
    return ids


def _of_crops(column: ColumnSpec, rows: list[Any]) -> ColumnSpec:
    """Texts: one of each sample, unless one sample has one for each crop; then every sample has as many."""
    several = any(row is not None and len(row) > 1 for row in rows)
    for row in rows:
        if row is not None and several and len(row) == 1:
            row *= column.crops
    return column if several else replace(column, crops=1)
