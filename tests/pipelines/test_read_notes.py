"""A shard that kills its readers is passed over after so many deaths, and nothing else is."""

from __future__ import annotations

from pathlib import Path

import pytest

from fourmill.pipelines.read_notes import ReadNotes


def die(notes: ReadNotes, shard: str) -> None:
    """What a process that is killed leaves behind: the note of the shard that it had begun."""
    with notes.reading(shard):
        note = Path(notes.folder, shard).read_bytes()
    Path(notes.folder, shard).write_bytes(note)


def test_a_shard_is_passed_over_after_the_deaths_allowed(tmp_path: Path) -> None:
    notes = ReadNotes(str(tmp_path), attempts=2)
    for _ in range(2):
        with notes.reading("good") as wanted:
            assert wanted
        die(notes, "bad")
    with notes.reading("bad") as wanted, notes.reading("good") as other:
        assert (wanted, other) == (False, True)
    assert notes.passed_over() == ["bad"]
    notes.clear()
    with notes.reading("bad") as wanted:
        assert wanted
    assert notes.passed_over() == []


def test_an_exception_is_no_death(tmp_path: Path) -> None:
    notes = ReadNotes(str(tmp_path), attempts=1)
    with pytest.raises(ValueError), notes.reading("odd"):
        raise ValueError("no image")
    with notes.reading("odd") as wanted:
        assert wanted
