"""Tars that are written here: the same bytes for the same files, on every machine and day."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterable


def archive(members: Iterable[tuple[str, bytes]]) -> bytes:
    """A tar of these files (name, content), in this order."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for name, data in members:
            member = tarfile.TarInfo(name)  # time, owner and group are 0
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return buffer.getvalue()
