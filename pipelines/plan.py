"""The plan: what of a recipe's outputs exists already, and what is left to do, shard by shard.

`Inventory` is what storage holds, looked at once; `make` compares it with what is asked for.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from ..infra import ledger, storage, versions
from ..infra.configuration import RecipeError
from ..infra.index import index
from ..infra.index.file import Line
from ..infra.index.listing import THREADS
from ..infra.secrets import hide, public
from . import shard_names, source
from .outputs import Output, sources
from .sensors import places
from .settings import Samples, sets_of
from .specialists.base import Specialist
from .stops import Stop

SPLITS = ("train", "val")


@dataclass(frozen=True)
class ShardTask:
    """One shard and the outputs it still lacks; `stored` are labels that can be read instead of made.

    version: of the shard on storage; "" if it cannot be looked at, and nothing is left to do.
    versions: of what made the stored labels, by part, where they are not the code's own.
    seen: output -> `ledger.mark` of its record when the plan was made: another one is of another job.
    """

    shard: str
    url: str
    version: str
    outputs: tuple[str, ...]
    stored: tuple[str, ...] = ()
    versions: dict[str, int] = field(default_factory=dict, hash=False)
    seen: dict[str, str] = field(default_factory=dict, hash=False)


@dataclass(frozen=True)
class Shards:
    """urls: name -> URL, in the recipe's order. splits: name of the split -> names of its shards. known: the names that
    the root had given when these were. gone: shards that folders or globs named once, and that are not there now."""

    urls: dict[str, str]
    splits: dict[str, list[str]]
    known: dict[str, shard_names.Named] = field(default_factory=dict)
    gone: frozenset[str] = frozenset()


def list_shards(samples: Samples, root: str = "") -> Shards:
    """Every shard that the recipe names. RecipeError if a pattern matches nothing or names collide.

    Args:
        root: which knows the names of the shards that it has seen; "" for none.
    """
    asked = {split: getattr(samples, split) for split in SPLITS}
    try:
        known = shard_names.read(root) if root else {}
        before = {one.url: name for name, one in known.items()}
        gone: set[str] = set()
        found = {split: _expanded(spec, before, gone) for split, spec in asked.items() if spec}
        joined = {places.first(place): place for of_split in found.values() for place in of_split}
        # Of several tars beside each other the first one gives the name.
        urls = {split: list(dict.fromkeys(map(places.first, of_split))) for split, of_split in found.items()}
        twice = sorted(set(urls.get("train", [])) & set(urls.get("val", [])))
        if twice:
            raise ValueError(f"{twice[0]} is in the training and in the validation split")
        names = shard_names.assign([u for of_split in urls.values() for u in of_split if u not in gone], root, known)
        # One that was moved has its name at the new place alone.
        names |= {before[url]: url for url in gone if before[url] not in names}
    except ValueError as error:
        raise RecipeError(f"samples: {error}") from None
    by_url = {url: name for name, url in names.items()}
    splits = {split: [by_url[url] for url in urls.get(split, []) if url in by_url] for split in SPLITS}
    ordered = {name: joined.get(names[name], names[name]) for split in SPLITS for name in splits[split]}
    return Shards(ordered, splits, known, frozenset(by_url[url] for url in gone if url in by_url))


def _expanded(spec: list[str] | dict[str, list[str]], known: Collection[str], gone: set[str]) -> list[str]:
    """The places of the shards of a split."""
    sets = sets_of(spec)
    if list(sets) == [""]:
        return source.expand(sets[""], known, gone)
    found = {}
    for name, one in sets.items():
        try:
            found[name] = list(dict.fromkeys(source.expand(one)))
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from None
    return places.aligned(found)


class Inventory:
    """What storage holds of a root and of its source shards. Each thing is looked at once, when it is first needed.

    A stage that has committed records adds them; `look_again` before the next stage, since shards may have changed
    while it ran.
    """

    def __init__(self, root: str, shards: Shards) -> None:
        self.root, self.shards = root, shards
        self._records: dict[tuple[str, str], ledger.Entry] = {}
        self._read: set[str] = set()  # outputs whose records were read
        self._checked: set[str] = set()  # outputs of whose files the footers were compared with the records as well
        self._fresh: dict[str, list[Line]] = {}  # by output, what its index does not have
        self._stats: dict[str, storage.Stat | str] | None = None
        self._digests: dict[str, str] = {}

    def records(
        self, outputs: Iterable[str], footers: bool = False, made: Iterable[Line] = ()
    ) -> dict[tuple[str, str], ledger.Entry]:
        """The records of these outputs, by (output, shard).

        Args:
            footers: compare the footers of the files with the records; see `index.read_many`, also of `made`.
        """
        wanted = list(outputs)
        seen = self._checked if footers else self._read | self._checked
        if unread := [output for output in wanted if output not in seen]:
            self._forget(unread)
            reading = index.read_many(self.root, unread, list(self.shards.urls), footers=footers, made=made)
            self._records |= reading.entries
            self._fresh |= reading.fresh
            (self._checked if footers else self._read).update(unread)
        names = set(wanted)
        if names >= self._read | self._checked:
            return dict(self._records)
        return {key: record for key, record in self._records.items() if key[0] in names}

    def keep_index(self) -> None:
        """Write what was read one by one into the indexes of the outputs, where that spares the next reader much."""
        if sum(map(len, self._fresh.values())) >= index.LEAST:
            index.keep(self.root, self._fresh)
            self._fresh = {}

    def renew_index(self, outputs: Iterable[str], made: Iterable[Line] = ()) -> None:
        """The same of outputs of which something was committed.

        Args:
            made: what of it this process has seen.
        """
        wanted = list(outputs)
        self._forget(wanted)
        self.records(wanted, footers=True, made=made)
        self.keep_index()

    def _forget(self, outputs: Iterable[str]) -> None:
        names = set(outputs)
        self._records = {key: record for key, record in self._records.items() if key[0] not in names}
        self._read, self._checked = self._read - names, self._checked - names

    def add(self, records: Iterable[ledger.Entry]) -> None:
        """Records that this process has seen committed."""
        self._records |= {(record.output, record.shard): record for record in records}

    def read_again(self) -> None:
        """Drop all records: something was committed that this process has not seen."""
        self._records, self._read, self._checked = {}, set(), set()

    def look_again(self) -> None:
        """Drop what is known of the source shards."""
        self._stats, self._digests = None, {}

    def stats(self) -> dict[str, storage.Stat | str]:
        """Of each shard its size and version, or why it cannot be read."""
        if self._stats is None:
            found = places.stats(self.shards.urls.values())
            self._stats = {name: _seen(url, found[url]) for name, url in self.shards.urls.items()}
        return self._stats

    def is_of(self, record: ledger.Entry, shard: str) -> bool:
        """Whether a record was made from the shard as it is now; of one out of sight, as far as is known."""
        stat = self.stats()[shard]
        if isinstance(stat, str):
            return True
        if record.source.size != stat.size:
            return False
        # Older releases noted no version of what web servers send without an ETag.
        if record.source.version in (stat.version, ""):
            return True
        # Copied or touched: the version changed; only the bytes can say whether the shard did.
        return record.source.sha256 == self._digest(shard)

    def prepare_digests(self, records: Iterable[ledger.Entry]) -> None:
        """Read the shards whose bytes `is_of` will need for these records, several at a time."""
        stats = self.stats()
        touched = {
            record.shard
            for record in records
            if not isinstance(stat := stats[record.shard], str)
            and record.source.size == stat.size
            and record.source.version not in (stat.version, "")
        }
        with ThreadPoolExecutor(THREADS) as pool:
            list(pool.map(self._digest, touched))

    def _digest(self, shard: str) -> str:
        if shard not in self._digests:
            self._digests[shard] = places.sha256(self.shards.urls[shard])
        return self._digests[shard]


def _seen(url: str, stat: storage.Stat | Exception | None) -> storage.Stat | str:
    """The sentence goes into the closing table."""
    if isinstance(stat, Exception):  # credentials, network, permissions
        return f"cannot look at {public(url)}: {hide(str(stat))}"
    return stat if stat is not None else f"there is no shard at {public(url)}"


@dataclass
class Plan:
    """What is asked for and what is left.

    shards: name -> URL, in the recipe's order. splits: name of the split -> names of its shards.
    tasks: one for every shard that is there or needs not be, with the outputs it lacks, often none.
    done: records of what exists, by (output, shard).
    absent: shard -> what it lacks, and why it cannot be read. unseen: the same of shards that lack nothing.
    outdated: of what exists, why it is out of date, by (output, shard): other versions of code made it.
    stops: runs of rejects that stand, by label; what they put in doubt is not done.
    """

    outputs: dict[str, Output]
    shards: dict[str, str]
    splits: dict[str, list[str]]
    tasks: dict[str, ShardTask] = field(default_factory=dict)
    done: dict[tuple[str, str], ledger.Entry] = field(default_factory=dict)
    absent: dict[str, str] = field(default_factory=dict)
    unseen: dict[str, str] = field(default_factory=dict)
    outdated: dict[tuple[str, str], list[str]] = field(default_factory=dict)
    stops: dict[str, Stop] = field(default_factory=dict)

    def leave_out(self, shard: str) -> None:
        """The shard is none of the plan's."""
        del self.shards[shard]
        self.splits = {split: [name for name in names if name != shard] for split, names in self.splits.items()}
        self.done = {key: record for key, record in self.done.items() if key[1] != shard}
        self.outdated = {key: why for key, why in self.outdated.items() if key[1] != shard}

    @property
    def missing(self) -> list[ShardTask]:
        """Shards that lack something."""
        return [task for task in self.tasks.values() if task.outputs]


