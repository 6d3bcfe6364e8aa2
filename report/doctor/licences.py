"""Which licences of weights a user should know of, by the identifiers that the hub and model cards use."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import yaml

from ...infra import hub, sums

FILE = "licences.json"  # of a run's folder, and of that of its model
NAMES = frozenset({"images", "columns", "began_with", "to_be_known"})  # of its content

_NON_COMMERCIAL = re.compile(
    r"(?<![a-z])nc(?![a-z])|non-?commercial|research[- ]only|academic|(?<![a-z])amlr(?![a-z])", re.IGNORECASE
)
_UNKNOWN = re.compile(r"\s*(?:(?:unknown|none|not found|see its source)\b.*)?", re.IGNORECASE)
_COPYLEFT = re.compile(r"(?<![a-z])agpl", re.IGNORECASE)


def is_known(licence: str) -> bool:
    """Whether it says a licence, and not that there is none."""
    return _UNKNOWN.fullmatch(licence) is None


def remark(licence: str) -> str:
    """What a user should know of a licence, "" if nothing: half a sentence."""
    if not is_known(licence):
        return "states no licence"
    if _NON_COMMERCIAL.search(licence):
        return f"is not for commercial use ({licence})"
    if licence.lower().startswith("other"):
        return f"has terms of its own ({licence})"
    if _COPYLEFT.search(licence):
        return f"may bind what you build and serve ({licence})"
    return ""


def of_folder(path: Path) -> str:
    """The licence that the model card of a folder states, or that of the folder above, which may hold several models;
    "" without one."""
    folder = path if path.is_dir() else path.parent
    return _of_card(folder / "README.md") or _of_card(folder.parent / "README.md")


def _of_card(card: Path) -> str:
    try:
        _, _, rest = card.read_text(errors="replace").partition("---\n")
        said = yaml.safe_load(rest.partition("\n---")[0])
        return hub.licence_of(said.get("license"), said.get("license_name"))
    except (OSError, yaml.YAMLError, AttributeError):
        return ""


def read(data: bytes) -> dict[str, Any]:
    """The content of a `FILE`. ValueError if it is not what was written, as far as it has a sum of itself."""
    raw = json.loads(data)
    if isinstance(raw, dict) and raw.keys() == NAMES:  # as it was written at first, without
        return raw
    content = sums.whole(data)
    if content.keys() != NAMES:
        raise ValueError("it says nothing of licences")
    return content
