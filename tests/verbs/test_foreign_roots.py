"""A root that somebody else made: looking at it, training on it and opening its runs run none of its code."""

from __future__ import annotations

import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from fourmill_tests import runs
from fourmill_tests.small import SmallRoot

from fourmill import modalities, project
from fourmill import recipe as recipes
from fourmill.infra import ledger
from fourmill.recipe import RecipeError
from fourmill.runs import origin


@pytest.fixture
def foreign(small_root: SmallRoot, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A root whose recipe asks for the module `evil`, which can be imported, and which leaves the file `owned`."""
    root = tmp_path / "out"
    shutil.copytree(small_root.root, root)
    data = yaml.safe_load((root / "recipe.yaml").read_text())
    data["modules"] = ["evil"]
    data["modalities"].append("riddle")
    data["labels"]["keep"].append("riddle")
    data["labels"]["specialists"] |= {
        "riddle": {"specialist": "evil:Riddle"},
        "canny_edge": {"specialist": "evil2:Edges"},
    }
    data["generate"]["chains"].append({"inputs": ["rgb"], "to": [{"target": "riddle"}]})
    data["train"]["mixtures"] = [{"input_alpha": {"riddle": 1.0, "rgb": 1.0}}]
    (root / "recipe.yaml").write_text(yaml.safe_dump(data))
    for family, name in (("labels", "caption"), ("tokens", "caption")):  # what a foreign label and modality look like
        shutil.copytree(root / family / name, root / family / "riddle")
        records = shutil.copytree(root / "ledger" / family / name, root / "ledger" / family / "riddle")
        for record in Path(records).glob("*.json"):
            moved = replace(ledger.parse(record.read_bytes(), str(record)), output=f"{family}/riddle")
            record.write_bytes(ledger.dumps(moved))
    for module in ("evil", "evil2"):
        (tmp_path / f"{module}.py").write_text(f"open({str(tmp_path / 'owned')!r}, 'w').close()\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    return root


def owned(root: Path) -> bool:
    return (root.parent / "owned").exists()


@pytest.mark.parametrize(
    ("command", "status", "said"),
    [
        (["inspect", "{root}"], 0, "labels/riddle"),
        (["inspect", "{root}/recipe.yaml"], 0, "evil, evil2:Edges"),
        (["inspect", "{root}/labels/riddle"], 0, "riddle"),
        (["inspect", "{root}/tokens/riddle"], 0, "riddle"),
        (["status", "{root}"], 0, "tokens/riddle"),
        (["view", "{root}", "--samples", "3"], 0, "gallery.html"),
        (["view", "{root}/recipe.yaml"], 2, "it lies in a root, and asks for code of its own (evil, evil2:Edges)"),
        (["status", "{root}/recipe.yaml"], 2, "say --trust"),
        (["report", "{root}"], 2, "which is not run"),
    ],
)
def test_looking_runs_no_code(foreign: Path, command: list[str], status: int, said: str) -> None:
    got, out, err = runs.command(*(part.replace("{root}", str(foreign)) for part in command))
    assert got == status, err
    assert said in " ".join((out + err).split())
    assert not owned(foreign)


def test_foreign_labels_are_shown_as_they_are_stored(foreign: Path) -> None:
    assert runs.command("view", str(foreign), "--samples", "3")[0] == 0
    page = (foreign / "gallery.html").read_text()
    assert page.count("Riddle") >= 3 and "riddle" not in modalities.LABELS


def test_trust_runs_it(foreign: Path) -> None:
    try:
        assert runs.command("inspect", str(foreign), "--trust")[0] == 0
    finally:
        for module in ("evil", "evil2"):
            sys.modules.pop(module, None)
    assert owned(foreign)


def test_columns_of_another_root_are_those_of_its_records(foreign: Path, small_root: SmallRoot) -> None:
    plain, columns = project.columns_of(str(small_root.root)), project.columns_of(str(foreign))
    assert not owned(foreign)
    assert columns.specs == plain.specs and columns.shards == plain.shards and columns.tokenizers == plain.tokenizers
    assert columns.prints == plain.prints | {"tokens/riddle": plain.prints["tokens/caption"]}
    assert columns.sources == plain.sources and columns.versions == plain.versions


def test_the_recipe_of_a_run_is_read_without_its_code(foreign: Path, tmp_path: Path) -> None:
    run = foreign / "runs" / "4m" / "0123"
    run.mkdir(parents=True)
    shutil.copy(foreign / "recipe.yaml", run / "recipe.yaml")
    found = origin.find(str(run))
    assert not owned(foreign) and found.recipe is not None
    assert found.root == str(foreign) and found.recipe.images.size == 64 and found.recipe.modules == []
    assert "riddle" not in found.recipe.modalities and found.recipe.generate.chains == []


@pytest.mark.parametrize(
    "part",
    [
        {"modules": ["evil"]},
        {"labels": {"specialists": {"det": {"specialist": "evil:Det"}}}},
        {"labels": {"specialists": {"det": {"specialist": "fourmill.nothing:Det"}}}},
        {"modules": "evil"},
        {"modules": [7, None]},
        {"labels": {"specialists": {"det": {"specialist": ["evil:Det"]}}}},
    ],
)
def test_no_form_of_asking_runs_code(foreign: Path, part: dict[str, Any]) -> None:
    try:
        recipes.parse({"root": "out", "samples": "a.tar"} | part, trusted=False)
    except RecipeError:
        pass
    assert not owned(foreign)


def test_modules_that_are_loaded_anyway_need_no_trust() -> None:
    data = {
        "root": "out",
        "samples": "a.tar",
        "modules": ["json"],
        "labels": {"specialists": {"canny_edge": {"specialist": "canny:Canny"}}},
    }
    assert recipes.code_of(data) == [] and recipes.parse(data, trusted=False).modules == ["json"]
