"""The mill: one shard in, its labels and columns out. What an actor does, without Ray.

A shard is read once. Decoding runs ahead in threads, specialists and tokenizers see batches, rows are collected in
the shard's order, and at the end every output is committed. A sample that fails anywhere becomes a null row with its
reason; only a shard that cannot be read at all raises.
"""

from __future__ import annotations

import json
import math
import threading
import time
from collections import Counter, defaultdict, deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ...infra import ledger, storage, versions
from ...infra.ledger import SAMPLES
from ...modalities import LABELS, Storage, import_modules
from ...tokenize import codecs, store
from ...tokenize import labels as label_files
from ...tokenize.crops import Crop, crops
from .. import images, source, tar
from ..outputs import Output, sources
from ..plan import ShardTask
from ..reject import Reject
from ..settings import Images
from ..specialists.base import Item, Specialist
from .settings import Engine


class RejectRun(RuntimeError):
    """So many rejects in a row that something is wrong with the data or the specialist, not with samples."""


@dataclass(frozen=True)
class Job:
    """Everything an actor needs to know; small enough to be sent to each."""

    root: str
    scratch: str
    images: Images
    options: codecs.Options
    engine: Engine
    specialists: dict[str, Specialist]
    outputs: dict[str, Output]
    modules: tuple[str, ...] = ()  # that declare modalities of the user's own


@dataclass
class Sample:
    """A sample on its way: the item that specialists see, its crops, and why its image or a label is missing."""

    item: Item
    crops: list[Crop] = field(default_factory=list)
    reasons: dict[str, str] = field(default_factory=dict)  # label -> reason


@dataclass
class Rows:
    """The rows of one output so far."""

    values: list[Any] = field(default_factory=list)
    rejects: list[dict[str, str]] = field(default_factory=list)


@dataclass
class Tally:
    """Counts that a driver may look at while a shard is being worked on.

    seconds: spent in each specialist and each codec, by output ("labels/depth", "tokens/tok_depth"); for "labels/..."
        of labels that are not kept as well.
    """

    samples: int = 0
    rejects: Counter[str] = field(default_factory=Counter)
    seconds: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))


