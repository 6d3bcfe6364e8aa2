"""A root, looked at whole: what `fourmill check` finds, and what `--repair` removes."""

from __future__ import annotations

import json
import posixpath
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from ...infra import ledger, storage, sums
from ...infra.index.file import Shared
from ...infra.index.index import AT_ONCE
from ...infra.progress import Progress
from ...pipelines.curation import selection
from ..stats import stats
from . import chunks, indexes, models, outputs
from . import listing as listings
from .finding import Finding
from .listing import Listing

THREADS = 4  # each holds a whole file


@dataclass
class Checked:
    """What was looked at, and what was found.

    uploads: to S3 that were never completed; `repair` aborts them.
    """

    root: str
    counts: dict[str, int] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)
    uploads: list[listings.Upload] = field(default_factory=list)

    @property
    def broken(self) -> list[Finding]:
        return [one for one in self.findings if one.broken]


def check(root: str) -> Checked:
    """Look at every file of a root. ValueError if there is none."""
    listing = listings.of(root)
    places = (outputs.place_of(path) for path in listing.below("ledger"))
    records = sorted({place for place in places if place is not None})
    result = Checked(root, {"files": len(listing.files)})
    shared = Shared()
    with Progress("check", len(records), "records") as progress, ThreadPoolExecutor(THREADS) as pool:
        checked: list[outputs.Checked] = []
        while left := records[len(checked) :][:AT_ONCE]:  # a call that waits takes a kilobyte
            for one in pool.map(lambda place: outputs.check_output(listing, place, shared), left):
                checked.append(one)
                progress.update(1)
    result.counts |= outputs.summary(checked)
    for one in checked:
        result.findings += one.findings
    result.findings += outputs.across(checked)
    result.findings += outputs.orphans(listing, records)
    result.findings += models.tokenizers(listing)
    result.findings += models.runs(listing)
    entries = {(one.output, one.shard): one.entry for one in checked if one.entry is not None}
    result.findings += indexes.check(listing, entries)
    result.findings += _records(listing)
    result.findings += _selections(listing)
    result.findings += _temporary(listing)
    result.findings += chunks.left(listing)
    said = stats.alarms(root, stats.by_output(entries))
    result.findings += [Finding(f"{output}, to look at", why, broken=False) for output, why in said.items()]
    result.uploads = [one for one in listings.uploads(root) if one.age > listings.YOUNG]
    result.findings += [
        Finding(one.path, "parts of an upload that was never completed", broken=False) for one in result.uploads
    ]
    return result


_NOTES = ("plans", "stages", "shards", "stops", "weights")  # of the ledger, beside records


def repair(checked: Checked) -> list[str]:
    """Remove what is broken or belongs to nothing; returns the paths that were removed."""
    removed = list(dict.fromkeys(path for finding in checked.findings for path in finding.remove))
    for path in removed:
        storage.delete(storage.join(checked.root, path))
    for upload in checked.uploads:
        listings.abort(checked.root, upload)
    return [*removed, *(upload.path for upload in checked.uploads)]


def _records(listing: Listing) -> list[Finding]:
    """Records of runs and of what was generated, and what stages note beside them."""
    findings = []
    for path in listing.below("ledger"):
        family = path.split("/")[1]
        if not path.endswith(".json") or family not in ("runs", "generated", *_NOTES):
            continue
        data = storage.read_bytes(listing.url(path))
        try:
            if family in _NOTES:
                sums.opened(json.loads(data))
                continue
            ledger.parse_whole(data, path)
        except (ValueError, TypeError) as error:
            is_broken = family not in ("plans", "stages", "stops", "weights")
            findings.append(Finding(path, f"damaged: {error}", broken=is_broken, remove=(path,)))
    return findings


def _selections(listing: Listing) -> list[Finding]:
    """What `train.select` selects. A damaged file is worked out again."""
    findings = []
    for path in listing.below(selection.FOLDER):
        try:
            selection.parse_file(listing.url(path))
        except ValueError as error:
            findings.append(Finding(path, f"damaged: {error}", broken=False, remove=(path,)))
    return findings


def _temporary(listing: Listing) -> list[Finding]:
    """Files of writers that were killed, and claims of drivers."""
    left = {"ledger/drivers": "claims of a driver that has died", "ledger/calls": "a note of a worker that has died"}
    found = [
        Finding(path, why, broken=False, remove=(path,))
        for folder, why in left.items()
        for path in listing.below(folder)
        if listing.is_old(path)
    ]
    paths = (path for path in listing.files if posixpath.basename(path).startswith(storage.TEMPORARY_PREFIX))
    return found + [
        Finding(path, "a temporary file of a process that was killed", broken=False, remove=(path,))
        for path in paths
        if listing.is_old(path)
    ]


def as_json(checked: Checked, removed: list[str]) -> dict[str, Any]:
    """What `--json` prints."""
    findings = [{"what": f.what, "why": f.why, "broken": f.broken, "remove": list(f.remove)} for f in checked.findings]
    return {"root": checked.root, "checked": checked.counts, "findings": findings, "removed": removed}
