"""What to do when a batch fails: find out whether it is the samples or the place, and never record the latter.

The same batch is first tried again, whole. An error of the place (infra/faults.py) sends the shard to another actor.
Memory splits the batch; a sample that does not fit alone is a suspect where another one does. Otherwise its samples are
tried one by one: those that fail alone are suspects, and become rejects only if they fail in another actor as well. An
actor in which a specialist has never worked proves nothing.
"""

from __future__ import annotations

import gc
import logging
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from ...infra import faults
from ...infra.explain import reason_class
from ...infra.faults import Of
from ..engine.job import NO_HINTS, Hints, PlaceError, Sign
from ..reject import Reject
from .watch import Watch

logger = logging.getLogger(__name__)

WAIT_SECONDS = 1.0  # before a batch is tried again after an error that may be over soon
TOO_LARGE = "it does not fit into memory, not even alone"  # must not read as an error of the place
MAX_UNPROVEN = 32  # samples of a specialist that may fail before any works, until the place is held for broken


@dataclass
class Ward:
    """What is known of errors during the work on one shard, and in this actor before. Each is filed under the name of a
    specialist or codec: its label, or its output.

    hints: of other actors. alone: there is no other actor to ask (a fit, a measurement): suspects are rejects at once.
    probes: of each name a sample that worked here; kept from shard to shard.
    known: errors that have followed a sample here from another actor; kept from shard to shard.
    suspects: samples of this shard that failed here, with their reasons; those of `judged` did elsewhere, too.
    splits: batches that were made in parts, since they did not fit into memory or killed their worker, in words,
        with the key of the first sample.
    large: samples of this shard that did not fit into memory alone.
    watch: over the calls, where a worker died at this shard.
    """

    hints: Hints = NO_HINTS
    alone: bool = True
    probes: dict[str, Any] = field(default_factory=dict)
    known: set[Sign] = field(default_factory=set)
    suspects: dict[Sign, str] = field(default_factory=dict)
    judged: dict[Sign, str] = field(default_factory=dict)
    splits: list[tuple[str, str]] = field(default_factory=list)
    large: set[Sign] = field(default_factory=set)
    watch: Watch | None = None

    def judge(self, name: str, key: str, error: Exception) -> Reject:
        """The reject of a sample that failed alone; of a suspect it stands until the verdict."""
        reject = error if isinstance(error, Reject) else Reject(_reason(name, error))
        if self.alone or faults.of(error) is Of.SAMPLE:
            return reject
        error_sign = (name, reason_class(reject.reason))
        if (name, key) in self.hints.suspects:
            self.known.add(error_sign)
            self.judged[name, key] = reject.reason
        elif error_sign in self.known or error_sign in self.hints.known:
            self.judged[name, key] = reject.reason
        else:
            self.suspects[name, key] = reject.reason
        return reject

    def too_large(self, name: str, key: str) -> Reject:
        """The reject of a sample that does not fit into memory; of a suspect it stands until the verdict. Nothing
        follows for other samples."""
        reject = Reject(f"{name}: {TOO_LARGE}")
        self.large.add((name, key))
        if not self.alone:
            there = self.judged if (name, key) in self.hints.suspects else self.suspects
            there[name, key] = reject.reason
        return reject

    def split(self, name: str, items: Sequence[Any], why: str) -> None:
        self.splits.append((items[0].key, f"{name}: {len(items)} samples from {items[0].key} {why}"))

    @property
    def unproven(self) -> set[str]:
        """Names of which nothing worked here, so that what failed proves nothing."""
        return {name for name, _ in (*self.judged, *self.suspects)} - self.probes.keys()

    @property
    def doubts(self) -> set[str]:
        """Keys of samples of which nothing may be recorded yet."""
        unproven = self.unproven
        return {key for name, key in (*self.judged, *self.suspects) if name in unproven or (name, key) in self.suspects}

    def verdict(self, shard: str) -> None:
        """Called when a shard is done. PlaceError if another actor must do it before anything may be recorded."""
        failed = self.judged | self.suspects
        for (name, key), reason in failed.items():
            if name not in self.probes:
                said = f"shard {shard}: no sample works, the first, {key}: {reason}"
                raise PlaceError(said, suspects=frozenset(failed))
        for (_, key), reason in self.suspects.items():
            said = f"shard {shard}: {len(self.suspects)} samples failed, the first, {key}: {reason}"
            raise PlaceError(said, suspects=frozenset(self.suspects), in_doubt=True)


Run = Callable[[Sequence[Any]], list[Any]]


