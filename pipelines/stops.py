"""Runs of rejects that stopped a job, kept in the root: they stop it again until their cause is gone.

ROOT/ledger/stops/LABEL.json. While it stands, shards that are null throughout, or took part in the run, count as
missing. It is dropped when they have values, when what makes the label is another (fingerprint, version), or when the
user says that the data are so, by an `engine.max_reject_run` above the one that was reached.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass

from ..infra import ledger, storage, sums
from ..infra.secrets import hide
from .outputs import Output

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Stop:
    """A run of rejects of one label.

    run: how long it was. said: what stopped the job. shards: that it went through. prints: fingerprints of the outputs
    of this label. versions: of what makes them, by part.
    """

    label: str
    run: int
    said: str
    shards: tuple[str, ...]
    prints: dict[str, str]
    versions: dict[str, int]

    def doubts(self, record: ledger.Entry) -> bool:
        """Whether a record may owe its nulls to what stopped the job."""
        if not record.nulls or self.prints.get(record.output) != record.fingerprint:
            return False
        return record.nulls == record.rows or record.shard in self.shards


def keep(root: str, outputs: Mapping[str, Output], output: str, run: int, shards: Iterable[str], said: str) -> None:
    """Note a run of rejects of an output of the job."""
    label = outputs[output].label
    same = {name: one for name, one in outputs.items() if one.label == label}
    stop = Stop(label, run, hide(said), tuple(shards), {n: one.fingerprint for n, one in same.items()}, _versions(same))
    storage.put(_url(root, label), (json.dumps(sums.sealed(asdict(stop)), indent=1) + "\n").encode())


def read(root: str, outputs: Mapping[str, Output], max_reject_run: int) -> dict[str, Stop]:
    """The stops that stand, by label."""
    found = {}
    for file in storage.list_names(storage.join(root, "ledger", "stops")):
        label = file.removesuffix(".json")
        same = {name: one for name, one in outputs.items() if one.label == label}
        try:
            raw = sums.opened(json.loads(storage.read_bytes(_url(root, label))))
            stop = Stop(**(raw | {"shards": tuple(raw["shards"])}))
        except (FileNotFoundError, ValueError, TypeError, KeyError):
            continue  # dropped by another job, or damaged: the next run of rejects makes it again
        made = any(stop.prints.get(name) == one.fingerprint for name, one in same.items())
        changed = any(stop.versions.get(part, version) != version for part, version in _versions(same).items())
        if made and not changed and max_reject_run <= stop.run:
            found[label] = stop
    return found


def drop(root: str, label: str) -> None:
    """Its cause is gone."""
    logger.info("%s: the run of rejects that stopped an earlier job is over", label)
    storage.delete(_url(root, label))


def _url(root: str, label: str) -> str:
    return storage.join(root, "ledger", "stops", f"{label}.json")


def _versions(outputs: Mapping[str, Output]) -> dict[str, int]:
    return {part.name: part.version for one in outputs.values() for part in one.parts}
