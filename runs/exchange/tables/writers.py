"""Shards of an export as files: Parquet for the Hugging Face hub, WebDataset tars, rows of a Lance dataset."""

from __future__ import annotations

import json
import tarfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ....infra import storage
from ....pipelines import archive
from ....tokenize.labels import encode_array
from . import rows
from .selected import COLUMN

PNG = b"\x89PNG"


class Writer:
    """Writes shards in one format. dest: the folder of the export."""

    def __init__(self, dest: str) -> None:
        self.dest = dest

    def write(self, split: str, shard: str, schema: pa.Schema, tables: Iterator[pa.Table]) -> dict[str, Any]:
        """Write the rows of a shard; returns what `has` needs to know it again."""
        raise NotImplementedError

    def has(self, split: str, shard: str, kept: Mapping[str, Any]) -> bool:
        """Whether a shard is there as it was written."""
        raise NotImplementedError

    def drop(self, split: str, shard: str) -> None:
        """Take a shard out."""
        raise NotImplementedError


class Files(Writer):
    """A file a shard, DEST/data/SPLIT/SHARD.parquet or .tar."""

    suffix = ""

    def place(self, split: str, shard: str) -> str:
        return storage.join(self.dest, "data", split, f"{shard}{self.suffix}")

    def write(self, split: str, shard: str, schema: pa.Schema, tables: Iterator[pa.Table]) -> dict[str, Any]:
        place = self.place(split, shard)
        with archive.whole(place) as path:
            self.fill(path, schema, tables)
        stat = storage.stat(place)
        return {"bytes": stat.size if stat else -1}

    def has(self, split: str, shard: str, kept: Mapping[str, Any]) -> bool:
        stat = storage.stat(self.place(split, shard))
        return stat is not None and stat.size == kept.get("bytes")

    def drop(self, split: str, shard: str) -> None:
        storage.delete(self.place(split, shard))

    def fill(self, path: Path, schema: pa.Schema, tables: Iterator[pa.Table]) -> None:
        raise NotImplementedError


class Parquet(Files):
    suffix = ".parquet"

    def fill(self, path: Path, schema: pa.Schema, tables: Iterator[pa.Table]) -> None:
        with pq.ParquetWriter(path, schema, compression="zstd") as writer:
            for table in tables:
                writer.write_table(table)


class Tar(Files):
    """KEY.NAME.SUFFIX for each value; a value that is null has no member."""

    suffix = ".tar"

    def fill(self, path: Path, schema: pa.Schema, tables: Iterator[pa.Table]) -> None:
        with tarfile.open(path, "w", format=tarfile.GNU_FORMAT) as tar:
            for table in tables:
                for row in table.to_pylist():
                    for name, content in _members(row, schema):
                        archive.add(tar, name, content)


def _members(row: Mapping[str, Any], schema: pa.Schema) -> Iterator[tuple[str, bytes]]:
    key = str(row["key"]).replace(".", "_")  # the first dot ends the key
    about = {name: row[name] for name in ("key", "shard", COLUMN) if name in row}
    yield f"{key}.json", json.dumps(about, ensure_ascii=False).encode()
    for one in schema:
        value = row[one.name]
        if value is None or one.name in about:
            continue
        name = f"{key}.{one.name.replace('.', '_')}"
        if pa.types.is_string(one.type):
            yield f"{name}.txt", value.encode("utf-8", "surrogatepass")
        elif pa.types.is_binary(one.type):
            yield f"{name}.{'png' if value[:4] == PNG else 'jpg'}", value
        elif one.type == rows.VALUES:
            yield f"{name}.npy", encode_array(np.array(value, np.float32).reshape(row[f"{one.name}{rows.OF_SHAPE}"]))
        elif one.type == rows.SHAPE:
            continue
        elif pa.types.is_binary(one.type.value_type):
            for crop, picture in enumerate(value):
                yield f"{name}.{crop}.{'png' if picture[:4] == PNG else 'jpg'}", picture
        elif one.type == rows.IDS or one.type == pa.list_(rows.IDS):
            ids = [np.array(crop, np.uint16) for crop in (value if one.type != rows.IDS else [value])]
            if len({len(crop) for crop in ids}) == 1:
                yield f"{name}.npy", encode_array(ids[0] if one.type == rows.IDS else np.stack(ids))
            else:
                yield from ((f"{name}.{crop}.npy", encode_array(of)) for crop, of in enumerate(ids))
        else:
            yield f"{name}.npy", encode_array(np.array(value, np.float32))


class Lance(Writer):
    """A dataset a split, DEST/SPLIT.lance; the column `shard` says whose rows are whose."""

    def __init__(self, dest: str) -> None:
        super().__init__(dest)
        try:
            import lance
        except ImportError:
            raise ValueError("--to lance needs Lance: pip install 'fourmill[lance]'") from None
        self._lance = lance
        self._rows: dict[str, Counter[str]] = {}  # split -> shard -> rows that are there

    def place(self, split: str) -> str:
        return storage.join(self.dest, f"{split}.lance")

    def _open(self, split: str) -> Any:
        return self._lance.dataset(self.place(split)) if storage.list_names(self.place(split)) else None

    def write(self, split: str, shard: str, schema: pa.Schema, tables: Iterator[pa.Table]) -> dict[str, Any]:
        self.drop(split, shard)  # of an attempt that was killed, or of other columns
        there = self._counted(split)

        def noted() -> Iterator[pa.RecordBatch]:
            for table in tables:
                there[shard] += len(table)
                yield from table.to_batches()

        batches = pa.RecordBatchReader.from_batches(schema, noted())
        mode = "create" if self._open(split) is None else "append"
        self._lance.write_dataset(batches, self.place(split), schema=schema, mode=mode)
        return {"rows_there": there[shard]}

    def has(self, split: str, shard: str, kept: Mapping[str, Any]) -> bool:
        return self._counted(split)[shard] == kept.get("rows_there")

    def drop(self, split: str, shard: str) -> None:
        if self._counted(split)[shard]:
            self._open(split).delete(_is(shard))
            del self._counted(split)[shard]

    def _counted(self, split: str) -> Counter[str]:
        """Rows of each shard, counted once: a filter for each shard would go through all rows each time."""
        if split not in self._rows:
            counts, there = Counter[str](), self._open(split)
            for batch in there.to_batches(columns=["shard"]) if there is not None else ():
                counts.update(batch.column(0).to_pylist())
            self._rows[split] = counts
        return self._rows[split]


def _is(shard: str) -> str:
    quoted = shard.replace("'", "''")
    return f"shard = '{quoted}'"


FORMATS: dict[str, Callable[[str], Writer]] = {"lance": Lance, "hf": Parquet, "webdataset": Tar}