class Mill:
    """Specialists and tokenizers, loaded once, and the work on a shard. Thread-safe: two shards may overlap, so that
    one decodes and writes while the other computes; computing is one shard at a time."""

    def __init__(self, job: Job) -> None:
        import_modules(job.modules)
        self.job = job
        self.tally = Tally()
        self.codecs: dict[str, codecs.Codec] = {}
        self._in_a_row: Counter[str] = Counter()  # rejects of each output, from shard to shard
        self._computing = threading.Lock()

    def setup(self, device: str) -> None:
        """Load every specialist and tokenizer of the job."""
        for specialist in self.job.specialists.values():
            specialist.setup(device)
        for output in self.job.outputs.values():
            if output.spec is not None:
                self.codecs[output.name] = codecs.load(
                    output.spec, self.job.options, self.job.root, device, output.tokenizers
                )

    def run(self, task: ShardTask) -> list[ledger.Record]:
        """Make and commit the outputs that the task's shard lacks.

        Raises:
            OSError, ValueError: the shard cannot be read at all; the text is the reason.
            RejectRun: too many rejects in a row.
        """
        start = time.monotonic()
        outputs = {name: self.job.outputs[name] for name in task.outputs}
        rows = {name: Rows() for name in outputs}
        keys: list[str] = []
        with source.open_shard(task.url, self.job.scratch) as shard:
            batches = self.labelled(shard, task, {output.label for output in outputs.values() if output.label})
            for batch in batches:
                for name, output in outputs.items():
                    if name != SAMPLES:
                        self._collect(output, batch, rows[name], task.shard)
                keys += [sample.item.key for sample in batch]
                self.tally.samples += len(batch)
            origin = ledger.Source(shard.size, task.version, shard.sha256)
            if SAMPLES in rows:
                rows[SAMPLES].values = list(keys)
                rows[SAMPLES].rejects = [{"key": key, "reason": reason} for key, reason in shard.rejects]
                self.tally.rejects.update(codecs.gist(reason) for _, reason in shard.rejects)
        seconds = time.monotonic() - start
        return [self._commit(task, outputs[name], origin, keys, rows[name], seconds) for name in outputs]

    def measure(self, task: ShardTask, outputs: Sequence[str], count: int) -> tuple[int, float]:
        """Make every label of the job, and these outputs, of the first `count` samples of a shard, and throw them away:
        (samples, seconds).

        The seconds of each specialist and codec are in `tally`. A batch before warms up what is made at first use.
        """
        asked = [self.job.outputs[name] for name in outputs if name != SAMPLES]
        labels = {*self.job.specialists, *(output.label for output in asked)}
        with source.open_shard(task.url, self.job.scratch) as shard:
            rows = range(min(count, len(shard.samples)))
            for warm in (rows[:1], rows):
                self.tally, start = Tally(), time.monotonic()
                for batch in self.labelled(shard, task, labels, warm):
                    for output in asked:
                        self._collect(output, batch, Rows(), task.shard)
                    self.tally.samples += len(batch)
        return self.tally.samples, time.monotonic() - start

    def samples_of(self, task: ShardTask) -> int:
        """How many samples a shard has."""
        with source.open_shard(task.url, self.job.scratch) as shard:
            return len(shard.samples)

    def labelled(
        self, shard: source.Shard, task: ShardTask, labels: set[str], rows: Sequence[int] | None = None
    ) -> Iterator[list[Sample]]:
        """The shard's samples in batches, in order, with these labels (read where the task says they are stored).

        Args:
            rows: only these samples.
        """
        needed = sources(self.job.specialists, labels, task.stored)
        stored = {label: self._stored(task, label) for label in task.stored if label in needed}
        entries = shard.samples if rows is None else [shard.samples[row] for row in rows]
        batches = self._decoded(shard, entries, wants_image=bool(labels - {"caption"}))
        batch = next(batches, [])  # decode ahead before taking the turn
        with self._computing:
            while batch:
                self._label(batch, needed, stored)
                yield batch
                batch = next(batches, [])

    def _stored(self, task: ShardTask, label: str) -> dict[str, Any]:
        """A kept label of the shard by key, still encoded; a Reject with the reason of the time where it has none."""
        output = f"labels/{label}"
        data = storage.read_bytes(ledger.output_url(self.job.root, output, task.shard))
        _, keys, cells = label_files.read_cells(data)
        record = ledger.read(self.job.root, output, task.shard)
        rejects = record.rejects if record is not None else []
        return dict(zip(keys, cells, strict=True)) | {reject["key"]: Reject(reject["reason"]) for reject in rejects}

    def _decoded(self, shard: source.Shard, entries: Sequence[tar.Sample], wants_image: bool) -> Iterator[list[Sample]]:
        """Batches of samples, decoded ahead by threads, in the shard's order."""
        size = self.job.engine.batch_size
        ahead = size + 2 * self.job.engine.decode_threads  # decoded images are large: no more than the next batch
        pending: deque[Future[Sample]] = deque()
        with ThreadPoolExecutor(self.job.engine.decode_threads) as pool:
            batch: list[Sample] = []
            for entry in entries:
                pending.append(pool.submit(self._decode, shard, entry, wants_image))
                if len(pending) >= ahead:
                    batch.append(pending.popleft().result())
                if len(batch) == size:
                    yield batch
                    batch = []
            for future in pending:
                batch.append(future.result())
                if len(batch) == size:
                    yield batch
                    batch = []
            if batch:
                yield batch

    def _decode(self, shard: source.Shard, entry: tar.Sample, wants_image: bool) -> Sample:
        sample = Sample(Item(entry.key, None, None))
        sample.item.info = shard.info(entry)
        try:
            sample.item.caption = shard.caption(entry)
        except Reject as reject:
            sample.reasons["caption"] = reject.reason
        if not wants_image:
            return sample
        try:
            image = images.decode(shard.image(entry), self.job.images.max_pixels)
        except Reject as reject:
            sample.reasons["rgb"] = reject.reason
            return sample
        settings = self.job.images
        height, width = image.shape[:2]
        sample.item.image = image
        sample.crops = crops(
            self.job.options.seed,
            entry.key,
            width,
            height,
            settings.crops,
            scale=(settings.crop_scale, 1.0),
            hflip=settings.hflip,
        )
        return sample

    def _label(self, batch: list[Sample], needed: set[str], stored: dict[str, dict[str, Any]]) -> None:
        """Make every needed label of a batch, in dependency order."""
        for sample in batch:
            if sample.item.image is not None:
                sample.item.labels["rgb"] = sample.item.image
        for label, cells in stored.items():
            kind = LABELS[label].storage
            for sample in batch:
                cell = cells.get(sample.item.key)
                value = label_files.decode_cell(kind, cell) if isinstance(cell, bytes | str) else cell
                self._take(sample, label, value)
        for label, specialist in self.job.specialists.items():
            if label not in needed or label in stored:
                continue
            ready = [s for s in batch if label not in s.reasons and not _lacks(s, label, specialist)]
            start = time.monotonic()
            for sample, value in zip(ready, _call(specialist, [s.item for s in ready]), strict=True):
                if not isinstance(value, Reject):
                    value = _checked(label, value, sample.item.image)
                self._take(sample, label, value)
            self.tally.seconds[f"labels/{label}"] += time.monotonic() - start

    def _take(self, sample: Sample, label: str, value: Any) -> None:
        """Keep a label, or why there is none."""
        if value is None:
            value = Reject(f"{label}: no value is stored")
        if isinstance(value, Reject):
            sample.reasons.setdefault(label, value.reason)
        else:
            sample.item.labels[label] = value

    def _collect(self, output: Output, batch: list[Sample], rows: Rows, shard: str) -> None:
        """Append one row for each sample of the batch: the label or its tokens, or null with a reason."""
        ready = [s for s in batch if output.label in s.item.labels]
        start = time.monotonic()
        values = {id(sample): value for sample, value in zip(ready, self._rows(output, ready), strict=True)}
        self.tally.seconds[output.name] += time.monotonic() - start
        most = self.job.engine.max_reject_run
        for sample in batch:
            value = values.get(id(sample))
            if value is not None and not isinstance(value, Exception):
                self._in_a_row[output.name] = 0
                rows.values.append(value)
                continue
            reason = str(value) if value is not None else sample.reasons.get(output.label, f"{output.label}: none")
            rows.values.append(None)
            rows.rejects.append({"key": sample.item.key, "reason": reason})
            self.tally.rejects[codecs.gist(reason)] += 1
            self._in_a_row[output.name] += 1
            if self._in_a_row[output.name] >= most:
                raise RejectRun(
                    f"{output.name}: {most} rejects in a row, the last at shard {shard}, key {sample.item.key}: "
                    f"{reason}. If the data is really so, raise engine.max_reject_run"
                )

    def _rows(self, output: Output, samples: list[Sample]) -> list[Any]:
        """The rows of samples that have the output's label, as they will be stored, or why one cannot be."""
        if output.spec is not None:
            labelled = [codecs.Labelled(s.item.key, s.item.labels[output.label], s.crops, _size(s)) for s in samples]
            return self.codecs[output.name].encode(labelled)
        # Encoded at once: a shard of decoded pictures would not fit into memory.
        rows: list[Any] = []
        for sample in samples:
            try:
                rows.append(label_files.encode_cell(LABELS[output.label].storage, sample.item.labels[output.label]))
            except ValueError as error:
                rows.append(Reject(f"{output.label}: {error}"))
        return rows

    def _commit(
        self, task: ShardTask, output: Output, origin: ledger.Source, keys: list[str], rows: Rows, seconds: float
    ) -> ledger.Record:
        data = None
        if output.spec is not None:
            codec = self.codecs[output.name]
            data = store.encode_column(codec.column_spec(output.tokenizers), keys, rows.values)
        elif output.name != SAMPLES:
            data = label_files.encode_cells(output.label, LABELS[output.label].storage, keys, rows.values)
        record = ledger.Record(
            output=output.name,
            shard=task.shard,
            fingerprint=output.fingerprint,
            source=origin,
            rows=len(keys),
            nulls=sum(value is None for value in rows.values),
            rejects=rows.rejects,
            bytes=0,
            sha256="",
            seconds=round(seconds, 3),
            identity=output.identity | versions.identity(output.parts, task.versions),
        )
        return ledger.commit(self.job.root, record, data)