def make(
    inventory: Inventory,
    outputs: Mapping[str, Output],
    stored_labels: Mapping[str, Output] | None = None,
    pins: Mapping[str, int] | None = None,
    update: bool = False,
    footers: bool = False,
    stops: Mapping[str, Stop] | None = None,
) -> Plan:
    """Compare what is asked for with the ledger.

    Args:
        outputs: what is asked for, by name.
        stored_labels: kept label outputs that a task may read instead of making the label again.
        pins: versions that the recipe asks for, by part.
        update: what other versions of code made is asked for again.
        footers: files whose footer is not that of their record count as missing.
        stops: runs of rejects that stopped an earlier job, by label: what they put in doubt counts as missing.
    """
    stored_labels = stored_labels or {}
    asked = {**outputs, **stored_labels}
    records = inventory.records(asked, footers)
    inventory.prepare_digests(
        record
        for (name, _), record in records.items()
        if not asked[name].imported and asked[name].is_asked_for(record.fingerprint)
    )
    plan = Plan(dict(outputs), dict(inventory.shards.urls), inventory.shards.splits, stops=dict(stops or {}))
    made = {name for name, output in asked.items() if not output.imported}
    judge = _Judge(asked, pins or {})
    for shard, url in inventory.shards.urls.items():
        good = _good(inventory, judge, records, shard, update, plan.stops)
        # Nobody looks at a shard of which nothing is made.
        stat = inventory.stats()[shard] if made else ""
        unseen = stat if made and isinstance(stat, str) else ""
        if unseen and len({record.source.sha256 for name, (record, _) in good.items() if name in made}) > 1:
            good, unseen = {}, f"its outputs are of several versions of the shard, and {unseen}"
        plan.done.update({(name, shard): record for name, (record, _) in good.items() if name in outputs})
        plan.outdated.update({(name, shard): why for name, (_, why) in good.items() if why})
        if lost := [name for name in outputs if name not in good and name not in made]:
            plan.absent[shard] = f"lacks {', '.join(lost)}, imported: `fourmill import` brings them again"
            continue
        missing = tuple(name for name in outputs if name not in good)
        if unseen and missing and shard in inventory.shards.gone:
            plan.leave_out(shard)  # nobody names it any more, and nothing whole is made of it
            continue
        if unseen and missing:
            plan.absent[shard] = f"lacks {', '.join(missing)}; {unseen}"
            continue
        if unseen:  # what is made needs the shard no more
            plan.unseen[shard] = unseen
        stored = {name: good[name][0] for name in stored_labels if name in good}
        version = "" if isinstance(stat, str) else stat.version
        seen = {name: ledger.mark(records.get((name, shard))) for name in missing}
        plan.tasks[shard] = _task(shard, url, version, seen, stored_labels, stored)
    return plan


