"""Indexes of the ledger: whether their lines say what the records say that they were read from."""

from __future__ import annotations

from collections.abc import Mapping

from ...infra import ledger, storage
from ...infra.index import file
from ...infra.index.file import Line, Shared
from ...infra.index.listing import stats_in
from ...infra.ledger import Entry
from .finding import Finding
from .listing import Listing

_FOLDER, _SUFFIX = f"ledger/{file.FOLDER}", ".jsonl"


def check(listing: Listing, entries: Mapping[tuple[str, str], Entry]) -> list[Finding]:
    """Indexes that are damaged, of no output, or say what no record says. Without one the records are read, so that
    none is broken.

    Args:
        entries: the records that were read, by (output, shard).
    """
    findings = []
    for path in listing.below(_FOLDER):
        output = path.removeprefix(f"{_FOLDER}/").removesuffix(_SUFFIX)
        if not path.endswith(_SUFFIX):
            continue
        if why := _problem(listing, path, output, entries):
            findings.append(Finding(path, why, broken=False, remove=(path,)))
    return findings


def _problem(listing: Listing, path: str, output: str, entries: Mapping[tuple[str, str], Entry]) -> str:
    try:
        lines = file.parse(storage.read_bytes(listing.url(path)), output, Shared())
    except FileNotFoundError:  # another process replaces it
        return ""
    except (ValueError, TypeError, KeyError, IndexError) as error:
        return f"damaged: {error}"
    records = stats_in(listing.url(f"ledger/{output}"))
    if lines and not records:
        return "there are no records of this output"
    other = [
        shard
        for shard, line in lines.items()
        if line.entry != entries.get((output, shard))  # one that was written since is read again
        and _differs(listing, line, file.mark(records.get(f"{shard}.json")))
    ]
    return f"it says of {', '.join(other[:3])} what the record does not say" if other else ""


def _differs(listing: Listing, line: Line, mark: str) -> bool:
    """Whether a line that counts is not what its record says."""
    if not mark or line.record != mark:
        return False
    record = ledger.read(listing.root, line.entry.output, line.entry.shard)
    return record is not None and ledger.entry(record) != line.entry