def batch(name: str, run: Run, items: Sequence[Any], ward: Ward) -> list[Any]:
    """What `run` makes of a batch, an exception for each sample of which it makes nothing.

    Args:
        run: gives one value for each item; any may be an exception.
        items: with a `key`.

    Raises:
        PlaceError: it failed for a reason of the place.
    """
    if ward.watch is None:
        return _batch(name, run, items, ward)
    if ward.watch.is_apart(name, items):
        ward.split(name, items, "killed their worker together")
    values = _batch(name, ward.watch.over(name, run), items, ward)
    signs = [(name, item.key) for item in items]
    ward.judged |= {sign: ward.watch.killers[sign] for sign in signs if sign in ward.watch.killers}
    return values


def _batch(name: str, run: Run, items: Sequence[Any], ward: Ward) -> list[Any]:
    error = None
    for attempt in (1, 2):
        try:
            values = _usable(run(items))
        except Exception as raised:
            error = raised
        else:
            _remember(name, items, values, ward)
            return values
        if faults.of(error) is Of.SAMPLE:
            break
        logger.warning("%s: a batch of %d failed (attempt %d): %r", name, len(items), attempt, error)
        if attempt == 1:
            _recover(error)
    assert error is not None
    if faults.name(error) == "memory" and len(items) > 1:
        half = len(items) // 2
        ward.split(name, items, "did not fit into memory together")
        return _batch(name, run, items[:half], ward) + _batch(name, run, items[half:], ward)
    if faults.name(error) == "memory" and _is_its_own(name, run, items[0], ward):
        return [ward.too_large(name, items[0].key)]
    if _of_place(name, error):
        raise PlaceError.of(error, f"{name}, key {items[0].key}") from error
    values = [error] if len(items) == 1 else [_alone(name, run, item) for item in items]
    _remember(name, items, values, ward)
    unknown = [v for v in values if isinstance(v, Exception) and faults.of(v) is not Of.SAMPLE]
    if len(unknown) == len(items) and not ward.alone:
        _test_the_place(name, run, items, ward, error)
    return [ward.judge(name, i.key, v) if isinstance(v, Exception) else v for i, v in zip(items, values, strict=True)]


def _remember(name: str, items: Sequence[Any], values: Sequence[Any], ward: Ward) -> None:
    """Keep one sample that works, for `_test_the_place`."""
    if name in ward.probes:
        return
    for item, value in zip(items, values, strict=False):
        if value is not None and not isinstance(value, Exception):
            ward.probes[name] = item
            return


def _test_the_place(name: str, run: Run, items: Sequence[Any], ward: Ward, error: Exception) -> None:
    """All samples of a batch failed. PlaceError if one that worked here before fails now, or too many failed without
    any that worked."""
    if name in ward.probes:
        value = _alone(name, run, ward.probes[name])
        works = not isinstance(value, Exception) or faults.of(value) is Of.SAMPLE
    else:
        works = sum(other == name for other, _ in list(ward.suspects)) < MAX_UNPROVEN  # other threads may add to it
    if not works:
        suspects = {(name, item.key) for item in items} if name not in ward.probes else set()
        where = f"{name}, all of {len(items)} samples from {items[0].key}"
        raise PlaceError.of(error, where, frozenset(suspects.union(ward.suspects))) from error


def _is_its_own(name: str, run: Run, item: Any, ward: Ward) -> bool:
    """Whether a sample that does not fit into memory alone is itself too large: one that worked here works now. Before
    any has worked, one sample may be so, and with a second one it is the place."""
    if name not in ward.probes:
        return not any(other == name and key != item.key for other, key in ward.large)
    try:
        return not isinstance(_usable(run([ward.probes[name]]))[0], Exception)
    except Exception:
        return False


def _alone(name: str, run: Run, item: Any) -> Any:
    """The value of one sample, or the exception. PlaceError for errors of the place."""
    try:
        return _usable(run([item]))[0]
    except Exception as error:
        if _of_place(name, error):
            raise PlaceError.of(error, f"{name}, key {item.key}") from error
        return error


def _usable(values: list[Any]) -> list[Any]:
    """The values. PlaceError if one is the exception of a place, or was written from one."""
    for value in values:
        if isinstance(value, Exception) and (faults.of_place(value) or faults.reads_as_place(str(value))):
            raise PlaceError(str(value), faults.name(value)) from value
    return values


def _of_place(name: str, error: Exception) -> bool:
    # By its reason as well: what is recorded must never read as what is made again (pipelines/plan.py).
    return faults.of_place(error) or faults.reads_as_place(_reason(name, error))


def _reason(name: str, error: Exception) -> str:
    return f"{name}: {type(error).__name__}: {error}"


def _recover(error: Exception) -> None:
    """Before the second attempt: free what can be freed, and wait if time may help."""
    row = faults.find(error)
    if row is None:
        return
    if row.name == "memory":
        error.__traceback__ = None  # its frames hold the tensors
        gc.collect()
        if (torch := sys.modules.get("torch")) is not None and torch.cuda.is_available():
            torch.cuda.empty_cache()
    if row.soon:
        time.sleep(WAIT_SECONDS)
