"""A reject: one sample that could not be used for one output, and why.

Filtered is not failed, and nothing is dropped in silence.
"""

from __future__ import annotations

UNREAD = "members: no specialist reads "  # of a shard; it rejects no sample, and is shown apart


class Reject(ValueError):
    """Raised (or returned in place of a label) for one sample; its text is the reason recorded in the ledger.

    Write reasons that name what was got and what was expected and that are equal for equal causes up to their
    numbers, so that they can be counted: "image: 0 bytes", "det: score is NaN".
    """

    @property
    def reason(self) -> str:
        return str(self)
