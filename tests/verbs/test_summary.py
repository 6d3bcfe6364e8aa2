"""The closing tables: exit status, reasons, and text from the data that must not steer the terminal."""

from __future__ import annotations

from collections import Counter

import pytest

from fourmill.verbs import summary
from fourmill.verbs.summary import Summary


def test_the_closing_table_says_what_is_missing_and_why(capsys: pytest.CaptureFixture[str]) -> None:
    bad = Summary("label", made=3, missing={"shard 00007": "there is no shard at s/00007.tar"})
    bad.rejects = Counter({"labels/det: image: N bytes": 2})
    assert summary.show([Summary("fit"), bad]) == 1
    out = capsys.readouterr().out
    for text in ("label: shard 00007", "there is no shard at s/00007.tar", "labels/det: image: N bytes"):
        assert text in out
    assert summary.show([Summary("fit", made=1)]) == 0


def test_text_from_the_data_cannot_move_the_cursor_or_be_markup(capsys: pytest.CaptureFixture[str]) -> None:
    bad = Summary("label", missing={"shard \x1b[2J": "[bold]not markup[/bold] \x1b]0;owned\x07"})
    summary.show([bad])
    out = capsys.readouterr().out
    assert "[bold]not markup[/bold]" in out and "\x1b[2J" not in out and "\x07" not in out


def test_members_that_nothing_reads_are_no_rejects(capsys: pytest.CaptureFixture[str]) -> None:
    unread = Counter({"samples: members: no specialist reads .camera.json (N), .md (N)": 3})
    summary.show([Summary("label", rejects=unread), Summary("tokenize", rejects=unread)])
    said = capsys.readouterr().out
    assert said.count("members that nothing reads: .camera.json, .md (3 shards)") == 1
    assert "rejects" not in said
    summary.show([Summary("label", rejects=unread + Counter({"labels/det: image: there is none": 1}))])
    said = capsys.readouterr().out
    assert "members that nothing reads" in said and "labels/det: image: there is none" in said
