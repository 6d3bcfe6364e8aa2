"""What the Hugging Face hub says of a model's repository, by headers alone: files, sizes, licence, commit, access.

Nothing is fetched and nothing is asked twice: who only looks must not wait. What is fetched later goes through
huggingface_hub, which has retries of its own.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

SECONDS = 5.0  # that one request may take
_GATED = re.compile(r"\bgated\b|access to .{1,200} is restricted", re.IGNORECASE)
_COMMIT = re.compile(r"[0-9a-f]{40}")
_ID = re.compile(r"\w[\w.-]*/\w[\w.-]*", re.ASCII)


@dataclass(frozen=True)
class File:
    """size: in bytes, None if the hub does not say it. sha256: of what Git LFS keeps, "" of small files."""

    name: str
    size: int | None = None
    sha256: str = ""


@dataclass(frozen=True)
class Repository:
    """commit: of the revision that was asked for. licence: its identifier, "" if the repository states none."""

    name: str
    commit: str
    files: tuple[File, ...]
    licence: str = ""


class Refused(ValueError):
    """The hub has answered that there is no such thing, or that it may not be read. `advice` says what to do."""

    def __init__(self, what: str, advice: str) -> None:
        super().__init__(f"{what}; {advice}")
        self.what, self.advice = what, advice


class TokenRefused(Refused):
    """The hub does not know the token."""


class Unanswered(OSError):
    """The hub could not be asked, or gave no answer that says anything."""


def is_id(name: str) -> bool:
    """Whether a name has the form org/name."""
    return _ID.fullmatch(name) is not None


def is_commit(revision: str) -> bool:
    """Whether a revision is a commit, and neither a branch nor a tag, which may move."""
    return _COMMIT.fullmatch(revision) is not None


def endpoint() -> str:
    """The address of the hub: HF_ENDPOINT, or huggingface.co."""
    from huggingface_hub import constants

    # As it is now: a process may have imported huggingface_hub before it was set.
    return (os.environ.get("HF_ENDPOINT") or constants.ENDPOINT).rstrip("/")


def token() -> str | None:
    """HF_TOKEN, or what `hf auth login` has kept."""
    from huggingface_hub import get_token

    return get_token()


def repository(name: str, revision: str | None = None, seconds: float = SECONDS, kind: str = "models") -> Repository:
    """Files, sizes, licence and commit of a repository.

    Args:
        kind: "models" or "spaces".
        revision: branch, tag or commit; the default branch unless given.
        seconds: that one request may take; there are four at most.

    Raises:
        Refused: there is no such repository or revision, or it may not be read.
        Unanswered: the hub is out of reach, busy, or answers something else.
    """
    place = f"/api/{kind}/{name}"
    path = place + (f"/revision/{quote(revision, safe='')}" if revision else "")
    answer = _request("GET", f"{path}?blobs=true", seconds, token())
    if answer.status_code in (400, 404) and "X-Error-Code" not in answer.headers:  # a mirror that knows no sizes
        answer = _request("GET", path, seconds, token())
    if answer.status_code == 200:
        return _parsed(name, answer)
    if answer.status_code == 401 and token() and _is_of_token(path, answer, seconds):
        raise TokenRefused("the hub does not accept the token (HF_TOKEN, or that of `hf auth login`)", _NEW_TOKEN)
    if answer.status_code in (401, 403, 404):
        raise _refusal(name, revision, answer, place, seconds)
    raise Unanswered(f"{endpoint()} answered {answer.status_code}")


_NEW_TOKEN = "set a valid one (https://huggingface.co/settings/tokens), or take it away: most repositories need none"


def _is_of_token(path: str, answer: Any, seconds: float) -> bool:
    """Whether a 401 is about the token: the hub says so, knows nobody of it, or answers without it."""
    if "invalid credentials" in answer.headers.get("X-Error-Message", "").lower():
        return True
    if _request("GET", "/api/whoami-v2", seconds, token()).status_code == 401:
        return True
    return _request("GET", path, seconds, None).status_code == 200


def _refusal(name: str, revision: str | None, answer: Any, place: str, seconds: float) -> Refused:
    code = answer.headers.get("X-Error-Code", "")
    said = f"{answer.headers.get('X-Error-Message', '')} {answer.text[:500]}"
    is_gated = code == "GatedRepo" or (not code and _GATED.search(said) is not None)
    if is_gated or (answer.status_code == 403 and code != "RepoNotFound"):
        return gated(name)
    missing = code == "RevisionNotFound" or (
        bool(revision) and _request("GET", place, seconds, token()).status_code == 200
    )
    if missing:
        return Refused(
            f"{name} has no revision {revision!r}", "name a branch, tag or commit that the hub shows, or leave it out"
        )
    if token():
        return Refused(
            f"there is no repository {name}, or the token may not see it",
            "check the name, and whether the account of the token has access",
        )
    return Refused(
        f"there is no repository {name} that is seen without a token",
        "check the name; if the repository is private, set HF_TOKEN",
    )


def gated(name: str) -> Refused:
    """What to do about a repository whose terms are not accepted."""
    terms = f"accept its terms at https://huggingface.co/{name}"
    if token():
        return Refused(f"{name} is gated, and the token may not read it", f"{terms} with the account of the token")
    return Refused(f"{name} is gated", f"{terms} and set HF_TOKEN")


def file_size(name: str, revision: str, file: str, seconds: float = SECONDS, kind: str = "models") -> int | None:
    """The size of a file by its headers, None if they do not say it: it can be fetched, in any case.

    Raises:
        Refused: it may not be fetched (a gated repository shows its list of files to everybody), or is not there.
        Unanswered: as `repository`.
    """
    place = name if kind == "models" else f"{kind}/{name}"
    answer = _request("HEAD", f"/{place}/resolve/{quote(revision, safe='')}/{quote(file)}", seconds, token())
    if answer.status_code in (401, 403):
        if "invalid credentials" in answer.headers.get("X-Error-Message", "").lower():
            raise TokenRefused("the hub does not accept the token (HF_TOKEN, or that of `hf auth login`)", _NEW_TOKEN)
        raise gated(name)
    if answer.status_code == 404:
        raise Refused(f"{name} has no file {file}", "name another repository or revision")
    if answer.status_code >= 400:
        raise Unanswered(f"{endpoint()} answered {answer.status_code}")
    size = answer.headers.get("X-Linked-Size") or ("" if answer.is_redirect else answer.headers.get("Content-Length"))
    return int(size) if size and size.isdecimal() else None


def _request(method: str, path: str, seconds: float, with_token: str | None) -> Any:
    """One answer. Repositories that were renamed are followed on the hub itself; storage behind it is not asked."""
    from huggingface_hub import get_session
    from huggingface_hub.constants import is_offline_mode

    if is_offline_mode() or os.environ.get("HF_HUB_OFFLINE", "").lower() in ("1", "true", "yes", "on"):
        raise Unanswered("HF_HUB_OFFLINE is set")
    headers = {"Accept-Encoding": "identity"} | ({"Authorization": f"Bearer {with_token}"} if with_token else {})
    url = endpoint() + path
    try:
        for _ in range(3):
            answer = get_session().request(method, url, headers=headers, timeout=seconds, follow_redirects=False)
            place = answer.headers.get("Location", "")
            if not answer.is_redirect or not place.startswith("/"):
                return answer
            url = endpoint() + place
        return answer
    except Exception as error:  # of whatever client huggingface_hub was given
        said = " ".join(str(error).split()) or type(error).__name__
        raise Unanswered(f"{endpoint()} does not answer ({said})") from error


def _parsed(name: str, answer: Any) -> Repository:
    try:
        said = answer.json()
        files = tuple(
            File(
                str(one["rfilename"]),
                _whole((one.get("lfs") or {}).get("size") or one.get("size")),
                str((one.get("lfs") or {}).get("sha256") or ""),
            )
            for one in said.get("siblings") or ()
        )
        return Repository(name, str(said.get("sha") or ""), files, _licence(said))
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise Unanswered(f"{endpoint()} answered something that is not of a hub") from error


def _whole(value: Any) -> int | None:
    return int(value) if isinstance(value, int | float) else None


def _licence(said: Mapping[str, Any]) -> str:
    """The identifier of the card, or of the tags; of an own licence its name."""
    card = said.get("cardData") or {}
    stated = card.get("license") or next(
        (tag.partition(":")[2] for tag in said.get("tags") or () if str(tag).startswith("license:")), ""
    )
    return licence_of(stated, card.get("license_name"))


def licence_of(stated: Any, name: Any = None) -> str:
    """The identifiers of a model card's `license`, which may be a list; of `other` with its `license_name`."""
    listed = [str(one) for one in (stated if isinstance(stated, list) else [stated]) if one]
    return ", ".join(f"other ({name})" if one == "other" and name else one for one in listed)
