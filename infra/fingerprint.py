"""Fingerprints: short hashes of everything that a result depends on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection
from typing import Any

from pydantic import BaseModel


def fingerprint(*parts: Any) -> str:
    """16 hex digits of the SHA-256 of the parts as canonical JSON. Equal values give equal fingerprints everywhere."""
    # Sorted and without spaces: the same text in every version of Python.
    text = json.dumps(parts, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def hashed(settings: BaseModel, exclude: Collection[str] = ()) -> dict[str, Any]:
    """Settings as they go into a fingerprint: plain values, without fields that came later and are at their default.

    A class says which fields came after its first release, and their default at that time, in JSON's form, in its
    class variable `later`: {"gamma": 1.0}. That default is frozen: if the field's default changes one day, fingerprints
    change with it, as they must.
    """
    later = getattr(type(settings), "later", {})
    values = settings.model_dump(mode="json", exclude=set(exclude))
    for name in list(values):
        value = getattr(settings, name)
        if isinstance(value, BaseModel):
            values[name] = hashed(value)
        elif isinstance(value, list | tuple) and any(isinstance(one, BaseModel) for one in value):
            values[name] = [hashed(one) if isinstance(one, BaseModel) else one for one in value]
        if name in later and values[name] == later[name]:
            del values[name]
    return values