class _Judge:
    """Says why records are out of date; those of one output that were made alike are looked at once."""

    def __init__(self, asked: Mapping[str, Output], pins: Mapping[str, int]) -> None:
        self.asked, self._pins = asked, pins
        self._known: dict[tuple[str, str, int], list[str] | None] = {}

    def outdated(self, output: Output, record: ledger.Entry) -> list[str] | None:
        """See `Output.outdated`. The record is kept by who asks: another one may not have its place in memory."""
        key = output.name, record.fingerprint, id(record.identity)
        if key not in self._known:
            self._known[key] = output.outdated(record, self._pins)
        return self._known[key]


def _good(
    inventory: Inventory,
    judge: _Judge,
    records: Mapping[tuple[str, str], ledger.Entry],
    shard: str,
    update: bool,
    stops: Mapping[str, Stop],
) -> dict[str, tuple[ledger.Entry, list[str]]]:
    """Of one shard what exists as it is asked for: the record, and why it is out of date."""
    good = {}
    for name, output in judge.asked.items():
        record = records.get((name, shard))
        why = None if record is None else judge.outdated(output, record)
        if record is None or why is None:
            continue
        if output.imported:
            good[name] = record, why
            continue
        if (why and update) or not inventory.is_of(record, shard):
            continue
        stop = stops.get(output.label)
        if (record.of_place or (stop and stop.doubts(record))) and not isinstance(inventory.stats()[shard], str):
            continue  # made again, where the shard is there for it
        good[name] = record, why
    return good


