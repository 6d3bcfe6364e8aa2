"""The lane of one specialist: three threads, in which batches are prepared, inferred and finished beside each other."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import CancelledError, Future, InvalidStateError, ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

from ...infra import logs
from ...modalities import class_names
from ..reject import Reject
from ..specialists.base import Item, Specialist
from .isolate import Ward, batch
from .label import checked, lacks
from .sample import LabelledSample

PARTS = 4  # of one lane at a time, from preparation to finish


class Stopped(BaseException):
    """The work on a shard ended before this was done: no error of a sample, nor of the place."""


class Stages(Protocol):
    """What a lane calls, as of `Specialist`."""

    def prepare(self, items: Sequence[Any]) -> Any: ...
    def infer(self, prepared: Any) -> Any: ...
    def finish(self, items: Sequence[Any], inferred: Any) -> list[Any]: ...


@dataclass(frozen=True)
class _Whole:
    """A specialist with a single call, as stages."""

    call: Callable[[Sequence[Any]], list[Any]]

    def prepare(self, items: Sequence[Any]) -> Any:
        return items

    def infer(self, prepared: Any) -> Any:
        return self.call(prepared)

    def finish(self, items: Sequence[Any], inferred: Any) -> list[Any]:
        return list(inferred)


@dataclass(frozen=True)
class _Attempt:
    """What a stage made, or the exception that it raised."""

    value: Any = None
    error: Exception | None = None

    @classmethod
    def at(cls, stage: Callable[..., Any], *given: Any) -> _Attempt:
        try:
            return cls(stage(*given))
        except Exception as error:
            return cls(error=error)

    def get(self) -> Any:
        if self.error is not None:
            raise self.error
        return self.value


class Room:
    """Room for a few parts of one specialist, also where a shard ends and the next one has begun."""

    def __init__(self) -> None:
        self._free, self._changed = PARTS, threading.Condition()

    def take(self, stopped: threading.Event) -> None:
        """Wait for the room of one part. Stopped if it is no longer wanted."""
        with self._changed:
            self._changed.wait_for(lambda: self._free > 0 or stopped.is_set())
            if stopped.is_set():
                raise Stopped
            self._free -= 1

    def give(self, count: int = 1) -> None:
        """Give back; with 0 those who wait look whether they are stopped."""
        with self._changed:
            self._free += count
            self._changed.notify_all()


@dataclass
class Turns:
    """Who may call which stage of one specialist: one at a time, whichever shard it works for.

    infer: the same for all that compute on the device.
    """

    infer: threading.Lock
    prepare: threading.Lock = field(default_factory=threading.Lock)
    finish: threading.Lock = field(default_factory=threading.Lock)
    room: Room = field(default_factory=Room)


class AllTurns:
    """The turns of all specialists of a worker, kept from shard to shard."""

    def __init__(self) -> None:
        self._device = threading.Lock()
        self._of: dict[str, Turns] = {}

    def of(self, name: str, specialist: Specialist) -> Turns:
        on_device = specialist.gpus > 0
        return self._of.setdefault(name, Turns(self._device if on_device else threading.Lock()))


def _thread(name: str) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(1, name, initializer=logs.inherited())


@dataclass
class Shared:
    """What all lanes of a shard have in common.

    spent: called with "labels/LABEL" and seconds. classes: the recipe's own lists of classes, by label.
    ward: of the shard. device: the thread of whatever computes on it. turns: with the lanes of other shards.
    """

    spent: Callable[[str, float], None]
    classes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    ward: Ward = field(default_factory=Ward)
    device: ThreadPoolExecutor = field(default_factory=lambda: _thread("fourmill-device"))
    stopped: threading.Event = field(default_factory=threading.Event)
    turns: AllTurns = field(default_factory=AllTurns)


class Lane:
    """The three threads of one specialist."""

    def __init__(self, name: str, specialist: Specialist, shared: Shared) -> None:
        self.name, self.specialist, self.shared = name, specialist, shared
        self._stages: Stages = specialist if specialist.is_split else _Whole(specialist)
        self._turns = shared.turns.of(name, specialist)
        self._held, self._counting = 0, threading.Lock()  # parts that have room
        self._prepares, self._finishes = (_thread(f"fourmill-{name}-{n}") for n in ("prepare", "finish"))
        self._infers = shared.device if specialist.gpus > 0 else _thread(f"fourmill-{name}-infer")

    def start(
        self, samples: Sequence[LabelledSample], after: Sequence[Future[None]], in_one: bool = False
    ) -> Future[None]:
        """Begin with samples once all of `after` are done: in parts of the specialist's size, or `in_one`. What is
        returned is done when each has its label, or the reason why there is none; its exception is a PlaceError."""
        done: Future[None] = Future()
        self._prepares.submit(self._enter, samples, after, done, in_one)
        return done

    def stop(self) -> None:
        """Begin nothing more. What runs now ends with its stage."""
        self._turns.room.give(0)
        for threads in (self._prepares, self._infers, self._finishes):
            threads.shutdown(wait=False, cancel_futures=True)

    def join(self) -> None:
        for threads in (self._prepares, self._infers, self._finishes):
            threads.shutdown()
        self._turns.room.give(self._held)  # of parts that came to no end
        self._held = 0

    def _hold(self, count: int) -> None:
        with self._counting:
            self._held += count

    def _enter(
        self, samples: Sequence[LabelledSample], after: Sequence[Future[None]], done: Future[None], in_one: bool
    ) -> None:
        with failing(done):
            for one in after:
                one.result()
            ready = [s for s in samples if self.name not in s.reasons and not lacks(s, self.name, self.specialist)]
            size = max(1, len(ready)) if in_one else self.specialist.batch_size
            for start in range(0, len(ready), size):
                self._turns.room.take(self.shared.stopped)
                self._hold(1)
                part = ready[start : start + size]
                if self.shared.ward.watch is not None:  # one stage after the other, here
                    self._finish_part(part, None, done)
                    continue
                self._infers.submit(self._infer_part, part, _Attempt.at(self._prepare, _items(part)), done)
            # Through both threads, so that it comes after all parts.
            self._infers.submit(lambda: self._finishes.submit(succeed, done))

    def _infer_part(self, part: Sequence[LabelledSample], prepared: _Attempt, done: Future[None]) -> None:
        with failing(done), _about(part):
            inferred = prepared if prepared.error is not None else _Attempt.at(self._infer, prepared.value)
            self._finishes.submit(self._finish_part, part, inferred, done)

    def _finish_part(self, part: Sequence[LabelledSample], inferred: _Attempt | None, done: Future[None]) -> None:
        try:
            with failing(done), _about(part):
                if not done.done():  # else an earlier part of the batch failed for a reason of the place
                    self._label(part, inferred)
        finally:
            self._hold(-1)
            self._turns.room.give()

    def _label(self, part: Sequence[LabelledSample], inferred: _Attempt | None) -> None:
        first = [inferred] if inferred is not None else []

        def run(items: Sequence[Item]) -> list[Any]:
            return self._finish(items, first.pop().get()) if first else self._at_once(items)

        values = batch(self.specialist.label, run, _items(part), self.shared.ward)
        names = len(class_names(self.name, self.shared.classes))
        for sample, value in zip(part, values, strict=True):
            kept = value if isinstance(value, Reject) else checked(self.name, value, sample.item.image, names)
            sample.keep(self.name, kept)

    def _at_once(self, items: Sequence[Item]) -> list[Any]:
        if self.shared.stopped.is_set():
            raise Stopped
        try:
            inferred = self._infers.submit(self._infer, self._prepare(items))
            return self._finish(items, inferred.result())
        except (CancelledError, RuntimeError):  # what is stopped cancels, or takes nothing: no failure of a sample
            if self.shared.stopped.is_set():
                raise Stopped from None
            raise

    def _prepare(self, items: Sequence[Item]) -> Any:
        with self._turns.prepare, self._timed():
            return self._stages.prepare(items)

    def _infer(self, prepared: Any) -> Any:
        with self._turns.infer, self._timed():
            return self._stages.infer(prepared)

    def _finish(self, items: Sequence[Item], inferred: Any) -> list[Any]:
        with self._turns.finish, self._timed():
            return self._stages.finish(items, inferred)

    @contextmanager
    def _timed(self) -> Iterator[None]:
        start = time.monotonic()
        try:
            yield
        finally:
            self.shared.spent(f"labels/{self.name}", time.monotonic() - start)


def _about(part: Sequence[LabelledSample]) -> AbstractContextManager[None]:
    """Lines of the log name the first of these samples, and how many more there are."""
    key, more = part[0].key, len(part) - 1
    return logs.about(key=f"{key}+{more}" if more else key)


def _items(samples: Sequence[LabelledSample]) -> list[Item]:
    return [sample.item for sample in samples]


@contextmanager
def failing(done: Future[None]) -> Iterator[None]:
    """What is raised within is what `done` ends with."""
    try:
        yield
    except BaseException as error:
        fail(done, error)


def fail(done: Future[None], error: BaseException) -> None:
    try:
        done.set_exception(error)
    except InvalidStateError:  # it has ended already
        return


def succeed(done: Future[None]) -> None:
    try:
        done.set_result(None)
    except InvalidStateError:
        return
