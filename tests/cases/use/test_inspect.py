"""`inspect` on what other programs, and fourmill itself, have written."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from fourmill_tests import data, first, runs
from fourmill_tests.cases import require


def test_a_download_of_img2dataset_is_shown(tmp_path: Path) -> None:
    """It leaves 00000_stats.json and 00000.parquet beside each tar."""
    for n in range(2):
        (tmp_path / f"{n:05d}.tar").write_bytes(data.tar(data.good_entries(n, 1)))
        (tmp_path / f"{n:05d}_stats.json").write_text(json.dumps({"count": 1, "successes": 1}))
        pq.write_table(pa.table({"key": ["0"], "url": ["http://example.org/a.jpg"]}), tmp_path / f"{n:05d}.parquet")
    status, _, err = runs.command("inspect", str(tmp_path), "--json")
    assert status == 0, err
    _, out, err = runs.command("inspect", str(tmp_path / "00000_stats.json"))
    assert "delete it" not in out + err


def test_our_own_wall_times_are_no_broken_record(tmp_path: Path) -> None:
    """ledger/stages/*.json of a finished root."""
    status, out, err = runs.command("inspect", str(first.copy(tmp_path) / "out"))
    said = " ".join((out + err).split())
    assert status == 0 and "is no ledger record" not in said and "delete" not in said, said


def test_a_foreign_root_runs_no_code(tmp_path: Path) -> None:
    """A root that was downloaded: its recipe names a module that lies beside it, and looking at it runs that module."""
    recipe = {"root": str(tmp_path), "samples": {"train": ["*.tar"]}, "modules": ["evil_beside"]}
    (tmp_path / "recipe.yaml").write_text(json.dumps(recipe))
    (tmp_path / "evil_beside.py").write_text(f"open({str(tmp_path / 'owned')!r}, 'w').close()\n")
    command = [sys.executable, "-m", "fourmill.cli", "inspect", "."]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    if "ModuleNotFoundError" in done.stderr:
        raise RuntimeError(done.stderr)
    require(not (tmp_path / "owned").exists(), "inspect ran evil_beside.py")