def _task(
    shard: str,
    url: str,
    version: str,
    seen: dict[str, str],
    labels: Mapping[str, Output],
    stored: Mapping[str, ledger.Entry],
) -> ShardTask:
    used = {part: v for name, record in stored.items() for part, v in _recorded(labels[name], record).items()}
    return ShardTask(shard, url, version, tuple(seen), tuple(labels[name].label for name in stored), used, seen)


def _recorded(output: Output, record: ledger.Entry) -> dict[str, int]:
    """Versions that a stored label was made by, by part, where they are not the code's own."""
    has = versions.recorded(output.parts, record.identity)
    return {part.name: has[part.name] for part in output.parts if has[part.name] != part.version}


def working(
    specialists: Mapping[str, Specialist], outputs: Mapping[str, Output], tasks: Sequence[ShardTask]
) -> tuple[dict[str, Specialist], dict[str, Output]]:
    """The specialists and outputs that some task has work for: no others need to be loaded."""
    busy: set[str] = set()
    for names, stored in {(task.outputs, task.stored) for task in tasks}:
        labels = [outputs[name].label for name in names if outputs[name].label]
        busy |= sources(specialists, labels, stored) - set(stored)
    lacking = {name for task in tasks for name in task.outputs}
    return (
        {label: specialist for label, specialist in specialists.items() if label in busy},
        {name: output for name, output in outputs.items() if name in lacking},
    )


def unstored(
    specialists: Mapping[str, Specialist], labels: Iterable[str], tasks: Iterable[ShardTask]
) -> dict[str, Specialist]:
    """The specialists that some task needs for these labels, as it does not have them stored."""
    busy = {
        label
        for stored in {task.stored for task in tasks}
        for label in sources(specialists, labels, stored) - {*stored}
    }
    return {label: specialist for label, specialist in specialists.items() if label in busy}
