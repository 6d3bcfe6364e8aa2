"""Versions: what made an output, in which version of its code, and what changed since.

A fingerprint says what was asked for; a version says which code answered. A corrected specialist raises its version:
the fingerprint stays, so that nothing is made again unless someone asks for it, and `status` says what is out of date
and why. Fingerprints hold the version that a part had when it came into fourmill (`Part.first`), and never another.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from .explain import nearest


@dataclass(frozen=True)
class Part:
    """What an output is made by: a specialist ("labels/depth"), a codec ("codecs/vq") or a fit ("tokenizers/tok_rgb").

    version: of the code that runs now. first: the version of records that name none.
    changes: what changed at a version, for people, by version.
    """

    name: str
    version: int = 1
    first: int = 1
    changes: Mapping[int, str] = field(default_factory=dict, hash=False)


def identity(parts: Iterable[Part], used: Mapping[str, int] | None = None) -> dict[str, Any]:
    """What a record says of versions: {"versions": {part: version}} of those that are not the first; {} if all are.

    Args:
        used: versions other than the code's own that went into the output, by part: of stored labels.
    """
    used = used or {}
    versions = {part.name: used.get(part.name, part.version) for part in parts}
    firsts = {part.name: part.first for part in parts}
    later = {name: version for name, version in versions.items() if version != firsts[name]}
    return {"versions": later} if later else {}


def recorded(parts: Iterable[Part], identity: Mapping[str, Any]) -> dict[str, int]:
    """The version of each part that made an output, by the `identity` of its record."""
    versions = identity.get("versions", {})
    return {part.name: versions.get(part.name, part.first) for part in parts}


def outdated(parts: Sequence[Part], identity: Mapping[str, Any], pins: Mapping[str, int]) -> list[str]:
    """Why an output is out of date: a sentence for each part whose version is not the one asked for; [] if none.

    Args:
        identity: of the output's record.
        pins: versions that the recipe asks for, by part; the code's own unless given.
    """
    versions, reasons = recorded(parts, identity), []
    for part in parts:
        has, asked = versions[part.name], pins.get(part.name, part.version)
        if has != asked:
            changes = [part.changes[v] for v in sorted(part.changes) if has < v <= asked]
            why = f": {'; '.join(changes)}" if changes else ""
            reasons.append(f"made by version {has} of {part.name}, asked for is {asked}{why}")
    return reasons


def check_pins(pins: Mapping[str, int], parts: Iterable[Part]) -> None:
    """ValueError if a recipe pins a part that it does not use, or a version that never was."""
    known = {part.name: part for part in parts}
    for name, version in pins.items():
        if name not in known:
            raise ValueError(f"versions: this recipe uses no {name!r}{nearest(name, known)}")
        if not known[name].first <= version <= known[name].version:
            raise ValueError(
                f"versions: {name}: {version} is pinned; there are {known[name].first} to {known[name].version}"
            )


def unmakeable(parts: Iterable[Part], pins: Mapping[str, int]) -> str:
    """Why an output cannot be made as pinned, "" if it can: old code is not kept."""
    for part in parts:
        pinned = pins.get(part.name, part.version)
        if pinned != part.version:
            return (
                f"versions: {part.name} is pinned at {pinned}, and this fourmill makes version {part.version}; take "
                "the pin away, or install the fourmill that made the others"
            )
    return ""
