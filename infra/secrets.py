"""URLs as they may be printed and written: without passwords, and without the signatures of signed URLs."""

from __future__ import annotations

import re
from typing import Any

_URL = re.compile(
    r"(?<![\w+.-])(?P<scheme>[A-Za-z][\w+.-]*):(?P<slashes>//|(?<=https:)/|(?<=http:)/)(?P<rest>[^\s\"'<>|\\]*[^\s\"'<>|\\.,;:)\]])"
)
_USER = re.compile(r"^[^/?#]*@")
# Parameters that choose what is read, and are no secret; all others are dropped.
_HARMLESS = frozenset("versionid version v download rev revision ref format generation file filename path id".split())
_KEY = re.compile(
    r"(?i)\b((?:aws[-_]?)?(?:secret[-_]?access[-_]?key|session[-_]?token|security[-_]?token)|x-amz-signature|"
    r"authorization|password|hf_token)(\"?'?\s*[:=]\s*\"?'?)([^\s\"',;&}]+)"
)
_TOKEN = re.compile(r"\b(?:AKIA|ASIA)[A-Z0-9]{16}\b|\bhf_[A-Za-z0-9]{30,}\b")


def public(url: str) -> str:
    """A URL (or a path, which stays as it is) without user, password, and parameters that may be secret."""
    scheme, separator, rest = url.partition("://")
    if not separator:
        return url
    return f"{scheme}://{_public(scheme, rest)}"


def _public(scheme: str, rest: str) -> str:
    rest = _USER.sub("", rest)
    place, mark, query = rest.partition("?")
    # A question mark is part of a name, or a pattern, on object stores.
    if not mark or (not scheme.lower().startswith(("http", "ws")) and "=" not in query):
        return rest
    kept = [one for one in query.split("&") if one.partition("=")[0].lower() in _HARMLESS]
    return f"{place}?{'&'.join(kept)}" if kept else place


def hide(text: str) -> str:
    """Text with its URLs as `public` has them, and without keys and tokens."""
    if ":/" in text:
        text = _URL.sub(
            lambda found: f"{found['scheme']}:{found['slashes']}{_public(found['scheme'], found['rest'])}", text
        )
    if "=" in text or ":" in text:
        text = _KEY.sub(r"\1\2...", text)
    return _TOKEN.sub("...", text)


def hidden(value: Any) -> Any:
    """Settings, or what JSON holds, with `hide` on every text."""
    if isinstance(value, str):
        return hide(value)
    if isinstance(value, dict):
        return {key: hidden(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [hidden(one) for one in value]
    return value
