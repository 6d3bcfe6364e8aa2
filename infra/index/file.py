"""One file for all records of an output: what a plan needs of them, read at once instead of one by one.

ROOT/ledger/index/OUTPUT.jsonl, JSON lines that `cat` and `jq` read. The first names the output; then come lines with
what many records have in common, {"as": 0, "identity": ...}, and a line for each record, {"shard": ..., "as": 0, ...};
the last one holds a sum of all before it.

The records are the truth. A line holds the size and the version (time of change, or ETag) of the record that it was
read from, and of the file whose footer was compared with that record: it counts while both are what they were. So a
record that was deleted does not come back, one that was written since is read itself, and two jobs that replace the
file at the same time, each in one step, do no harm. Without the file, or with a damaged one, records are read one by
one, as older releases read them.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Collection, Iterable, Mapping
from typing import Any, NamedTuple

from ... import __version__
from .. import ledger, storage, sums
from ..ledger import Committed, Entry, Source
from ..storage import Stat

logger = logging.getLogger(__name__)

FORMAT = 1
FOLDER = "index"
_NONE: Mapping[str, int] = {}


class Line(NamedTuple):
    """An entry, and `mark` of the record that it was read from and of the file that it stands for ("" of samples)."""

    entry: Entry
    record: str
    file: str


def line_of(made: Committed) -> Line:
    """What a job knows of an output that it has committed. It counts, like a line of the file, while a listing shows
    record and file as they were written: nothing was read, and another job may have been there since."""
    return Line(ledger.entry(made.record), mark(made.written), mark(made.file))


class Shared:
    """Objects that many entries have in common, each kept once."""

    def __init__(self) -> None:
        self._known: dict[Any, Any] = {}

    def one(self, value: Any) -> Any:
        """An equal value that was seen before, or this one."""
        return self._known.setdefault(value, value)

    def mapping(self, value: Mapping[str, Any]) -> Mapping[str, Any]:
        """The same of plain values that are not hashable."""
        key = json.dumps(value)  # in their order
        found: Mapping[str, Any] = self._known.setdefault(key, value)
        return found

    def entry(self, entry: Entry) -> Entry:
        """The entry, made of these."""
        return entry._replace(
            output=self.one(entry.output),
            fingerprint=self.one(entry.fingerprint),
            source=self.one(entry.source),
            keys=self.one(entry.keys),
            reasons=entry.reasons or _NONE,
            identity=self.mapping(entry.identity),
            circumstances=self.mapping(entry.circumstances),
            own=self.one(entry.own),
        )

    def lines(self, lines: Iterable[Line]) -> list[Line]:
        """Lines whose entries are made of these."""
        return [line._replace(entry=self.entry(line.entry)) for line in lines]


def mark(stat: Stat | None) -> str:
    """Tells a file from others under its name; "" if nothing does."""
    return f"{stat.size} {stat.version}" if stat is not None and stat.version else ""


def url(root: str, output: str) -> str:
    return storage.join(root, "ledger", FOLDER, f"{output}.jsonl")


def write(root: str, output: str, lines: Collection[Line]) -> None:
    """Replace the index of an output, in one step."""
    groups: dict[tuple[str, int, int], int] = {}
    written = [_dump({"index": output, "format": FORMAT, "fourmill": __version__})]
    for line in lines:
        entry = line.entry
        key = entry.fingerprint, id(entry.identity), id(entry.circumstances)  # `Shared` made them one
        if key not in groups:
            groups[key] = len(groups)
            common = {"fingerprint": entry.fingerprint, "identity": entry.identity, "made": entry.circumstances}
            written.append(_dump({"as": groups[key], **common}))
        written.append(_dump(_fields(line, groups[key])))
    data = b"".join(written)
    storage.put(url(root, output), data + _dump({"sum": sums.of(data)}))


def _fields(line: Line, group: int) -> dict[str, Any]:
    entry = line.entry
    source = {name: getattr(entry.source, name) for name in ("size", "version", "sha256")}
    fields: dict[str, Any] = {
        "shard": entry.shard, "as": group, "record": line.record, "file": line.file, "rows": entry.rows,
        "nulls": entry.nulls, "bytes": entry.bytes, "sha256": entry.sha256, "footer": entry.footer,
        "keys": entry.keys, "seconds": entry.seconds, "source": source,
    }  # fmt: skip
    fields |= {"own": dict(entry.own)} if entry.own else {}
    fields |= {"reasons": dict(entry.reasons)} if entry.reasons else {}
    return fields | ({"of_place": True} if entry.of_place else {})


def _dump(value: dict[str, Any]) -> bytes:
    return (json.dumps(value, ensure_ascii=False) + "\n").encode("utf-8", "surrogatepass")


def read(root: str, output: str, shared: Shared) -> dict[str, Line]:
    """The lines of an output by their shards; {} if there are none, or they cannot be read, which is logged."""
    place = url(root, output)
    try:
        return parse(storage.read_bytes(place), output, shared)
    except FileNotFoundError:
        return {}
    except (ValueError, OSError) as error:
        logger.warning("%s is damaged (%s); records are read one by one", place, error)
        return {}


def parse(data: bytes, output: str, shared: Shared) -> dict[str, Line]:
    """The lines of an index by their shards; {} of one of a later format. ValueError if it is not what was written."""
    end = data.rfind(b"\n", 0, -1) + 1
    last = json.loads(data[end:] or b"null")
    if not isinstance(last, dict) or last.get("sum") != sums.of(data[:end]):
        raise ValueError("its sum is another one")
    # Not `splitlines`, which also splits at signs that a name may have.
    first, *rest = data[: end - 1].decode("utf-8", "surrogatepass").split("\n")
    head = json.loads(first)
    if head["index"] != output:
        raise ValueError(f"it is that of {head['index']}")
    if head["format"] != FORMAT:
        return {}
    common: list[dict[str, Any]] = []
    lines = {}
    for text in rest:
        one = json.loads(text)
        if "shard" not in one:
            common.append(one)
            continue
        lines[one["shard"]] = _line(output, one, common[one["as"]], shared)
    return lines


def _line(output: str, one: Mapping[str, Any], common: Mapping[str, Any], shared: Shared) -> Line:
    source = one["source"]
    entry = Entry(
        output, one["shard"], common["fingerprint"],
        shared.one(Source(source["size"], source["version"], source["sha256"])),
        one["rows"], one["nulls"], one.get("reasons", _NONE), one["bytes"], one["sha256"], one["seconds"],
        one["footer"], shared.one(one["keys"]), common["identity"], common["made"],
        shared.one(tuple(one.get("own", _NONE).items())), one.get("of_place", False),
    )  # fmt: skip
    return Line(entry, one["record"], one["file"])
