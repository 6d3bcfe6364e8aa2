"""What is made of a shard before all of it is: kept in the root from time to time, taken up by the next attempt, merged
into columns at the end, byte for byte as if it had been made at once.

A chunk ends where a window of batches does, so that what is left of a shard is made in the same batches. It is taken
only by those who would make the very same rows: of the same source, outputs, versions, device and plan of batches. So
it does no harm who writes it, and when: a worker that was thought dead writes what others would.

Rows of a batch with a suspect (isolate.py) are in no chunk: the next actor decides, and makes that batch alone.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from ...infra import versions
from ...infra.fingerprint import fingerprint
from ...infra.ledger import SAMPLES
from ...infra.secrets import hide
from ...modalities import LABELS
from ...sensors.declared import SENSORS
from ...tokenize import codecs, store
from ...tokenize import labels as label_files
from .. import chunk_files, source
from ..outputs import Output
from ..plan import ShardTask
from ..sensors.alarms import UNIT, Seen
from .rows import Rows
from .sample import LabelledSample

logger = logging.getLogger(__name__)


@dataclass
class Part:
    """Rows of a shard from `start` on, of each output.

    barred: samples with bars. splits: batches that were made in parts, in words. seconds: that it took. hosts: kinds of
    machines that made it.
    is_kept: a chunk has it.
    """

    start: int
    rows: dict[str, Rows]
    keys: list[str] = field(default_factory=list)
    barred: int = 0
    splits: list[str] = field(default_factory=list)
    seconds: float = 0.0
    hosts: dict[str, None] = field(default_factory=dict)
    is_kept: bool = False

    @classmethod
    def begin(cls, start: int, outputs: Mapping[str, Output]) -> Part:
        """Without rows yet. Outputs of one label share what is seen of its values."""
        seen = {output.label: Seen() for output in outputs.values()}
        return cls(start, {name: Rows(seen=seen[output.label]) for name, output in outputs.items()})

    @property
    def stop(self) -> int:
        return self.start + len(self.keys)

    def look(self, outputs: Mapping[str, Output], samples: Sequence[LabelledSample]) -> None:
        """Look at the values of sensors that samples have, once for each label, however many outputs come from it."""
        seen = {output.label: self.rows[name].seen for name, output in outputs.items() if output.label in SENSORS}
        for label, of_label in seen.items():
            for sample in samples:
                if label in sample.item.labels:
                    of_label.add(label, sample.item.labels[label], sample.item.shared.get((UNIT, label), ""))


def joined(parts: Iterable[Part], outputs: Iterable[str]) -> Part:
    """Parts that follow each other, as one; no part is one without rows."""
    ordered = sorted(parts, key=lambda part: part.start)
    whole = Part(ordered[0].start if ordered else 0, {name: Rows() for name in outputs})
    for part in ordered:
        if part.start != whole.stop:
            raise ValueError(f"rows {whole.stop} to {part.start} are missing, or there twice")
        for name, rows in whole.rows.items():
            rows.values += part.rows[name].values
            rows.rejects += part.rows[name].rejects
            rows.seen.join(part.rows[name].seen)
        whole.keys += part.keys
        whole.barred += part.barred
        whole.splits += part.splits
        whole.seconds += part.seconds
        whole.hosts |= part.hosts
    return whole


def gaps(parts: Iterable[Part], count: int) -> Iterator[range]:
    """What parts leave of a shard of `count` samples."""
    at = 0
    for part in sorted(parts, key=lambda part: part.start):
        if part.start > at:
            yield range(at, part.start)
        at = part.stop
    if at < count:
        yield range(at, count)


def clear(root: str, shard: str) -> None:
    """Delete the chunks of a shard that is done, of all who wrote some."""
    try:
        chunk_files.delete(root, shard)
    except OSError as error:  # `fourmill check` names them
        logger.warning("shard %s: its chunks cannot be removed: %s", shard, error)


class Chunks:
    """The chunks of one shard, for those who make it.

    Args:
        opened: the shard, with what was removed withheld. hashed_before: as of `Shard.origin`.
        outputs: that are asked for, by name. coders: of those with tokens.
        made_by: all else that rows depend on, or that must not be mixed: plan of batches, versions, device, labels that
            were read. host: the kind of machine, which is only noted.
        doubted: labels whose rejects an earlier job was stopped for: a chunk that has some is not taken.
    """

    def __init__(
        self,
        root: str,
        task: ShardTask,
        opened: source.Shard,
        hashed_before: bool,
        outputs: Mapping[str, Output],
        coders: Mapping[str, codecs.Codec],
        made_by: Mapping[str, Any],
        host: str = "",
        doubted: Collection[str] = (),
    ) -> None:
        self.shard = task.shard
        self._root, self._task, self._shard, self._hashed_before = root, task, opened, hashed_before
        self._outputs = {name: output for name, output in outputs.items() if name != SAMPLES}
        self._codecs, self._made_by, self._host, self._doubted = coders, made_by, host, doubted
        self._are_there = False

    @cached_property
    def _prints(self) -> dict[str, str]:
        """By output, of all that its rows depend on."""
        # Taken down since, or not yet: a chunk must not bring back what was removed.
        removed = [s.key for s in self._shard.samples if self._shard.is_removed(s)]
        common = [self._shard.sha256, removed, self._made_by]
        return {
            name: fingerprint(common, output.fingerprint, versions.identity(output.parts, self._task.versions))
            for name, output in self._outputs.items()
        }

    def read(self) -> list[Part]:
        """What earlier attempts have left of the rows that are asked for now."""
        places = chunk_files.of_shard(self._root, self.shard) if self._outputs else []
        self._are_there = bool(places)
        parts: list[Part] = []
        for place in places:
            if parts and place.start < parts[-1].stop:
                continue  # of two attempts
            try:
                chunk = chunk_files.read(self._root, place)
            except (ValueError, FileNotFoundError) as error:
                logger.warning("%s; its rows are made again", error)
                continue
            if self._is_mine(place, chunk):
                parts.append(self._part(place, chunk))
        if parts:
            for part in parts:  # what is wrong with their JSON is found by reading it
                for sample in self._shard.samples[part.start : part.stop]:
                    self._shard.info(sample)
            rows = sum(len(part.keys) for part in parts)
            logger.info("shard %s: %d of %d samples are there", self.shard, rows, len(self._shard.samples))
        return parts

    def _is_mine(self, place: chunk_files.Place, chunk: chunk_files.Chunk) -> bool:
        """Whether a chunk has the rows that would be made now, of each output."""
        if any(chunk.prints.get(name) != print_ for name, print_ in self._prints.items()):
            return False
        if any(chunk.rejects[name] for name, output in self._outputs.items() if output.label in self._doubted):
            return False
        keys = [sample.key for sample in self._shard.samples[place.start : place.stop]]
        return list(chunk.keys) == keys

    def _part(self, place: chunk_files.Place, chunk: chunk_files.Chunk) -> Part:
        rows = {SAMPLES: Rows()}
        for name in self._outputs:
            fields = {field.rpartition("/")[2]: of for field, of in chunk.fields.items() if _output_of(field) == name}
            seen = Seen.of_json(chunk.seen.get(name, (0, None)))
            rows[name] = Rows(self._values(name, chunk.keys, fields), list(chunk.rejects[name]), seen)
        return Part(
            place.start, rows, list(chunk.keys), chunk.barred, list(chunk.splits), chunk.seconds, {chunk.host: None},
            is_kept=True,
        )  # fmt: skip

    def keep(self, parts: Sequence[Part]) -> None:
        """Write parts that are in no chunk yet, those that follow each other together.

        Raises:
            source.Changed: the shard changed while it was read. OSError: the root cannot be written.
        """
        new = [part for part in parts if not part.is_kept and part.keys]
        while new and self._outputs:
            count = next((i for i in range(1, len(new)) if new[i].start != new[i - 1].stop), len(new))
            self._write(joined(new[:count], self._outputs))
            for part in new[:count]:
                part.is_kept = True
            new = new[count:]

    def _write(self, part: Part) -> None:
        fields: dict[str, Any] = {}
        for name in self._outputs:
            arrays = self._arrays(name, part.keys, part.rows[name].values)
            fields |= {f"{name}/{field}": array for field, array in arrays.items()}
        rejects = {
            name: [one | {"reason": hide(one["reason"])} for one in part.rows[name].rejects] for name in self._outputs
        }
        seen = {name: part.rows[name].seen.as_json() for name in self._outputs}
        fingerprints = {name: output.fingerprint for name, output in self._outputs.items()}
        prints = self._prints
        self._shard.origin(self._hashed_before)  # after its sum was taken: these rows are of those bytes
        chunk = chunk_files.Chunk(
            tuple(part.keys), fingerprints, prints, rejects, fields, part.barred, part.splits, round(part.seconds, 3),
            self._host, seen,
        )  # fmt: skip
        chunk_files.write(self._root, self.shard, part.start, chunk)
        self._are_there = True
        logger.info("shard %s: its rows %d to %d are kept", self.shard, part.start, part.stop)

    def clear(self) -> None:
        """The shard is done."""
        if self._are_there:
            clear(self._root, self.shard)

    def _arrays(self, name: str, keys: Sequence[str], values: Sequence[Any]) -> dict[str, Any]:
        if (codec := self._codecs.get(name)) is not None:
            return dict(store.arrays(codec.column_spec(self._outputs[name].tokenizers), keys, values))
        return {"value": label_files.array(LABELS[self._outputs[name].label].storage, values)}

    def _values(self, name: str, keys: Sequence[str], fields: Mapping[str, Any]) -> list[Any]:
        if (codec := self._codecs.get(name)) is not None:
            return store.samples(codec.column_spec(self._outputs[name].tokenizers), keys, fields)
        return list(fields["value"].to_pylist())


def _output_of(field: str) -> str:
    return field.rpartition("/")[0]
