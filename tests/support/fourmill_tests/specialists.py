"""Specialists that misbehave in one way each. They make the same edges as Canny otherwise."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

from pydantic import PrivateAttr

from fourmill.pipelines.reject import Reject
from fourmill.pipelines.specialists.base import Item, Specialist
from fourmill.pipelines.specialists.classical.canny import Canny
from fourmill.pipelines.specialists.detection.people import HogPeople


class Slow(Canny):
    """Takes its time, so that a stage can be killed in its middle."""

    seconds: float = 0.05

    def __call__(self, items: Sequence[Item]) -> list[Any]:
        time.sleep(self.seconds * len(items))
        return super().__call__(items)


class Killer(Canny):
    """Kills its own process at a key, as a native crash or the out-of-memory killer would.

    marker: a file; if it is there nothing happens, and it is written before the kill if `once`.
    """

    key: str
    marker: str
    once: bool = True

    def __call__(self, items: Sequence[Item]) -> list[Any]:
        if any(item.key == self.key and item.image.any() for item in items) and not Path(self.marker).exists():
            if self.once:
                Path(self.marker).touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return super().__call__(items)


class Dark(Canny):
    """Refuses one sample."""

    key: str

    def __call__(self, items: Sequence[Item]) -> list[Any]:
        values = super().__call__(items)
        return [Reject("canny_edge: too dark") if i.key == self.key else v for i, v in zip(items, values, strict=True)]


class Failing(Canny):
    """Rejects everything, as a wrong model would."""

    def __call__(self, items: Sequence[Item]) -> list[Any]:
        raise RuntimeError("the weights are broken")


class Refusing(Canny):
    """Rejects everything with a reason, until a marker is there."""

    marker: str = "/nowhere"

    def __call__(self, items: Sequence[Item]) -> list[Any]:
        if Path(self.marker).exists():
            return super().__call__(items)
        return [Reject("canny_edge: too dark") for _ in items]


class Poisoned(Canny):
    """As a CUDA context after a device-side assert: from one key on every call fails, until the marker is there."""

    key: str
    marker: str

    def __call__(self, items: Sequence[Item]) -> list[Any]:
        if Path(self.marker).exists():
            return super().__call__(items)
        if any(item.key == self.key for item in items):
            _POISONED.add(self.marker)
        if self.marker in _POISONED:
            raise RuntimeError("CUDA error: device-side assert triggered")
        return super().__call__(items)


_POISONED: set[str] = set()


class Poisonous(Canny):
    """An accelerator that is dead after some calls, in the one actor that comes first.

    marker: a file that says that there is one. says: what each further call raises. only: which keys fail then; all
    unless given.
    """

    marker: str
    calls: int = 2
    says: str = "CUDA error: an illegal memory access was encountered"
    only: str = ""

    _left: int = PrivateAttr(default=-1)

    def setup(self, device: str) -> None:
        if not Path(self.marker).exists():
            Path(self.marker).touch()
            self._left = self.calls

    def __call__(self, items: Sequence[Item]) -> list[Any]:
        if self._left == 0 and any(item.key.endswith(self.only) for item in items):
            raise RuntimeError(self.says)
        self._left -= self._left > 0
        return super().__call__(items)


class Picky(Canny):
    """Fails at some samples, wherever they are."""

    keys: tuple[str, ...]

    def __call__(self, items: Sequence[Item]) -> list[Any]:
        if found := [item.key for item in items if item.key in self.keys]:
            raise RuntimeError(f"this sample only, {found[0]}")
        return super().__call__(items)


class Flaky(Canny):
    """Fails while a marker is there, as a service that is away for a while would."""

    marker: str

    def __call__(self, items: Sequence[Item]) -> list[Any]:
        if Path(self.marker).exists():
            raise ConnectionError("temporary failure in name resolution")
        return super().__call__(items)


class Counting(Canny):
    """Notes the key of every sample that it is asked for, one a line."""

    log: str

    def __call__(self, items: Sequence[Item]) -> list[Any]:
        with open(self.log, "a") as file:
            file.write("".join(f"{item.key}\n" for item in items))
        return super().__call__(items)


class CountingSlowly(Counting):
    """Takes its time, too."""

    seconds: float = 0.05

    def __call__(self, items: Sequence[Item]) -> list[Any]:
        time.sleep(self.seconds * len(items))
        return super().__call__(items)


class Overwriting(Canny):
    """Overwrites its own shard in place when it sees a key, as `cp` or `rsync --inplace` at that moment would."""

    key: str
    shard: str
    content: str  # a file with the new bytes

    def __call__(self, items: Sequence[Item]) -> list[Any]:
        if any(item.key == self.key for item in items):
            with open(self.shard, "r+b") as file:
                file.write(Path(self.content).read_bytes())
            os.utime(self.shard, (1, 1))
        return super().__call__(items)


class NoInstances(Specialist):
    """Finds nothing in any image."""

    label: ClassVar[str] = "sam_instance"

    def __call__(self, items: Sequence[Item]) -> list[Any]:
        return [[] for _ in items]


class Odd(HogPeople):
    """Returns by key what no specialist should: nothing, NaN, an unknown class, something that is no JSON."""

    def __call__(self, items: Sequence[Item]) -> list[Any]:
        return [self._odd(item.key) for item in items]

    def _odd(self, key: str) -> Any:
        box = {"box": [0.1, 0.1, 0.9, 0.9], "label": "person", "score": 0.9}
        match int(key) % 8:
            case 0:
                return None
            case 1:
                return [box | {"score": float("nan")}]
            case 2:
                return [box | {"label": "unicorn"}]
            case 3:
                return [{"box": object()}]
            case 4:
                raise RuntimeError("this image only")
            case 5:
                return []
            case _:
                return [box]
