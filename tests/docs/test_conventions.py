"""The table of conventions in the docs is the code's."""

from __future__ import annotations

from pathlib import Path

from fourmill.pipelines.specialists import conventions
from fourmill.tokenize import frames

PAGE = (Path(__file__).parents[2] / "docs" / "conventions.md").read_text()


def test_the_docs_show_the_table() -> None:
    rows = list(conventions.markdown())
    assert "\n".join(rows) in PAGE and all(row.count("|") == 6 for row in rows)


def test_the_docs_say_the_frames_of_labels_and_tokenizers() -> None:
    assert frames.DECLARED in PAGE and frames.OMNIDATA in PAGE
