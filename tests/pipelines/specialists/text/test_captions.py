"""Captions pass through; missing ones are rejected."""

from __future__ import annotations

from fourmill.pipelines.reject import Reject
from fourmill.pipelines.specialists.base import Item
from fourmill.pipelines.specialists.text.captions import Captions


def test_captions_pass_through_and_missing_ones_are_rejected() -> None:
    texts = ["A cat.", None, " padded ", "", " \n", "x" * 100_000]
    labels = Captions()([Item(str(i), None, text) for i, text in enumerate(texts)])
    assert labels[0] == "A cat." and labels[2] == " padded " and labels[5] == "x" * 100_000
    for i in (1, 3, 4):
        label = labels[i]
        assert isinstance(label, Reject) and label.reason == "caption: there is none"
