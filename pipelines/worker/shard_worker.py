"""The shard worker: one shard in, its labels and columns out. It knows nothing of Ray.

A shard is read once. Decoding runs ahead in threads, specialists work beside each other on a few batches (lanes.py)
while the oldest batch is tokenized, rows are collected in the shard's order, and at the end every output is committed.
A sample that fails anywhere becomes a null row with its reason; only a shard that cannot be read at all raises.
"""

from __future__ import annotations

import itertools
import logging
import threading
import time
from collections import Counter
from collections.abc import Collection, Generator, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import replace
from typing import Any

from ...infra import faults, ledger, logs, removals, storage
from ...infra.explain import reason_class
from ...infra.ledger import SAMPLES
from ...infra.remote import trouble
from ...infra.secrets import public
from ...modalities import import_modules
from ...sensors.declared import SENSORS, weighs
from ...tokenize import codecs
from .. import source
from ..borders.find import BARS
from ..engine.calls import Calls
from ..engine.job import NO_HINTS, HandedBack, Hints, PlaceError, Sign, Status, StopJob
from ..outputs import Output, sources
from ..plan import ShardTask
from ..reject import UNREAD
from ..sensors import parallel
from . import chunks, circumstances
from .chunks import Chunks, Part, gaps, joined
from .decode import IMAGE, decode, decoded
from .isolate import Ward
from .job import Job
from .label import Stored, begin, read_stored
from .lane import AllTurns, Shared
from .lanes import AHEAD, Lanes, begin_of_texts
from .patience import Patience
from .readings import drop_other_readings
from .reject_run import InARow
from .rows import Made, Rows, commit, encode
from .sample import LabelledSample
from .since import committed_since
from .tally import Tally
from .watch import Watch

logger = logging.getLogger(__name__)

WINDOW_ON_GPU = 4  # batches, unless `engine.window` says another number
REFUSED = ("access", "busy", "network")  # rows of `infra.faults`


