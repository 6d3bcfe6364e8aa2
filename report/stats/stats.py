"""Statistics of a root's columns and labels: what `fourmill stats` makes, prints and keeps, and what others say of it.

ROOT/stats/stats.json has all of it in plain values; summaries of single files lie beside it (collect.py).
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import numpy as np

from ...infra import ledger, side_files, storage
from ...infra.explain import reason_class
from ...infra.fingerprint import fingerprint
from ...infra.index import index
from ...infra.ledger import SAMPLES, Entry
from ...pipelines.sensors import checks
from ...pipelines.sensors.alarms import ALARM, UNIT
from ...sensors.declared import SENSORS
from . import collect, drift, findings, merged, outliers
from .collect import StatsJob
from .drift import Drift
from .findings import Finding
from .merged import Merged
from .outliers import Outlier
from .summary import Summary

FILE = "stats/stats.json"
PAGE = "stats.html"
_SAMPLED = 512  # samples by which correlations of features are known

Records = Mapping[str, Mapping[str, Entry]]  # output -> shard -> record


@dataclass
class Stats:
    """What is known of a root.

    findings: the worst ones first. outputs: facts of each, in plain values. merged: what they were made of.
    distances: of each output how far each shard is from the reference, in standard deviations; NaN where there are few
    samples. files: that were read now.
    """

    root: str
    files: int
    findings: list[Finding] = field(default_factory=list)
    outputs: dict[str, dict[str, Any]] = field(default_factory=dict)
    merged: dict[str, Merged] = field(default_factory=dict)
    distances: dict[str, np.ndarray] = field(default_factory=dict)
    outliers: list[Outlier] = field(default_factory=list)
    made: str = ""
    marks: dict[Finding, str] = field(default_factory=dict)

    @property
    def alarms(self) -> list[Finding]:
        return [one for one in self.findings if one.is_alarm]

    def as_json(self) -> dict[str, Any]:
        """What `--json` prints and the root keeps; no key of a sample is in it."""
        return {
            "root": self.root,
            "made": self.made,
            "findings": [one.as_json() | {"mark": self.marks.get(one, "")} for one in self.findings],
            "outputs": self.outputs,
            "outliers": [vars(one) for one in self.outliers],
        }


def records_of(root: str) -> dict[str, dict[str, Entry]]:
    """The records of all columns and labels of a root. ValueError if it has none."""
    records = by_output(index.read_many(root, ledger.outputs(root), None).entries)
    if not records:
        raise ValueError(
            f"{root}: there are no columns and no labels; name a recipe or a root, or run `fourmill label`"
        )
    return records


def by_output(records: Mapping[tuple[str, str], Entry]) -> dict[str, dict[str, Entry]]:
    """Records of columns and labels by output and shard; those of samples have no file."""
    sorted_out: dict[str, dict[str, Entry]] = {}
    for (output, shard), record in sorted(records.items()):
        if output != SAMPLES:
            sorted_out.setdefault(output, {})[shard] = record
    return sorted_out


def make(job: StatsJob, records: Records) -> Stats:
    """Read what was not read before, and put all together.

    Args:
        records: of the outputs, by output and shard.
    """
    files, failures = collect.collect(job, records)
    stats = Stats(job.root, files, made=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"))
    found = findings.unreadable(failures)
    tests = sum(map(len, records.values()))
    for output, of_output in records.items():
        found += findings.of_records(output, of_output)
        sampled: list[Summary] = []
        whole = merged.merge(output, _sampling(collect.kept(job.root, output, of_output), sampled))
        if not whole.shards:
            continue
        values = findings.of_values(whole)
        drifts, divergence = _drifts(job.root, whole, of_output, sampled, tests, stats)
        found += [*values, *findings.of_drifts(whole, drifts, values, divergence), *findings.of_codes(whole)]
        reasons: Counter[str] = Counter()
        for record in of_output.values():
            reasons.update(record.reasons)
        stats.outputs[output] = {**merged.described(whole), "nulls_by_reason": dict(reasons.most_common())}
        stats.outliers += outliers.find(whole)
        stats.merged[output] = whole
    stats.findings = findings.ordered(found)
    stats.marks = {one: _mark(one.shards, records[one.output]) for one in stats.findings}
    stats.outliers.sort(key=lambda one: -one.far)
    storage.put(storage.join(job.root, FILE), json.dumps(stats.as_json(), indent=1).encode())
    return stats


def _sampling(summaries: Any, sampled: list[Summary]) -> Any:
    """Pass summaries on, and keep the first ones that have samples."""
    room = _SAMPLED
    for one in summaries:
        if room > 0 and len(one.features.sketch):
            sampled.append(one)
            room -= len(one.features.sketch)
        yield one


def _drifts(
    root: str, whole: Merged, records: Mapping[str, Entry], sampled: Sequence[Summary], tests: int, stats: Stats
) -> tuple[list[Drift], dict[Drift, str]]:
    """The drifts of an output, and what else is to be said of them."""
    far = drift.distances(whole, tests, drift.table(sampled, whole.names))
    if far is None:
        return [], {}
    stats.distances[whole.output] = far.largest
    asked = drift.asked(whole, far)
    if not asked:
        return [], {}
    some = {one.shard: one for one in collect.kept(root, whole.output, records) if one.shard in asked}
    drifts = drift.find(whole, far, some)
    return drifts, {one: said for one in drifts if (said := _divergence(one, some))}


def _divergence(one: Drift, summaries: Mapping[str, Summary]) -> str:
    """How far the codes of shards that drift are from those of the reference, "" without codes."""
    there, known = (
        [codes for name in names if name in summaries and (codes := summaries[name].codes) is not None]
        for names in (one.shards, one.reference)
    )
    if not there or not known or len({len(codes) for codes in (*there, *known)}) > 1:
        return ""
    whole = np.sum(known, axis=0)
    usual = max(jensen_shannon(codes, whole) for codes in known)
    far = jensen_shannon(np.sum(there, axis=0), whole)
    return f"Jensen-Shannon divergence {far:.2f} bits, at most {usual:.2f} elsewhere"


def jensen_shannon(one: np.ndarray, other: np.ndarray) -> float:
    """The divergence of two distributions by their counts (n,), in bits: 0 for equal ones, 1 for disjoint ones."""
    shares = [counts / max(1, counts.sum()) for counts in (one, other)]
    middle = (shares[0] + shares[1]) / 2
    parts = [share[share > 0] * np.log2(share[share > 0] / middle[share > 0]) for share in shares]
    return float(sum(part.sum() for part in parts) / 2)


def _mark(shards: Sequence[str], records: Mapping[str, Entry]) -> str:
    """Tells one state of some files from another one, "" if one of them is not known."""
    if not records.keys() >= set(shards):
        return ""
    return fingerprint([(shard, records[shard].sha256) for shard in shards])


def noted(records: Records) -> dict[str, str]:
    """What was odd about the values of sensors when outputs were made, by output, with the shards: of bands, and of
    shards that are null throughout."""
    said: dict[str, str] = {}
    for output, of_output in records.items():
        by_kind: dict[str, list[Entry]] = {}
        for record in of_output.values():
            if (text := record.made.get(ALARM)) is not None:
                by_kind.setdefault(reason_class(str(text)), []).append(record)
        parts = [
            f"{some[0].made[ALARM]} {findings.where([one.shard for one in some], len(of_output))}"
            for some in by_kind.values()
        ]
        by_unit: dict[str, list[str]] = {}
        for record in of_output.values():
            if unit := str(record.made.get(UNIT, "")):
                by_unit.setdefault(unit, []).append(record.shard)
        if len({checks.plain(unit) for unit in by_unit}) > 1:
            each = (f"{unit} {findings.where(some, len(of_output))}" for unit, some in sorted(by_unit.items()))
            parts.append(f"has files of several units: {', '.join(each)}")
        if output.rpartition("/")[2].removeprefix("tok_") in SENSORS:
            nulls = (one.said for one in findings.of_records(output, of_output) if one.kind == "null")
            parts += [text.removeprefix(output).lstrip() for text in nulls]
        if parts:
            said[output] = "; ".join(parts)
    return said


def alarms(root: str, records: Records) -> dict[str, str]:
    """What a person should look at, by output: what was odd about the values of sensors when they were made, and what
    the last `fourmill stats` of the root has found, the worst first.

    Nothing is computed and no column is read.

    Args:
        records: of the outputs as they are now: what is of other files is marked so.
    """
    said = noted(records)
    for output, text in _found(root, records).items():
        before = said.get(output, "")
        new = [part for part in text.split("; ") if part not in before]  # both know which shards are null
        said[output] = "; ".join(filter(None, [before, *new]))
    return said


def _found(root: str, records: Records) -> dict[str, str]:
    known = side_files.read_object(storage.join(root, FILE), ("findings", "made"))
    if known is None:
        return {}
    said: dict[str, str] = {}
    for one in known["findings"]:
        if not (isinstance(one, dict) and one.get("alarm") and isinstance(one.get("said"), str)):
            continue
        output = str(one.get("output"))
        now = _mark(one.get("shards", ()), records.get(output, {}))
        old = now not in ("", one.get("mark"))
        text = one["said"].removeprefix(output).lstrip(", ")
        before = f"{said[output]}; " if output in said else ""
        said[output] = before + text + (f" (as of {known['made']}; files have changed since)" if old else "")
    return said