def _lacks(sample: Sample, label: str, specialist: Specialist) -> bool:
    """Whether a sample has not what a label is made from; the reason is noted."""
    if specialist.needs_image and sample.item.image is None:
        sample.reasons[label] = sample.reasons.get("rgb", "image: there is none")
        return True
    for need in specialist.needs:
        if need not in sample.item.labels:
            sample.reasons[label] = f"{label}: needs {need}, which is missing ({sample.reasons.get(need, 'none')})"
            return True
    return False


def _size(sample: Sample) -> tuple[int, int]:
    image = sample.item.image
    return (0, 0) if image is None else (image.shape[1], image.shape[0])


def _call(specialist: Specialist, items: list[Item]) -> list[Any]:
    """Labels of a batch. If the specialist raises, the items are tried one by one, so that only the culprit suffers."""
    made: list[Any] = []
    for start in range(0, len(items), specialist.batch_size):
        part = items[start : start + specialist.batch_size]
        try:
            made += specialist(part)
        except Exception:
            made += [_call_one(specialist, item) for item in part]
    return made


def _call_one(specialist: Specialist, item: Item) -> Any:
    try:
        return specialist([item])[0]
    except Exception as error:
        return Reject(f"{specialist.label}: {type(error).__name__}: {error}")


def _checked(label: str, value: Any, image: np.ndarray | None) -> Any:
    """The label, or a Reject if it is empty, not finite, or not what its storage holds at the image's frame."""
    if value is None:
        return Reject(f"{label}: the specialist returned nothing")
    kind = LABELS[label].storage
    if kind is Storage.JSON:
        try:
            json.dumps(value, allow_nan=False)
        except (ValueError, TypeError) as error:
            return Reject(f"{label}: not JSON: {error}")
        return value
    if not isinstance(value, np.ndarray) or value.size == 0:
        return Reject(f"{label}: empty label")
    if kind is Storage.IMAGE and (value.dtype != np.uint8 or value.ndim not in (2, 3)):
        return Reject(f"{label}: {value.dtype} {value.shape}, expected uint8 (H, W) or (H, W, 3)")
    if kind is Storage.IMAGE and image is not None and value.shape[:2] != image.shape[:2]:
        return Reject(f"{label}: {value.shape[:2]}, expected the image's frame, {image.shape[:2]}")
    if kind is Storage.ARRAY and not math.isfinite(float(np.sum(value, dtype=np.float64))):
        return Reject(f"{label}: NaN or infinite values")
    return value