class ShardWorker:
    """Specialists and tokenizers, loaded once, and the work on a shard.

    Thread-safe: two shards may overlap, so that one decodes and writes while the other one computes. Each computes in
    threads of its own; one begins with batches when the last batch of the other one has begun.
    """

    def __init__(self, job: Job) -> None:
        import_modules(job.modules)
        self.job = job
        self.tally = Tally()
        self.codecs: dict[str, codecs.Codec] = {}  # by output
        self._probes: dict[str, Any] = {}  # see `Ward`
        self._known: set[Sign] = set()
        self._patience = Patience(job.engine.patience)
        self._in_a_row = InARow(job.engine.max_reject_run)  # goes on from shard to shard
        self._computing, self._collecting = threading.Lock(), threading.Lock()
        self._turns = AllTurns()
        self._leaving = threading.Event()
        self._window = job.engine.window or 1
        self._by: dict[str, Any] = {}  # what records say of this worker

    def setup(self, device: str) -> None:
        """Load every specialist and tokenizer of the job."""
        if self.job.engine.window is None and device.startswith("cuda"):
            self._window = WINDOW_ON_GPU
        for specialist in self.job.specialists.values():
            specialist.setup(device)
        for output in self.job.outputs.values():
            if output.spec is not None:
                self.codecs[output.name] = codecs.load(
                    output.spec, self.job.options, self.job.root, device, output.tokenizers
                )
        self._by = circumstances.of_worker(self.job.specialists, self.codecs.values(), device)

    def status(self) -> Status:
        return Status(
            self.tally.samples,
            Counter(self.tally.rejects),
            frozenset(self._known.copy()),
            self._patience.waiting or trouble(),
            frozenset(self._probes.copy()) | ({IMAGE} if self.tally.samples else set()),
            shares=self.tally.shares(),
        )

    def hand_back(self) -> None:
        """Stop at shards: what is made of them is kept."""
        self._leaving.set()

    def run(self, task: ShardTask, hints: Hints = NO_HINTS) -> list[ledger.Record]:
        """`make`; returns the records alone."""
        return [one.record for one in self.make(task, hints)]

    def make(self, task: ShardTask, hints: Hints = NO_HINTS) -> list[ledger.Committed]:
        """Make and commit the outputs that the task's shard lacks, but those that another job has made meanwhile.

        Raises:
            OSError, ValueError: the shard cannot be read at all, or changes while it is; the text is the reason.
            PlaceError: the place failed, or may have; nothing is recorded.
            HandedBack: its node is about to leave.
            RejectRun: too many rejects in a row.
        """
        with logs.about(shard=task.shard):
            return self._run_or_explain(task, hints)

    def _run_or_explain(self, task: ShardTask, hints: Hints) -> list[ledger.Committed]:
        """`make`, whose errors it makes."""
        try:
            there = [ledger.Committed(record) for record in committed_since(self.job, task)]
            left = tuple(name for name in task.outputs if name not in {one.record.output for one in there})
            if not left:  # a worker that died after its commits left its chunks
                chunks.clear(self.job.root, task.shard)
                return there
            task = replace(task, outputs=left)
            try:
                return there + self._run(task, self._ward(hints))
            except source.Changed as error:
                # Once more, with the sum of its bytes taken before the first read: if they change again it fails.
                logger.warning("%s; it is read again", error)
                return there + self._run(task, self._ward(hints), hash_first=True)
        except (StopJob, PlaceError, source.Changed):
            raise
        except Exception as error:
            if isinstance(error, OSError | ValueError) and not faults.of_place(error):
                raise
            logger.exception("shard %s", task.shard)
            failed = PlaceError.of(error, f"shard {task.shard}")
            if (
                failed.fault in REFUSED
            ):  # a token that has expired is refused everywhere: no other actor would do better
                self._patience.keep(lambda: storage.exists(storage.join(self.job.root, "recipe.yaml")))
            raise failed from error

    def _ward(self, hints: Hints) -> Ward:
        watch = None if hints.care is None else Watch(Calls(self.job.root), hints.care)
        return Ward(hints, False, self._probes, self._known, watch=watch)

    def _run(self, task: ShardTask, ward: Ward, hash_first: bool = False) -> list[ledger.Committed]:
        start = time.monotonic()
        outputs = {name: self.job.outputs[name] for name in task.outputs}
        removed = removals.read(self.job.root)
        with parallel.open_shard(task.url, self.job.scratch, self.job.every_key, self.job.key) as shard:
            shard.withhold(removed, task.shard)
            if shard.regrouped:
                drop_other_readings(self.job.root, task, [sample.key for sample in shard.samples])
            if hash_first:
                logger.info("shard %s: sum %s", task.shard, shard.sha256)
            labels = {output.label for output in outputs.values() if output.label}
            stored = self._stored(shard, task, labels)
            kept = self._chunks(task, shard, outputs, stored, hash_first)
            parts = kept.read()
            before = sum(part.seconds for part in parts)
            try:
                for span in gaps(parts, len(shard.samples)):
                    self._make(shard, stored, outputs, span, parts, kept, ward)
                self._prove(shard, stored, outputs, parts, ward)
            except HandedBack:
                self._keep(kept, parts, ward)
                raise
            whole = joined(parts, outputs)
            origin = shard.origin(hash_first)
            if any(one.source.sha256 != origin.sha256 for one in stored.values()):
                raise source.Changed(f"shard {public(task.url)}: its stored labels were made of other bytes")
            if SAMPLES in outputs:
                problems = shard.problems(self.job.reads)
                listed = [{"key": key, "reason": reason} for key, reason in problems]
                whole.rows[SAMPLES] = Rows(list(whole.keys), listed)
                rejects = (reason for _, reason in problems if not reason.startswith(UNREAD))
                self.tally.rejects.update(reason_class(reason) for reason in rejects)
        ward.verdict(task.shard)
        by = self._by | circumstances.of_attempt() | ({BARS: whole.barred} if whole.barred else {})
        if whole.hosts:  # of chunks
            by["host"] = "; ".join(dict.fromkeys([*whole.hosts, by["host"]]))
        made = Made(origin, before + time.monotonic() - start, by, tuple(whole.splits))
        committed = [
            commit(
                self.job.root,
                task,
                output,
                self.codecs.get(name),
                made,
                whole.keys,
                whole.rows[name],
                self.job.classes,
                self._patience,
            )
            for name, output in outputs.items()
        ]
        if removals.read(self.job.root) != removed:  # by now it may be through with this shard
            raise source.Changed(f"shard {task.url}: samples of it were removed while it was made")
        kept.clear()
        count = len(whole.keys)
        logger.info("shard %s: %d outputs of %d samples in %.1f s", task.shard, len(outputs), count, made.seconds)
        return committed

    def _chunks(
        self,
        task: ShardTask,
        shard: source.Shard,
        outputs: Mapping[str, Output],
        stored: Mapping[str, Stored],
        hashed_before: bool,
    ) -> Chunks:
        by = {name: value for name, value in self._by.items() if name != "host"}
        plan = {"batch_size": self.job.engine.batch_size, "window": self._window}
        made_by = {**plan, "by": by, "stored": {name: one.sha256 for name, one in stored.items()}}
        host, doubted = self._by.get("host", ""), self.job.doubted
        return Chunks(self.job.root, task, shard, hashed_before, outputs, self.codecs, made_by, host, doubted)

    def _make(
        self,
        shard: source.Shard,
        stored: Mapping[str, Stored],
        outputs: Mapping[str, Output],
        span: range,
        parts: list[Part],
        chunks: Chunks,
        ward: Ward,
    ) -> None:
        """Make the rows of a span of samples: `parts` gets one for each window of batches. From time to time those that
        are in no doubt are kept."""
        labels = {output.label for output in outputs.values() if output.label}
        # With care the next death may be near, and each attempt should begin where the last one was.
        every = self.job.engine.chunk_seconds if ward.watch is None else 0.0
        part, began, kept = Part.begin(span.start, outputs), 0.0, 0.0
        # Closed at once: another shard may wait for it to end.
        with closing(self._labelled(shard, stored, labels, span, ward, AHEAD)) as batches:
            for batch, ends_window in batches:
                now = time.monotonic()
                began, kept = began or now, kept or now  # not while another shard was at work
                with self._collecting:  # codecs and counts are of one shard at a time
                    for name, output in outputs.items():
                        if name != SAMPLES:
                            self._collect(output, batch, part.rows[name], chunks.shard, ward)
                    self.tally.samples += len(batch)
                part.look(outputs, batch)
                part.keys += [sample.key for sample in batch]
                part.barred += sum(sample.has_bars for sample in batch)
                if not ends_window:
                    continue
                now = time.monotonic()
                part.seconds, began = now - began, now
                keys = set(part.keys) if ward.splits else ()
                part.splits = [said for key, said in ward.splits if key in keys]
                parts.append(part)
                part = Part.begin(part.stop, outputs)
                if now - kept >= every:
                    self._keep(chunks, parts, ward)
                    kept = time.monotonic()
                if self._leaving.is_set() and any(gaps(parts, len(shard.samples))):
                    raise HandedBack(f"shard {chunks.shard}: its node is about to leave")

    def _keep(self, chunks: Chunks, parts: Sequence[Part], ward: Ward) -> None:
        doubts = ward.doubts
        sure = [part for part in parts if not part.is_kept and doubts.isdisjoint(part.keys)]
        try:
            self._patience.keep(lambda: chunks.keep(sure))
        except (OSError, ValueError) as error:
            if isinstance(error, source.Changed):
                raise
            logger.warning("shard %s: what is made of it cannot be kept until it is done: %s", chunks.shard, error)

    def _prove(
        self,
        shard: source.Shard,
        stored: Mapping[str, Stored],
        outputs: Mapping[str, Output],
        parts: Sequence[Part],
        ward: Ward,
    ) -> None:
        """What failed proves something where something worked. If all that did is in chunks, some of it is made again,
        and thrown away."""
        labels = {output.label for output in outputs.values() if output.label}
        for part in parts:
            if not ward.unproven:
                return
            if part.is_kept:
                rows = range(part.start, min(part.stop, part.start + self.job.engine.batch_size))
                for batch, _ in self._labelled(shard, stored, labels, rows, ward):
                    with self._collecting:
                        for output in outputs.values():
                            encode(output, self.codecs.get(output.name), _having(batch, output), ward, self.job.drawing)

    def _stored(self, shard: source.Shard, task: ShardTask, labels: set[str]) -> dict[str, Stored]:
        """The stored labels that the task needs, as far as they were made of the bytes that are there now.

        ValueError if the shard was replaced since the plan, and this job cannot make them again.
        """
        needed = sources(self.job.specialists, labels, task.stored)
        stored = {name: read_stored(self.job.root, name, task.shard) for name in task.stored if name in needed}
        good = {name: one for name, one in stored.items() if shard.is_of(one.source)}
        if len(good) < len(stored):
            makes = {*self.job.specialists, "rgb"} | good.keys()
            if sources(self.job.specialists, labels, good) - makes:
                raise ValueError(
                    f"shard {public(task.url)}: it changed since the plan was made; run the same command again"
                )
            logger.warning("shard %s changed since its labels were made; they are made again", task.shard)
        return good

    def measure(
        self, task: ShardTask, outputs: Sequence[str], count: int, labels: Collection[str] = ()
    ) -> tuple[int, float]:
        """Make every label of the job, and these outputs, of the first `count` samples of a shard, and throw them away:
        (samples, seconds).

        The seconds of each specialist and codec are in `tally`, and the rejects of outputs and other labels.

        Args:
            labels: that are made beside those of the job's specialists ("rgb").
        """
        asked = [self.job.outputs[name] for name in outputs if name != SAMPLES]
        others = {*self.job.specialists, *labels} - {output.label for output in asked}
        wanted = {*others, *(output.label for output in asked)}
        with parallel.open_shard(task.url, self.job.scratch, self.job.every_key, self.job.key) as shard:
            shard.withhold(removals.read(self.job.root), task.shard)
            rows = range(min(count, len(shard.samples)))
            # The first sample once before: what is built at first use (kernels, lookup tables) is not measured.
            for chosen in (rows[:1], rows):
                self.tally, start = Tally(), time.monotonic()
                for batch in self.labelled(shard, task, wanted, chosen):
                    for output in asked:
                        self._collect(output, batch, Rows(), task.shard)
                    lacking = [(s, name) for s in batch for name in others if name not in s.item.labels]
                    self.tally.rejects.update(reason_class(s.reasons.get(name, f"{name}: none")) for s, name in lacking)
                    self.tally.samples += len(batch)
            self.tally.problems.update(reason_class(reason) for _, reason in shard.problems(self.job.reads))
        return self.tally.samples, time.monotonic() - start

    def samples_of(self, task: ShardTask) -> int:
        """How many samples a shard has."""
        with parallel.open_shard(task.url, self.job.scratch, self.job.every_key, self.job.key) as shard:
            return len(shard.samples)

    def labelled(
        self,
        shard: source.Shard,
        task: ShardTask,
        labels: set[str],
        rows: Sequence[int] | None = None,
        ward: Ward | None = None,
    ) -> Iterator[list[LabelledSample]]:
        """The shard's samples in batches, in order, with these labels (read where the task says they are stored). Each
        is labelled when it is asked for, since the caller may have enough.

        Args:
            rows: only these samples.
            ward: of the shard; without one there is no other actor, and samples that fail are rejects at once.

        Raises:
            PlaceError: the place failed.
        """
        batches = self._labelled(shard, self._stored(shard, task, labels), labels, rows, ward)
        with closing(batches):
            for batch, _ in batches:
                yield batch

    def _labelled(
        self,
        shard: source.Shard,
        stored: Mapping[str, Stored],
        labels: set[str],
        rows: Sequence[int] | None = None,
        ward: Ward | None = None,
        ahead: int = 0,
    ) -> Generator[tuple[list[LabelledSample], bool]]:
        """As `labelled`, and with each batch whether it ends a window. With `ahead` the rows follow each other, and are
        seen together as they are when the whole shard is made."""
        ward = ward or Ward()
        needed = sources(self.job.specialists, labels, stored)
        entries = shard.samples if rows is None else [shard.samples[row] for row in rows]
        made = {name: one for name, one in self.job.specialists.items() if name in needed and name not in stored}
        members, raw = (
            sorted({name for one in made.values() if one.takes_bytes is of_bytes for name in one.reads()})
            for of_bytes in (False, True)
        )
        # Sensors have frames of their own.
        wants_image = any(not weighs(one) for one in labels - {"caption"} - SENSORS.keys())
        batches = decoded(self.job, shard, entries, wants_image, members, ward.watch, raw)
        first = next(batches, [])  # before the lock, so that it is decoded while the other shard computes
        cells = {name: one.cells for name, one in stored.items()}

        def begun() -> Iterator[list[LabelledSample]]:
            for batch in itertools.chain([first] if first else [], self.tally.waiting(batches)):
                begin(batch, cells)
                yield batch

        def texts(position: int, count: int) -> list[LabelledSample]:
            return [decode(self.job, shard, entry, False) for entry in shard.samples[position : position + count]]

        with ExitStack() as turn:  # closed when the last batch has begun: the next shard need not wait for its end
            turn.enter_context(self._computing)
            if self._leaving.is_set():  # it waited for the other shard
                raise HandedBack("its node is about to leave")
            shared = Shared(self.tally.spent, self.job.classes, ward, turns=self._turns)
            # Who may have enough gets no more than a batch.
            if not ahead:
                lanes = Lanes(made, shared)
            else:
                at = rows[0] if rows else 0
                of_texts = begin_of_texts(at, self.job.engine.batch_size, len(shard.samples))
                lanes = Lanes(made, shared, self._window, texts, at, of_texts)
            with self.tally.working():
                yield from lanes.windows(begun(), ahead if ward.watch is None else 0, turn.close)

    def _collect(
        self, output: Output, batch: list[LabelledSample], rows: Rows, shard: str, ward: Ward | None = None
    ) -> None:
        """Append one row for each sample of the batch: the label or its tokens, or null with a reason."""
        ready = _having(batch, output)
        start = time.monotonic()
        encoded = encode(output, self.codecs.get(output.name), ready, ward, self.job.drawing)
        self.tally.spent(output.name, time.monotonic() - start)
        values = {id(sample): value for sample, value in zip(ready, encoded, strict=True)}
        for sample in batch:
            if sample.is_removed:
                rows.reject(sample.key, removals.REASON)
                continue
            value = values.get(id(sample))
            if value is not None and not isinstance(value, Exception):
                self._in_a_row.end(output.name)
                rows.values.append(value)
                continue
            reason = str(value) if value is not None else sample.reasons.get(output.label, f"{output.label}: none")
            rows.reject(sample.key, reason)
            self.tally.rejects[reason_class(reason)] += 1
            self._in_a_row.add(output.name, shard, f"key {sample.key}: {reason}")


def _having(batch: Sequence[LabelledSample], output: Output) -> list[LabelledSample]:
    """Those that have the label of an output."""
    return [sample for sample in batch if output.label in sample.item.labels]
