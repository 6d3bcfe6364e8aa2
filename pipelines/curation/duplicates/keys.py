"""Names of samples, by number, on the disk of this machine."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np


class Keys:
    """The keys of a set by number, in a file: those of millions of samples would fill the memory.

    Args:
        folder: of this machine. samples: of the set.
    """

    def __init__(self, folder: Path, samples: int) -> None:
        self._file = open(folder / "keys", "w+b")
        self._ends = np.zeros(samples + 1, np.int64)

    def add(self, first: int, keys: Sequence[str]) -> None:
        """Those of samples from `first` on; samples come in their order."""
        parts = [key.encode("utf-8", "surrogatepass") for key in keys]
        self._file.write(b"".join(parts))
        self._ends[first + 1 : first + 1 + len(parts)] = self._ends[first] + np.cumsum([len(part) for part in parts])

    def __getitem__(self, number: int) -> str:
        self._file.seek(int(self._ends[number]))
        return self._file.read(int(self._ends[number + 1] - self._ends[number])).decode("utf-8", "surrogatepass")

    def close(self) -> None:
        self._file.close()
