"""The footer of a Parquet file: the bytes at its end that say where everything lies, with the file's own metadata.

A ledger record holds the sum of its file's footer, so that those who open the file know at once, with no read more
than it takes anyway, whether it is the file that was committed.
"""

from __future__ import annotations

import hashlib
from typing import Any

from . import storage

MAGIC = b"PAR1"
TAIL = 1 << 16  # bytes that are read at first; a footer of ours has some 4 kB
_LENGTH = 8  # the footer's length, uint32, and the magic


def read(file: Any) -> bytes:
    """The footer of an open, seekable file, with its length and the magic. ValueError if it has none."""
    size = file.seek(0, 2)
    size = file.tell() if size is None else size
    file.seek(max(0, size - TAIL))
    tail = file.read(min(TAIL, size))
    length = _length(tail)
    if length > size:
        raise ValueError(f"a footer of {length} bytes in a file of {size}")
    if length > len(tail):
        file.seek(size - length)
        tail = file.read(length)
    return bytes(tail[len(tail) - length :])


def of(data: bytes) -> bytes:
    """The footer of a whole file. ValueError if it has none."""
    length = _length(data)
    if length > len(data):
        raise ValueError(f"a footer of {length} bytes in a file of {len(data)}")
    return data[len(data) - length :]


def digest(footer: bytes) -> str:
    """What a record holds of a footer: 32 hexadecimal digits of its SHA-256."""
    return hashlib.sha256(footer).hexdigest()[:32]


def digest_at(url: str) -> str:
    """The `digest` of the file at a URL, "" if there is none, or it has no footer. OSError if it cannot be read."""
    try:
        with storage.open_binary(url) as file:
            return digest(read(file))
    except (ValueError, FileNotFoundError):
        return ""


def _length(tail: bytes) -> int:
    if len(tail) < _LENGTH or tail[-4:] != MAGIC:
        raise ValueError("its end is not that of a Parquet file")
    return int.from_bytes(tail[-_LENGTH:-4], "little") + _LENGTH
