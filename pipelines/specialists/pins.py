"""Which commit of a hub repository a root's labels are made with: found once, kept in the root, the same from then on.

ROOT/ledger/weights/ORG--NAME@REVISION.json. A recipe may leave the revision open, or name a branch, which moves; what
was read first holds for all nodes and all later runs of a root, so that its labels are of one network. A recipe that
names another revision is pinned apart. Delete the file to read what the hub holds by then.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime

from ...infra import hub, storage, sums
from ...infra.side_files import passed_over
from .base import Specialist
from .pretrained import Pretrained

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Pin:
    """A repository as a root reads it.

    revision: as the recipe says, "" for none. files: SHA-256 of the large ones as the hub said it, by name; {} where
    only the cache was there. licence: as the repository stated it then. read: when, and by which address.
    """

    weights: str
    revision: str
    commit: str
    files: dict[str, str]
    licence: str
    read: str


def url_of(root: str, weights: str, revision: str) -> str:
    name = f"{weights}@{revision}" if revision else weights
    return storage.join(root, "ledger", "weights", f"{re.sub(r'[^A-Za-z0-9._@-]', '--', name)}.json")


def apply(root: str, specialists: Iterable[Specialist]) -> None:
    """Let specialists read the commits that the root has pinned."""
    for one in _open(specialists):
        if pin := _read(root, one.weights, one.revision or ""):
            one.pin(pin.commit, pin.files)


def keep(root: str, specialists: Iterable[Specialist], used: Mapping[str, str]) -> None:
    """Pin what the root has not pinned yet: to what its labels were made with, else to what the hub or the cache has.

    Args:
        used: the commits that records of the root name, by hub id.
    """
    answers = True  # a hub that is out of reach is asked once
    for one in _open(specialists):
        if _read(root, one.weights, one.revision or "") is not None:
            continue
        found = None
        try:
            found = hub.repository(one.weights, used.get(one.weights) or one.revision) if answers else None
        except hub.Unanswered:
            answers = False
        except hub.Refused:  # fetching says more of it
            pass
        if pin := _pin(one, found, used.get(one.weights, "")):
            data = (json.dumps(sums.sealed(asdict(pin)), indent=1) + "\n").encode()
            # Of two jobs that begin at once the first one counts.
            if storage.put(url_of(root, pin.weights, pin.revision), data, if_absent=True):
                logger.info("%s is pinned at %s for this root", pin.weights, pin.commit)


def _pin(one: Pretrained, found: hub.Repository | None, used: str) -> Pin | None:
    """What to pin; None if nobody knows the commit."""
    here = one.fetched()
    commit = found.commit if found else used or (here.name if here else "")
    if not hub.is_commit(commit):
        return None
    files = {file.name: file.sha256 for file in found.files if file.sha256} if found else {}
    now, where = datetime.now(UTC).isoformat(timespec="seconds"), hub.endpoint() if found else "the cache"
    return Pin(one.weights, one.revision or "", commit, files, found.licence if found else "", f"{now}, {where}")


def _open(specialists: Iterable[Specialist]) -> list[Pretrained]:
    """Those whose weights may move: of the hub, and not named by a commit."""
    found = (one for one in specialists if isinstance(one, Pretrained) and not one.is_local)
    return [one for one in found if not hub.is_commit(one.revision or "")]


def _read(root: str, weights: str, revision: str) -> Pin | None:
    url = url_of(root, weights, revision)
    try:
        raw = sums.opened(json.loads(storage.read_bytes(url)))
        return Pin(**raw)
    except FileNotFoundError:
        return None
    except (ValueError, TypeError) as error:
        passed_over(url, error)
        return None
