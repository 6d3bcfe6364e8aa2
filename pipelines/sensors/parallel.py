"""Shards whose samples lie in several tars beside each other, one for each kind of member, with equal keys."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from ...infra import ledger, removals, storage
from .. import source
from ..grouping import IMAGE_EXTENSIONS, Member, SourceSample
from ..source import Shard
from . import places


class Parallel(Shard):
    """The tars of a shard as one. A member is named as in its tar, and as SET/NAME: where two tars have one of a name,
    the first one counts unless the set is said. A sample may lack members, and any tar of a set."""

    def __init__(self, url: str, shards: dict[str, Shard]) -> None:
        self.url, self._shards = url, shards
        stats = [storage.Stat(one.size, one.version) for one in shards.values()]
        self.size, self.version = sum(one.size for one in stats), places.version(stats)
        self._digest = ""
        self.ignored = Counter({f"{of}/{name}": n for of, one in shards.items() for name, n in one.ignored.items()})
        self.parts: Counter[str] = sum((one.parts for one in shards.values()), Counter())
        self.regrouped, self.is_table = False, all(one.is_table for one in shards.values())
        self._rejects = [(key, f"{of}: {reason}") for of, one in shards.items() for key, reason in one._rejects]
        self._broken_json: dict[str, str] = {}
        self._homes: dict[tuple[str, str], tuple[Shard, SourceSample, str]] = {}
        by_set = {of: {sample.key: sample for sample in one.samples} for of, one in shards.items()}
        keys = list(dict.fromkeys(key for samples in by_set.values() for key in samples))
        if len(by_set) > 1 and keys and not set.intersection(*map(set, by_set.values())):
            some = ", ".join(f"{of} begins with {next(iter(one), 'none')!r}" for of, one in by_set.items())
            self._rejects.append(("", f"no key is in all of its tars: {some}; parallel tars have equal keys"))
        for of, samples in by_set.items():
            if lost := len(keys) - len(samples):
                self._rejects.append(("", f"{of}: {lost} of {len(keys)} samples are not in its tar"))
        self.samples = [self._joined(key, {of: one[key] for of, one in by_set.items() if key in one}) for key in keys]
        self.withhold(removals.Removals(), "")

    def _joined(self, key: str, found: dict[str, SourceSample]) -> SourceSample:
        whole = SourceSample(key, {}, {})
        for of, sample in found.items():
            for known, members in ((True, sample.members), (False, sample.others)):
                for name, member in members.items():
                    self._add(whole.others, key, f"{of}/{name}", (of, sample, name), member)
                    if known and not (name in IMAGE_EXTENSIONS and whole.image):
                        self._add(whole.members, key, name, (of, sample, name), member)
                    elif not known:
                        self._add(whole.others, key, name, (of, sample, name), member)
        return whole

    def _add(
        self, into: dict[str, Member], key: str, name: str, home: tuple[str, SourceSample, str], member: Member
    ) -> None:
        if name not in into:
            into[name] = member
            self._homes[key, name] = (self._shards[home[0]], home[1], home[2])

    def _hash(self) -> str:
        return places.joined([one.sha256 for one in self._shards.values()])

    def origin(self, hashed_before: bool) -> ledger.Source:
        origins = [one.origin(hashed_before) for one in self._shards.values()]
        stats = [storage.Stat(one.size, one.version) for one in origins]
        self.size, self.version = sum(one.size for one in stats), places.version(stats)
        return ledger.Source(self.size, self.version, places.joined([one.sha256 for one in origins]))

    def read(self, sample: SourceSample, extension: str) -> bytes:
        shard, own, name = self._homes[sample.key, extension]
        return shard.read(own, name)


@contextmanager
def open_shard(place: str, scratch: str | Path, every_key: bool = False, key: str = "") -> Iterator[Shard]:
    """A shard of one file or several; arguments and errors as of `source.open_shard`."""
    parts = places.parts(place)
    with ExitStack() as stack:
        if list(parts) == [""]:
            yield stack.enter_context(source.open_shard(place, scratch, every_key, key))
            return
        shards = {name: stack.enter_context(source.open_shard(url, scratch, True, key)) for name, url in parts.items()}
        yield Parallel(place, shards)
