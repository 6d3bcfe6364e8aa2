"""What `fourmill pack` has said of its shards: `init` takes it before what it could guess from their first samples."""

from __future__ import annotations

import posixpath
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import yaml

from ...infra import configuration, storage
from ..sensors.described import Found

PART = "sensors.yaml"  # beside the shards: the part of a recipe that reads them


def settled(found: Sequence[Found], shard: str) -> list[Found]:
    """The sensors of a shard, with names, bands, classes, units and nodata of the description that it was packed by; as
    they are if it was not packed."""
    try:
        part: Any = configuration.parse_yaml(storage.read_bytes(storage.join(posixpath.dirname(shard), PART)))
        sensors = {(one["member"], one.get("field")): (str(name), one) for name, one in part["sensors"].items()}
    except (OSError, KeyError, TypeError, AttributeError, ValueError, yaml.YAMLError):
        return list(found)
    return [_settled(one, sensors) for one in found]


def _settled(one: Found, sensors: dict[tuple[str, str | None], tuple[str, dict[str, Any]]]) -> Found:
    key = (one.settings.get("member", ""), one.settings.get("field"))
    if key not in sensors:
        return one
    name, said = sensors[key]
    kept = {field: value for field, value in one.settings.items() if field in ("from", "kind", "length", "shape")}
    return replace(one, name=name, settings=kept | said)
