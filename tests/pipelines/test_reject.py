"""Reasons are counted by their class: numbers do not matter, and long ones are cut."""

from __future__ import annotations

import pytest

from fourmill.infra.explain import reason_class


@pytest.mark.parametrize(
    ("reason", "expected"),
    [
        ("image: 0 bytes", "image: N bytes"),
        ("image: 1001 x 1000 px, 2.5 too many", "image: N x N px, N too many"),
        ("caption: not UTF-8, in tok_4m or B12", "caption: not UTF-8, in tok_4m or B12"),  # parts of names stay
        ("a" * 100, "a" * 100),
        (f"{'a' * 95} bcd ef", f"{'a' * 95} bcd ..."),
        (f"{'a' * 95} bcde", f"{'a' * 95} bcde"),
        (f"{'a' * 95} bcdef", f"{'a' * 95} ..."),  # no half words
    ],
)
def test_equal_causes_have_one_class(reason: str, expected: str) -> None:
    assert reason_class(reason) == expected
