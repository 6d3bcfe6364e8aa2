"""Cases: inputs from life on which the product once did not behave."""

from __future__ import annotations


class Misbehaviour(Exception):
    """What a case says is not so. No AssertionError: those of set-ups are something else."""


def require(behaves: bool, text: str) -> None:
    """The assertion of a case; `text` says what happened instead."""
    if not behaves:
        raise Misbehaviour(text)
