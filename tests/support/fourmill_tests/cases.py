"""Cases: inputs from life on which the product does not behave yet, as tests that are expected to fail.

A case fails by `require` alone. Anything else, a name that is no more or a file that is missing, is an error.
"""

from __future__ import annotations

import pytest

# Titles of the issues that mend cases.
PUBLISHED = "The published world"
SENSORS = "Any sensor in"


class Misbehaviour(Exception):
    """What a case says is not so. No AssertionError: those of set-ups must not pass as the expected failure."""


def require(behaves: bool, text: str) -> None:
    """The assertion of a case; `text` says what happened instead."""
    if not behaves:
        raise Misbehaviour(text)


def mended_by(issue: str) -> pytest.MarkDecorator:
    """Expected to fail until an issue is done; a case that passes fails the suite, until its mark is taken away."""
    return pytest.mark.xfail(strict=True, raises=Misbehaviour, reason=issue)
