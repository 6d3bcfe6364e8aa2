"""What the tests of `fourmill inspect` look at, and how."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from fourmill.infra import ledger
from fourmill.modalities import Kind
from fourmill.report.inspect import inspect, view
from fourmill.tokenize.store import ColumnSpec, encode_column
from fourmill.tokenize.text.wordpiece import WordPiece

KEYS = ["000", "001", "002", "003", "004"]
HOSTILE = "a cat \x1b[2J [red]\u202e"
TEXTS = ["a cat on a mat", "two dogs", HOSTILE, "a cat", "the sea"]
REASON = "caption: 99 bytes, expected at most 9"


def commit(root: Path, output: str, shard: str, data: bytes, rejects: list[dict[str, str]] | None = None) -> None:
    rejects = rejects or []
    source = ledger.Source(1, "v", "s")
    record = ledger.Record(output, shard, "f00d", source, len(KEYS), len(rejects), rejects, 0, "", 1.5)
    ledger.commit(str(root), record, data)


def text_column(piece: WordPiece, texts: list[str | None], keys: list[str] = KEYS) -> bytes:
    column = ColumnSpec("caption", Kind.SEQUENCE, 1, 16, piece.vocab_size, tokenizer=piece.fingerprint())
    rows = [None if text is None else [piece.encode(text, 16)] for text in texts]
    return encode_column(column, keys, rows)


def photo(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (20, 30, 3)).astype(np.uint8)


def facts_of(path: Path | str, row: int = 0) -> dict[str, Any]:
    """The facts as `--json` prints them: parsed with a parser that refuses NaN."""

    def refuse(text: str) -> None:
        raise AssertionError(f"{text} is no JSON")

    return json.loads(view.to_json(inspect.look(str(path), row, pictures=False)), parse_constant=refuse)


def printed(path: Path | str, row: int = 0, color: bool = False) -> str:
    sink = io.StringIO()
    console = Console(file=sink, width=100, force_terminal=color, color_system="truecolor" if color else None)
    view.show(inspect.look(str(path), row), console)
    return sink.getvalue()
