"""`prune` names what no recipe of a root asks for, deletes only on demand, and nothing else."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from fourmill_tests import runs
from fourmill_tests.s3 import S3
from fourmill_tests.small import SmallRoot

from fourmill.infra import ledger, storage


@pytest.fixture
def root(small_root: SmallRoot, tmp_path: Path) -> Path:
    """A root with a label, a column, a tokenizer and a run that nobody asks for."""
    root = tmp_path / "out"
    shutil.copytree(small_root.root, root)
    for family, name in (("labels", "caption"), ("tokens", "caption")):
        shutil.copytree(root / family / name, root / family / "old")
        records = shutil.copytree(root / "ledger" / family / name, root / "ledger" / family / "old")
        for path in Path(records).glob("*.json"):
            moved = replace(ledger.parse(path.read_bytes(), str(path)), output=f"{family}/old")
            path.write_bytes(ledger.dumps(moved))
    shutil.copytree(root / "tokenizers" / "tok_rgb", root / "tokenizers" / "tok_old")
    (root / "ledger" / "tokenizers" / "tok_old.json").write_text("{}")
    (root / "runs" / "4m" / "0123" / "model").mkdir(parents=True)
    (root / "runs" / "4m" / "0123" / "model" / "model.safetensors").write_bytes(bytes(1000))
    (root / "ledger" / "runs" / "4m").mkdir(parents=True)
    (root / "ledger" / "runs" / "4m" / "0123.json").write_text("{}")
    return root


def named(root: Path, *more: str) -> dict[str, Any]:
    status, out, err = runs.command("prune", str(root), "--json", *more)
    assert status == 0, err
    said: dict[str, Any] = json.loads(out)
    return said


def files(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def test_what_nobody_asks_for_is_named_and_deleted_when_told(root: Path, small_root: SmallRoot) -> None:
    before, said = files(root), named(root)
    sizes = {one["what"]: one["bytes"] for one in said["unasked"]}
    assert sizes == {
        "labels/old": sum(len(v) for k, v in before.items() if k.startswith("labels/old/")),
        "tokens/old": sum(len(v) for k, v in before.items() if k.startswith("tokens/old/")),
        "tokenizers/tok_old": sum(len(v) for k, v in before.items() if k.startswith("tokenizers/tok_old/")),
        "runs/4m/0123": 1000,
    }
    assert files(root) == before
    status, out, _ = runs.command("prune", str(root))
    assert status == 0 and "--delete deletes them" in out and files(root) == before
    assert named(root, "--delete")["deleted"]
    assert files(root) == files(small_root.root)
    assert not (root / "labels" / "old").exists() and not (root / "runs" / "4m" / "0123").exists()
    assert named(root)["unasked"] == []


def test_other_options_are_named_unless_a_recipe_asks(root: Path, tmp_path: Path) -> None:
    data = yaml.safe_load((root / "recipe.yaml").read_text())
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(data))
    data["labels"]["specialists"]["canny_edge"] = {"low": 10, "high": 20}
    (root / "recipe.yaml").write_text(yaml.safe_dump(data))
    said = named(root)
    assert {"labels/canny_edge", "labels/old"} <= {one["what"] for one in said["unasked"]}
    assert not any(one["what"] in ("tokens/tok_canny_edge", "labels/caption") for one in said["unasked"])
    assert any("not fitted" in note for note in said["notes"])
    said = named(root, "--recipe", str(tmp_path / "mine.yaml"))
    assert "labels/canny_edge" not in {one["what"] for one in said["unasked"]}


def test_no_recipe_means_that_nothing_is_pruned(root: Path) -> None:
    (root / "recipe.yaml").unlink()
    before = files(root)
    status, _, err = runs.command("prune", str(root), "--delete")
    assert status == 2 and "there is no recipe.yaml in it" in err and files(root) == before


def test_a_root_in_a_bucket_is_pruned(root: Path, s3: S3) -> None:
    bucket = f"{s3.bucket('prune')}/out"
    recipe = yaml.safe_load((root / "recipe.yaml").read_text()) | {"root": bucket}
    (root / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    before = files(root)
    for name, content in before.items():
        storage.put(storage.join(bucket, name), content)
    status, out, err = runs.command("prune", bucket, "--json")
    assert status == 0, err
    gone = {one["what"] for one in json.loads(out)["unasked"]}
    assert gone == {"labels/old", "tokens/old", "tokenizers/tok_old", "runs/4m/0123"}
    assert len(storage.list_below(bucket)) == len(before), "nothing is deleted unless it is asked for"
    status, out, err = runs.command("prune", bucket, "--delete")
    assert status == 0, err
    kept = {url.removeprefix(f"{bucket}/") for url in storage.list_below(bucket)}
    assert kept == {name for name in before if not any(name.removeprefix("ledger/").startswith(one) for one in gone)}
    assert json.loads(runs.command("prune", bucket, "--json")[1])["unasked"] == []
