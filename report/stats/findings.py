"""What a person should look at first: alarms of shards and channels, and drifts, the worst ones first."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from ...infra.ledger import Entry
from ...tokenize.sensors import numbers
from ...tokenize.sensors.numbers import Numbers
from .drift import Drift
from .measure import is_share
from .merged import Merged, OfShard

HALF = 0.5  # of values: what is so of most of them is said
NULLS = 0.2  # more of the rows of a shard than of the other shards' that are null
LEAST = 8  # samples
BEYOND = 0.25  # of the width of the others' range, by which values may leave it
SHARDS_NAMED = 6
CHANNELS_NAMED = 4
FEW_CODES = 0.1  # of a codebook

# The worst first. What a few shards have and the others do not is an accident; what all have may be meant.
RANKS = (
    "unreadable", "null", "constant", "range", "missing", "saturated", "flat", "drift", "nulls", "everywhere", "codes",
)  # fmt: skip
SAID_BEFORE = ("constant", "range", "missing", "saturated", "flat")  # of a shard that drifts for this reason
REMARKS = ("everywhere", "codes")  # kinds that are no alarms


@dataclass(frozen=True)
class Finding:
    """kind: of RANKS. output: "labels/depth". shards: that it is said of; of: how many there are. said: the sentence.
    size: of two of one kind the larger one comes first."""

    kind: str
    output: str
    shards: tuple[str, ...]
    of: int
    said: str
    size: float = 0.0

    @property
    def is_alarm(self) -> bool:
        return self.kind not in REMARKS

    def as_json(self) -> dict[str, Any]:
        return asdict(self) | {"shards": list(self.shards), "alarm": self.is_alarm}


def ordered(findings: Iterable[Finding]) -> list[Finding]:
    """The worst first."""
    return sorted(findings, key=lambda one: (RANKS.index(one.kind), -one.size, one.output, one.shards))


def where(shards: Sequence[str], of: int) -> str:
    """ "in 00003", "in 00003, 00005", "in all 10 shards"."""
    if len(shards) == of and of > 1:
        return f"in all {of} shards"
    if len(shards) > SHARDS_NAMED:
        return f"in {', '.join(shards[:SHARDS_NAMED])} and {len(shards) - SHARDS_NAMED} other shards"
    return f"in {', '.join(shards)}"


def unreadable(failures: Mapping[tuple[str, str], str]) -> list[Finding]:
    """Files that could not be read."""
    return [
        Finding("unreadable", output, (shard,), 1, f"{output} cannot be read in {shard}: {why}")
        for (output, shard), why in failures.items()
    ]


def of_records(output: str, records: Mapping[str, Entry]) -> list[Finding]:
    """Rows that are null, by the records alone."""
    filled = {shard: one for shard, one in sorted(records.items()) if one.rows}
    null = tuple(shard for shard, one in filled.items() if one.nulls == one.rows)
    found = []
    if null:
        reason = _reason(filled[null[0]])
        said = f"{output} is null throughout {where(null, len(filled))}{reason}"
        found.append(Finding("null", output, null, len(filled), said, sum(filled[one].rows for one in null)))
    others = {shard: one for shard, one in filled.items() if shard not in null}
    rows, nulls = (sum(getattr(one, name) for one in others.values()) for name in ("rows", "nulls"))
    for shard, one in others.items():
        share = one.nulls / one.rows
        rest = (nulls - one.nulls) / max(1, rows - one.rows)
        # Three standard deviations of what the others' share would give.
        noise = 3 * (max(rest, 1 / max(1, rows)) * (1 - rest) / one.rows) ** 0.5
        if len(others) > 1 and one.rows >= LEAST and share > rest + max(NULLS, noise):
            said = f"{output} is null in {share:.0%} of the rows of {shard}, {rest:.0%} elsewhere{_reason(one)}"
            found.append(Finding("nulls", output, (shard,), len(filled), said, share - rest))
    return found


def _reason(record: Entry) -> str:
    reasons = list(record.reasons)
    return f" ({reasons[0]}{', ...' if len(reasons) > 1 else ''})" if reasons else ""


def of_values(merged: Merged) -> list[Finding]:
    """What is constant, out of range, missing or saturated over a shard, in the output or in one of its channels."""
    several = [one for one in merged.shards if one.valid >= 2]
    empty = {one.shard for one in several if one.numbers is not None and not one.numbers.of(numbers.FINITE).any()}
    found, dead = _constant(merged, [one for one in several if one.shard not in empty])
    alive = [one for one in several if one.shard not in dead and one.numbers is not None]
    alive = [one for one in alive if one.numbers is not None and len(one.numbers) == len(merged.channels)]
    if alive:
        found += _of_channels(merged, alive, "constant", "is constant", _constant_channels(alive))
        found += _of_channels(merged, alive, "range", "is out of the range of the other shards", _beyond(alive))
        found += _of_channels(merged, alive, "missing", "has mostly values that are no numbers", _missing(alive))
        found += _of_channels(merged, alive, "saturated", "is saturated", _saturated(alive))
    found += _flat(merged, dead)
    return found


def _constant(merged: Merged, several: Sequence[OfShard]) -> tuple[list[Finding], set[str]]:
    """The output has the same value in all samples; and the shards in which it is so."""
    same = {one.shard: one.constant for one in several if one.constant}
    # An array of one value everywhere is as dead if its pictures have several sizes.
    for one in several:
        if one.numbers is not None and not is_alive(one.numbers):
            same[one.shard] = f"{one.numbers.of(numbers.LOW)[0]:.4g} everywhere"
    if not same:
        return [], set()
    shards = tuple(shard for shard in (one.shard for one in several) if shard in same)
    # Lists and fields that are the same everywhere are often meant so: there is no bar around any image.
    is_record = not merged.channels and merged.codes is None and not any(map(is_share, merged.names))
    kind = "everywhere" if is_record and len(shards) == len(several) else "constant"
    what = same[shards[0]]
    said = f"{merged.output} is constant {where(shards, len(merged.shards))}: {what} in all samples"
    rows = sum(one.valid for one in several if one.shard in same)
    return [Finding(kind, merged.output, shards, len(merged.shards), said, rows)], set(shards)


def is_alive(of: Numbers) -> bool:
    """Whether two of its values differ."""
    low, high = of.of(numbers.LOW), of.of(numbers.HIGH)
    return bool(np.nanmax(high, initial=-np.inf) > np.nanmin(low, initial=np.inf))


def _of_channels(
    merged: Merged, alive: Sequence[OfShard], kind: str, said: str, bad: Sequence[tuple[np.ndarray, str]]
) -> list[Finding]:
    """Findings of the channels that are bad, one for all shards with the same ones.

    Args:
        bad: for each shard which channels are bad, bool (channels,), and what else is to be said.
    """
    groups: dict[tuple[int, ...], list[tuple[str, str]]] = {}
    for one, (wrong, more) in zip(alive, bad, strict=True):
        if wrong.any():
            groups.setdefault(tuple(np.flatnonzero(wrong).tolist()), []).append((one.shard, more))
    found, width = [], len(merged.channels)
    for channels, shards in groups.items():
        names = ", ".join(merged.channels[at] for at in channels[:CHANNELS_NAMED])
        names += ", ..." if len(channels) > CHANNELS_NAMED else ""
        which = "" if len(channels) == len(bad[0][0]) else f", channel{'s' if len(channels) > 1 else ''} {names}"
        there = tuple(shard for shard, _ in shards)
        text = f"{merged.output}{which} {said} {where(there, len(merged.shards))}{shards[0][1]}"
        found.append(Finding(kind, merged.output, there, len(merged.shards), text, len(channels) / max(1, width)))
    return found


def _constant_channels(alive: Sequence[OfShard]) -> list[tuple[np.ndarray, str]]:
    bad = []
    for one in alive:
        assert one.numbers is not None
        low, high = one.numbers.of(numbers.LOW), one.numbers.of(numbers.HIGH)
        same = (low == high) & (one.numbers.of(numbers.FINITE) >= LEAST)
        bad.append((same, f": {low[same][0]:.4g} everywhere" if same.any() else ""))
    return bad


def _beyond(alive: Sequence[OfShard]) -> list[tuple[np.ndarray, str]]:
    """Half of the values lie outside the middle range of the other shards, with some room."""
    quantiles = np.stack([one.numbers.quantiles for one in alive if one.numbers is not None])
    bad = []
    for at in range(len(alive)):
        others = np.delete(quantiles, at, axis=0)
        if len(others) < 2:
            bad.append((np.zeros(quantiles.shape[1], bool), ""))
            continue
        # Medians over shards: one other shard that is out of range does not hide this one.
        low, high = (np.nanmedian(others[:, :, numbers.level(one)], axis=0) for one in (0.01, 0.99))
        room = BEYOND * (high - low) + 1e-6 * np.maximum(np.abs(low), np.abs(high))
        shares = []
        for channel in range(quantiles.shape[1]):
            own = quantiles[at, channel]
            if not (np.isfinite(own).all() and np.isfinite(low[channel])):
                shares.append(0.0)
                continue
            bounds = np.array([low[channel] - room[channel], high[channel] + room[channel]])
            upto = numbers.cdf(own, bounds)
            shares.append(float(upto[0] + 1 - upto[1]))
        out = np.array(shares) >= HALF
        more = ""
        if out.any():
            one = int(np.flatnonzero(out)[0])
            median = quantiles[at, one, numbers.level(0.5)]
            more = f": median {median:.4g}, the others have {low[one]:.4g} to {high[one]:.4g}"
        bad.append((out, more))
    return bad


def _missing(alive: Sequence[OfShard]) -> list[tuple[np.ndarray, str]]:
    valid = np.stack([one.moments[:, numbers.FINITE] / np.maximum(one.moments[:, numbers.COUNT], 1) for one in alive])
    usual = np.median(valid, axis=0)
    bad = []
    for one in valid:
        few = (one < HALF) & ((one < HALF * usual) | (one == 0))
        more = f": {1 - one[few][0]:.0%} of its values, {1 - usual[few][0]:.0%} of the others'" if few.any() else ""
        bad.append((few, more))
    return bad


def _saturated(alive: Sequence[OfShard]) -> list[tuple[np.ndarray, str]]:
    """Half of the values of a shard are its smallest or its largest one, unlike in the other shards."""
    ends = [
        one.moments[:, (numbers.AT_LOW, numbers.AT_HIGH)] / np.maximum(one.moments[:, [numbers.FINITE]], 1)
        for one in alive
    ]
    shares = np.stack(ends)  # (shards, channels, 2)
    usual = np.median(shares, axis=0)
    bad = []
    for one, own in zip(shares, alive, strict=True):
        # What has two values alone, such as edges, is at its ends by its nature.
        two = one.sum(axis=1) > 0.999
        over = (one >= HALF) & (one >= 2 * usual) & ~two[:, None]
        channels = over.any(axis=1)
        more = ""
        if channels.any():
            channel = int(np.flatnonzero(channels)[0])
            end = int(one[channel].argmax())
            value = own.moments[channel, (numbers.LOW, numbers.HIGH)[end]]
            more = f": {one[channel, end]:.0%} of its values are {value:.4g}, {usual[channel, end]:.0%} elsewhere"
        bad.append((channels, more))
    return bad


def _flat(merged: Merged, dead: set[str]) -> list[Finding]:
    """Each sample has one value alone, another one in each."""
    spreads = [at for at, name in enumerate(merged.names) if name.startswith("spread of channel ")]
    if not spreads:
        return []
    there = merged.features[:, spreads, numbers.FINITE] >= 2
    flat = (there & (merged.features[:, spreads, numbers.HIGH] == 0)).any(axis=1)
    shards = tuple(one.shard for one, bad in zip(merged.shards, flat, strict=True) if bad and one.shard not in dead)
    # Records of one channel that is the same over each image in a part of the shards only.
    known = {one.shard for one in merged.shards if one.numbers is not None and not is_alive(one.numbers)}
    shards = tuple(shard for shard in shards if shard not in known)
    if not shards:
        return []
    said = f"{merged.output} has one value within each sample {where(shards, len(merged.shards))}"
    kind = "everywhere" if len(shards) == len(merged.shards) else "flat"
    return [Finding(kind, merged.output, shards, len(merged.shards), said, len(shards))]


def of_drifts(
    merged: Merged, drifts: Sequence[Drift], found: Iterable[Finding], divergence: Mapping[Drift, str]
) -> list[Finding]:
    """What drifts, unless it is known why: it is constant there, out of range, ...

    Args:
        found: what is known of the output already. divergence: of codes or classes, in words.
    """
    dead = {shard for one in found if one.kind in SAID_BEFORE for shard in one.shards}
    names = [one.shard for one in merged.shards]
    findings = []
    for drift in drifts:
        if dead.issuperset(drift.shards):
            continue
        if drift.shards[-1] == names[-1] and len(drift.shards) > 1:
            place = f"from {drift.shards[0]}"
        elif drift.shards[0] == names[0] and len(drift.shards) > 1:
            # The larger half of the shards came later.
            place = f"from {names[len(drift.shards)]} ({drift.shards[0]} to {drift.shards[-1]} are unlike the rest)"
        else:
            place = f"in {drift.shards[0]}" + (f" to {drift.shards[-1]}" if len(drift.shards) > 1 else "")
        what, _, _ = drift.feature.rpartition(" ")
        how = f"which {what} occur" if is_share(drift.feature) else f"{drift.feature} is {drift.mean:.4g} on average"
        how += "" if is_share(drift.feature) else f", {drift.elsewhere:.4g} elsewhere"
        if drift in divergence:
            how += f" ({divergence[drift]})"
        said = f"{merged.output} drifts {place}: {how}; {drift.effect:.2g} standard deviations between samples"
        findings.append(Finding("drift", merged.output, drift.shards, len(names), said, drift.effect))
    return findings


def of_codes(merged: Merged) -> list[Finding]:
    """A codebook of which little is used; a remark, no alarm."""
    if merged.codes is None or not merged.output.startswith("tokens/tok_"):
        return []
    used, size = int((merged.codes > 0).sum()), len(merged.codes)
    if not used or used >= FEW_CODES * size or merged.codes.sum() < 10 * size:
        return []
    names = tuple(one.shard for one in merged.shards)
    said = f"{merged.output} uses {used:,} of {size:,} codes"
    return [Finding("codes", merged.output, names, len(names), said, 1 - used / size)]
