"""The header of a safetensors file: JSON at its begin that says where each tensor lies. No tensor is read for it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from .. import storage

LONGEST = 100_000_000  # bytes; the library takes no longer ones
_LENGTH = 8
_NONE = "no safetensors file, or its header is damaged"


@dataclass(frozen=True)
class Header:
    """tensors: name -> {"dtype", "shape", "data_offsets"}, the latter counted from `start`, in bytes.

    metadata: the strings of the file.
    """

    tensors: dict[str, dict[str, Any]]
    metadata: dict[str, str]
    start: int

    @property
    def end(self) -> int:
        """How long the file is, in bytes."""
        return self.start + max((one["data_offsets"][1] for one in self.tensors.values()), default=0)

    @property
    def shapes(self) -> dict[str, list[int]]:
        return {name: list(one["shape"]) for name, one in self.tensors.items()}


def read(file: Any, size: int | None = None) -> Header:
    """The header of an open file, from where it is.

    Args:
        size: of the file, in bytes; None to believe the header.

    Raises:
        ValueError: it is no such file, is damaged, or is not as long as its header says. Its text names no file.
    """
    length = int.from_bytes(file.read(_LENGTH), "little")
    if not 2 <= length <= min(LONGEST, LONGEST if size is None else size - _LENGTH):
        raise ValueError(_NONE + ("" if size is None else f" ({size:,} bytes)"))
    try:
        tensors = json.loads(file.read(length))
        metadata = dict(tensors.pop("__metadata__", {}))
        for one in tensors.values():
            begin, end = one["data_offsets"]
            if not (isinstance(one["dtype"], str) and isinstance(one["shape"], list) and 0 <= begin <= end):
                raise ValueError
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise ValueError(_NONE) from None  # the text of json's error repeats the whole damaged header
    header = Header(tensors, metadata, _LENGTH + length)
    if size is not None and header.end != size:
        raise ValueError(f"got {size:,} bytes, its header says {header.end:,}")
    return header


def of_url(url: str) -> Header:
    """The header of a whole file. ValueError naming it if it is damaged or cut off; FileNotFoundError without one."""
    with storage.open_binary(url) as file:
        size = file.seek(0, 2)
        file.seek(0)
        try:
            return read(file, size)
        except ValueError as error:
            raise ValueError(f"{url}: damaged or cut off ({error}); copy, download or save it again") from None
