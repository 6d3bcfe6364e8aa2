"""Raw labels on disk: one Parquet file holds what one specialist said of one shard's samples.

Like a column (store.py): every key of the shard in its order, null for rejects, the schema's metadata says what it is.
`Storage` decides the form: pictures as PNG, JSON as text, arrays as .npy (never pickled).
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from ..infra.formats import npy
from ..modalities import Storage
from . import arrow
from .table_file import Damaged, Origin, Source, TableFile, again, encode_table, read_footer, source_name

FORMAT = "fourmill.label"
VERSION = 1
ROW_GROUP = 256  # pictures are large


def encode_labels(label_name: str, storage: Storage, keys: Sequence[str], values: Sequence[Any]) -> bytes:
    """The Parquet file of a label.

    Args:
        values: for each key None (reject), or by storage: IMAGE uint8 (H, W) or (H, W, 3) RGB; JSON anything that
            JSON can say, without NaN; ARRAY any array of numbers.

    Raises:
        ValueError: a value has another form; names label and key.
    """
    if len(keys) != len(values):
        raise ValueError(f"label {label_name}: {len(keys)} keys but {len(values)} values; give None for rejects")
    cells = []
    # One by one, so that an error names the key.
    for key, value in zip(keys, values, strict=True):
        try:
            cells.append(None if value is None else encode_cell(storage, value))
        except ValueError as error:
            raise ValueError(f"label {label_name}, sample {key!r}: {error}") from error
    return encode_cells(label_name, storage, keys, cells)


def encode_cell(storage: Storage, value: Any) -> bytes | str:
    """One value as it is stored, much smaller than the value itself. ValueError if it has another form."""
    try:
        cell: bytes | str = _ENCODE[storage](value)
    except (TypeError, AttributeError) as error:
        raise ValueError(str(error)) from error
    return cell


def decode_cell(storage: Storage, cell: bytes | str) -> Any:
    """The inverse of `encode_cell`."""
    return _DECODE[storage](cell)


def encode_cells(
    label_name: str,
    storage: Storage,
    keys: Sequence[str],
    cells: Sequence[bytes | str | None],
    classes: Sequence[str] = (),
    origin: Origin | None = None,
) -> bytes:
    """`encode_labels` of cells that are `encode_cell`'s already.

    Args:
        classes: the names of the label's classes, if they are not its own: the file says them.
        origin: of a file that will have a record: it says whose it is.
    """
    metadata = {"format": FORMAT, "version": str(VERSION), "label": label_name, "storage": str(storage)}
    if classes:
        metadata["classes"] = json.dumps(list(classes))
    fields = {"key": arrow.strings(keys), "value": array(storage, cells)}
    return encode_table(fields, metadata, ROW_GROUP, origin)


def array(storage: Storage, cells: Sequence[Any]) -> pa.Array | pa.ChunkedArray:
    """Cells as they lie in a file."""
    return arrow.strings(cells) if storage is Storage.JSON else arrow.binary(cells)


def read_labels(
    source: Source, row_groups: Sequence[int] | None = None, footer: str = ""
) -> tuple[list[str], list[Any]]:
    """Keys and values of a label file, or of some of its row groups (256 samples each); None where rejected.

    Args:
        footer: sum of the file's footer as the ledger has it, "" if it is not known.

    Raises:
        ValueError: the file is no label file of this version, or a cell cannot be decoded; names the file. `Damaged` if
            it is not the one that was committed.
    """
    storage, keys, cells = read_cells(source, row_groups, footer)
    values = []
    for key, cell in zip(keys, cells, strict=True):
        try:
            values.append(None if cell is None else decode_cell(storage, cell))
        except ValueError as error:
            raise ValueError(f"{source_name(source)}, sample {key!r}: {error}") from error
    return keys, values


def read_classes(source: Source) -> tuple[str, ...]:
    """The names of a label file's classes, () if they are the label's own."""
    return _classes(read_footer(source))


def read_cells(
    source: Source, row_groups: Sequence[int] | None = None, footer: str = ""
) -> tuple[Storage, list[str], list[bytes | str | None]]:
    """`read_labels` without decoding: the storage, keys, and a cell for `decode_cell` for each key."""
    reader = LabelReader(source, footer)
    return reader.storage, *reader.read(row_groups)


class LabelReader:
    """A label file's footer, read once; its row groups are read on demand.

    Args:
        footer: sum of the footer as the ledger has it, "" if it is not known.

    Raises:
        ValueError: the file is no label file of this version; `Damaged` if it is not the one that was committed.
    """

    def __init__(self, source: Source, footer: str = "") -> None:
        self._file = read_footer(source, footer)
        metadata = self._file.metadata
        if metadata.get("format") != FORMAT or metadata.get("version") != str(VERSION):
            got = f"{metadata.get('format', 'another Parquet file')}, version {metadata.get('version')}"
            raise ValueError(
                f"{source_name(source)}: expected labels ({FORMAT}, version {VERSION}), got {got}; label it again"
            )
        try:
            self.storage = Storage(metadata["storage"])
        except (KeyError, ValueError) as error:
            raise Damaged(f"{source_name(source)}: its footer is damaged ({error!r}){again(source)}") from None
        self.classes = _classes(self._file)

    @property
    def num_row_groups(self) -> int:
        return int(self._file.parquet.num_row_groups)

    def read(self, row_groups: Sequence[int] | None = None) -> tuple[list[str], list[bytes | str | None]]:
        """Keys, and a cell for `decode_cell` for each key, of all row groups or of some."""
        groups = range(self.num_row_groups) if row_groups is None else row_groups
        table = self._file.read(list(groups), ["key", "value"])
        return table.column("key").to_pylist(), table.column("value").to_pylist()


def _classes(file: TableFile) -> tuple[str, ...]:
    text = file.metadata.get("classes")
    return () if text is None else tuple(map(str, json.loads(text)))


def _encode_image(image: np.ndarray) -> bytes:
    import cv2

    if image.dtype != np.uint8 or image.ndim not in (2, 3) or image.shape[2:] not in ((), (3,)):
        raise ValueError(f"got {image.dtype} {image.shape}, expected uint8 (H, W) or (H, W, 3)")
    bgr = image if image.ndim == 2 else cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
    # PNG loses nothing: what a specialist said is what its tokens are made of, also next year.
    success, png = cv2.imencode(".png", bgr)
    if not success:
        raise ValueError(f"an image of {image.shape} could not be written as PNG")
    return bytes(png)


def decode_picture(cell: bytes) -> np.ndarray:
    """uint8 (H, W) or (H, W, 3) RGB of the bytes of a PNG or JPEG. ValueError if they are neither."""
    import cv2

    # Unchanged: a grey map must not come back with three channels.
    image = cv2.imdecode(np.frombuffer(cell, np.uint8), cv2.IMREAD_UNCHANGED)
    if image is None:
        raise ValueError(f"{len(cell)} bytes are no picture")
    return image if image.ndim == 2 else cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


def _encode_json(value: Any) -> str:
    # No NaN: it is not JSON, and readers of other languages refuse the file.
    return json.dumps(value, allow_nan=False, ensure_ascii=False, separators=(",", ":"))


def encode_array(array: np.ndarray) -> bytes:
    """An array as .npy."""
    sink = io.BytesIO()
    # .npy keeps dtype and shape in a header of 128 bytes.
    np.save(sink, array, allow_pickle=False)
    return sink.getvalue()


def _decode_array(cell: bytes) -> np.ndarray:
    return npy.read(cell).copy()  # theirs to change


_ENCODE: dict[Storage, Callable[[Any], Any]] = {
    Storage.IMAGE: _encode_image,
    Storage.JSON: _encode_json,
    Storage.ARRAY: encode_array,
}
_DECODE: dict[Storage, Callable[[Any], Any]] = {
    Storage.IMAGE: decode_picture,
    Storage.JSON: json.loads,
    Storage.ARRAY: _decode_array,
}
