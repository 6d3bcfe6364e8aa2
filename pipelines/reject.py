"""A reject: one sample that could not be used for one output, and why.

Filtered is not failed, and nothing is dropped in silence.
"""

from __future__ import annotations

import re

_NUMBER = re.compile(r"(?<![\w-])\d+(\.\d+)?")
UNREAD = "members: no specialist reads "  # of a shard; it rejects no sample, and is shown apart
_LONGEST_CLASS = 100  # characters of a reason's class; reasons may quote what they were given


class Reject(ValueError):
    """Raised (or returned in place of a label) for one sample; its text is the reason recorded in the ledger.

    Write reasons that name what was got and what was expected and that are equal for equal causes up to their
    numbers, so that they can be counted: "image: 0 bytes", "det: score is NaN".
    """

    @property
    def reason(self) -> str:
        return str(self)


def reason_class(reason: str) -> str:
    """A reason without its numbers, so that equal causes can be counted: "image: 0 bytes" -> "image: N bytes"."""
    text = _NUMBER.sub("N", reason)
    return text if len(text) <= _LONGEST_CLASS else text[:_LONGEST_CLASS].rpartition(" ")[0] + " ..."
