"""The ledger as `fourmill inspect` shows it, and what it may say of damaged files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from fourmill_tests.inspected import REASON, facts_of

from fourmill.infra import storage
from fourmill.report.inspect import inspect


def test_ledger(root: Path) -> None:
    record = facts_of(root / "ledger" / "tokens" / "caption" / "a.json")
    assert (record["kind"], record["nulls"], record["file_matches"]) == ("ledger record", 1, True)
    assert record["rejected"] == [{"key": "001", "reason": REASON}]
    outputs = {row["output"]: row for row in facts_of(root / "ledger")["outputs"]}
    assert outputs["tokens/caption"]["records"] == 2 and outputs["tokens/caption"]["rows"] == 10
    assert facts_of(root / "ledger" / "labels")["rejects"] == {}


def test_damaged_records_are_counted_not_fatal(root: Path, tmp_path: Path) -> None:
    for name in ("a", "b"):
        record = (root / "ledger" / "tokens" / "caption" / f"{name}.json").read_bytes()
        storage.put(
            str(tmp_path / "ledger" / "tokens" / "caption" / f"{name}.json"), record[: -9 if name == "b" else None]
        )
    facts = facts_of(tmp_path / "ledger")
    assert facts["outputs"][0]["rows"] == 5
    assert len(facts["notes"]) == 1
    assert "b.json" in facts["notes"][0] and "damaged ledger record of fourmill: delete it" in facts["notes"][0]


def test_damaged_record_proves_itself(root: Path, tmp_path: Path) -> None:
    """Only at its own place does a cut record show that fourmill wrote it."""
    cut = (root / "ledger" / "tokens" / "caption" / "b.json").read_bytes()[:-9]
    for place, proven in (("tokens/caption/b", True), ("tokens/caption/a", False), ("tokens/det/b", False)):
        path = tmp_path / "ledger" / f"{place}.json"
        storage.put(str(path), cut)
        with pytest.raises(ValueError, match="this is no JSON") as caught:
            inspect.look(str(path))
        assert ("delete" in str(caught.value)) == proven


def test_record_of_another_release_is_no_damage(root: Path, tmp_path: Path) -> None:
    record = json.loads((root / "ledger" / "tokens" / "caption" / "a.json").read_bytes())
    del record["sum"]  # those of older releases have none
    path = tmp_path / "ledger" / "tokens" / "caption" / "a.json"
    storage.put(str(path), json.dumps(record | {"machine": "x"}, indent=1).encode())
    with pytest.raises(ValueError, match="of another release of fourmill; it differs in machine"):
        inspect.look(str(path))
    assert "another release" in facts_of(tmp_path / "ledger")["notes"][0]


def test_times_of_stages_are_no_broken_records(root: Path) -> None:
    """Beside the records of a root lie files that stages write: none of them is called broken."""
    facts = facts_of(root / "ledger" / "stages" / "fit.json")
    assert (facts["kind"], facts["stage"], facts["made"]) == ("times of a stage", "fit", 2)
    assert facts_of(root / "ledger")["notes"] == []
    assert facts_of(root)["notes"] == []
    assert facts_of(root / "ledger" / "stages")["contents"][0]["kind"] == "times of a stage"


def test_cut_column_is_proven_by_its_record(root: Path, tmp_path: Path) -> None:
    whole = (root / "tokens" / "caption" / "a.parquet").read_bytes()
    path = tmp_path / "tokens" / "caption" / "a.parquet"
    for keep in (0, 400):
        storage.put(str(path), whole[:keep])
        with pytest.raises(ValueError, match=r"a\.parquet") as caught:
            inspect.look(str(path))
        assert "delete" not in str(caught.value)
    record = (root / "ledger" / "tokens" / "caption" / "a.json").read_bytes()
    storage.put(str(tmp_path / "ledger" / "tokens" / "caption" / "a.json"), record)
    for keep in (0, 400):
        storage.put(str(path), whole[:keep])
        with pytest.raises(ValueError, match=rf"it has {keep} bytes, .* by its ledger record: delete it"):
            inspect.look(str(path))
