"""Why a URL gave no sample: a class, which is counted and may be asked for again, and a sentence."""

from __future__ import annotations

import re
from collections.abc import Sequence

BAD_URL = "bad-url"  # no address at all, or of another scheme than http and https
DNS = "dns"
REFUSED = "refused-address"  # private, loopback, link-local, reserved
CONNECTION = "connection"
TLS = "tls"
TIMEOUT = "timeout"
DEADLINE = "deadline"  # of its slice; the URL may never have been asked
REDIRECTS = "redirect-loop"
ROBOTS = "robots"
NO_AI = "no-ai"  # a header says that it is not to be used
TOO_LARGE = "too-large"  # bytes or pixels
NOT_IMAGE = "not-an-image"
UNDECODABLE = "undecodable"
TOO_SMALL = "too-small"
WRONG_HASH = "wrong-hash"
NO_ROW = "no-row"  # of a table of texts, as the next two
EMPTY = "empty"
NOT_TEXT = "not-text"
OTHER = "other"  # what img2dataset says in words that are not known

CLASSES = (
    BAD_URL, DNS, REFUSED, CONNECTION, TLS, TIMEOUT, DEADLINE, REDIRECTS, ROBOTS, NO_AI, TOO_LARGE, NOT_IMAGE,
    UNDECODABLE, TOO_SMALL, WRONG_HASH, NO_ROW, EMPTY, NOT_TEXT, OTHER,
)  # fmt: skip
_STATUS = re.compile(r"http-(\d{3}|5xx)")
# After the bytes have come: img2dataset calls these failed_to_resize.
OF_CONTENT = frozenset({TOO_LARGE, NOT_IMAGE, UNDECODABLE, TOO_SMALL, WRONG_HASH, NO_ROW, EMPTY, NOT_TEXT})
PASSING = (TIMEOUT, CONNECTION, DNS, DEADLINE, "http-408", "http-425", "http-429", "http-5xx")


class Failure(Exception):
    """Attributes: kind: one of `CLASSES`, or http-STATUS. wait: seconds that the server asks to be left alone."""

    def __init__(self, kind: str, said: str = "", wait: float = 0.0) -> None:
        super().__init__(kind, said, wait)
        self.kind, self.said, self.wait = kind, said, wait

    def __str__(self) -> str:
        return f"{self.kind}: {self.said}" if self.said else self.kind


def of_status(status: int, wait: float = 0.0) -> Failure:
    return Failure(f"http-{status}", f"HTTP status {status}", wait)


def matches(kind: str, classes: Sequence[str]) -> bool:
    """Whether a failure is of one of these classes; http-5xx are all of http-500 to http-599."""
    return any(kind == one or (one == "http-5xx" and kind.startswith("http-5")) for one in classes)


def check_classes(classes: Sequence[str]) -> None:
    """ValueError if one of them can never happen."""
    for one in classes:
        if one not in CLASSES and not _STATUS.fullmatch(one):
            known = f"{', '.join(CLASSES)}, http-STATUS (http-404) and http-5xx"
            raise ValueError(f"there is no class of failures {one!r}; there are {known}")
