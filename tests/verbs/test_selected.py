"""`train.select` from the recipe to the run: what is selected, what `plan` says of it, and what is said when it fits
nothing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from fourmill_tests import data, training
from fourmill_tests.small import SmallRoot, copied

from fourmill import recipe as recipes
from fourmill.infra import ledger, storage
from fourmill.modalities import Storage
from fourmill.pipelines.curation import selection
from fourmill.pipelines.curation.expression import parse
from fourmill.project import Project
from fourmill.recipe import RecipeError
from fourmill.report.check import check
from fourmill.tokenize import labels as label_files
from fourmill.verbs import selected, stage
from fourmill.verbs.look import status
from fourmill.verbs.make import plan

SELECT = "metadata.brightness > 110 and caption.words >= 5"


@pytest.fixture(scope="module")
def recipe(small_root: SmallRoot, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the small root whose runs train on what `SELECT` selects."""
    path = copied(small_root, tmp_path_factory.mktemp("selected"), checkpoint_every=4)
    settings = yaml.safe_load(path.read_text())
    settings["train"] |= {"select": SELECT, "steps": 2, "warmup_steps": 0, "validate_every": 2}
    path.write_text(yaml.safe_dump(settings))
    return path


def project(recipe: Path, *changes: str) -> Project:
    return Project(recipes.load(recipe, list(changes)))


def values(root: str, label: str, shard: str) -> dict[str, Any]:
    keys, found = label_files.read_labels(ledger.output_url(root, f"labels/{label}", shard))
    return dict(zip(keys, found, strict=True))


def wanted(root: str, shard: str) -> list[bool]:
    """What `SELECT` says, sample by sample."""
    numbers, words = values(root, "metadata", shard), values(root, "caption", shard)
    return [
        bool(numbers[key] and numbers[key].get("brightness", 0) > 110 and words[key] and len(words[key].split()) >= 5)
        for key in numbers
    ]


def test_a_run_is_on_the_selected_samples(recipe: Path) -> None:
    one = project(recipe)
    job = one.train_job
    expected = {shard.name: wanted(one.root, shard.name) for shard in job.shards}
    assert {shard.name: shard.mask().tolist() for shard in job.shards} == expected
    assert 0 < job.rows == sum(map(sum, expected.values())) < sum(map(len, expected.values()))
    assert all(shard.selected is None for shard in job.val_shards)
    trained = training.train(job)
    assert trained.step == 2 and trained.loader.epoch_size == job.rows


def test_the_selected_samples_are_part_of_the_run(recipe: Path) -> None:
    prints = {
        select: project(recipe, f"train.select={json.dumps(select)}").train_job.fingerprint
        for select in (SELECT, f"caption.words > 4 and ({SELECT})", "caption.words >= 0", None)
    }
    assert prints[SELECT] == prints[f"caption.words > 4 and ({SELECT})"]  # the same samples in other words
    assert len(set(prints.values())) == 3
    without = yaml.safe_load(recipe.read_text())
    del without["train"]["select"]
    assert Project(recipes.parse(without)).train_job.fingerprint == prints[None]


def test_it_is_worked_out_once(recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stage.keep_selection(project(recipe))
    job = project(recipe).train_job
    kept = selection.read(project(recipe).root, parse(SELECT))
    assert {name: one.bits for name, one in kept.items()} == {shard.name: shard.selected for shard in job.shards}

    def refused(*_: Any, **__: Any) -> Any:
        raise AssertionError("labels are read again")

    with monkeypatch.context() as patched:
        patched.setattr(label_files, "read_cells", refused)
        assert project(recipe).train_job == job
        # A file that is damaged is not believed.
        (url,) = (Path(job.root) / "selections").iterdir()
        data_of = url.read_bytes()
        url.write_bytes(data_of[: len(data_of) // 2])
        with pytest.raises(AssertionError, match="read again"):
            _ = project(recipe).train_job
    assert [one.what for one in check.check(job.root).findings if "selections" in one.what]
    assert project(recipe).train_job == job
    url.write_bytes(data_of)


def test_another_label_is_another_selection(recipe: Path) -> None:
    one = project(recipe)
    stage.keep_selection(one)
    shard = one.train_job.shards[0].name
    record = ledger.read(one.root, "labels/caption", shard)
    assert record is not None
    url = ledger.output_url(one.root, "labels/caption", shard)
    before = storage.read_bytes(url)
    keys, found = label_files.read_labels(url)
    try:
        words = [value and "short" for value in found]
        changed = ledger.commit(one.root, record, label_files.encode_labels("caption", Storage.JSON, keys, words))
        assert changed.record.sha256 != record.sha256
        assert not project(recipe).train_job.shards[0].count
    finally:
        ledger.commit(one.root, record, before)


def test_plan_says_what_is_left_clause_by_clause(recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one = project(recipe)
    described = plan.describe(one, measure=0)
    found, rows = described["selected"], {name: wanted(one.root, name) for name in one.shards.splits["train"]}
    assert found["samples"] == sum(map(len, rows.values())) and found["left"] == sum(map(sum, rows.values()))
    assert [row["clause"] for row in found["clauses"]] == SELECT.split(" and ")
    assert all(row["true"] + row["false"] + row["unknown"] == found["samples"] for row in found["clauses"])
    assert sum(found["nulls"].values()) == sum(row["unknown"] for row in found["clauses"]) > 2
    assert found["nulls"]["metadata.brightness: its label says nothing of it"] > 2
    plan.show(described, as_json=False)
    assert f"leaves {found['left']} of {found['samples']} samples" in " ".join(capsys.readouterr().out.split())


def test_what_is_selected_can_be_seen_before_there_are_columns(tmp_path: Path) -> None:
    shards = data.good_shards(tmp_path / "s", 2, 3)
    one = data.recipe(
        tmp_path / "out", shards, modalities=["rgb", "caption"], labels__keep=["size"], generate__chains=[],
        train__select="size.width > 110",
    )  # fmt: skip
    assert selected.describe(Project(one), Project(one).plan(Project(one).label_outputs).done)["shards"] == 0
    outputs = {name: out for name, out in Project(one).label_outputs.items() if name != "samples"}
    data.make(one, outputs)
    found = selected.describe(Project(one), Project(one).plan(Project(one).label_outputs).done)
    widths = [
        value["width"] for name in ("train-00000", "train-00001") for value in values(one.root, "size", name).values()
    ]
    assert (found["left"], found["samples"]) == (sum(width > 110 for width in widths), 6)


@pytest.mark.parametrize(
    ("select", "said"),
    [
        ("capton.length > 1", "there is no label 'capton'; did you mean 'caption'"),
        ("aesthetic > 5", "the label aesthetic is not kept; add it to labels.keep"),
        ("metadata.brightnes > 5", "metadata has no 'brightnes'; did you mean 'brightness'"),
        ("canny_edge > 5", "kept as an image, of which `canny_edge is None` alone"),
        ("det.colour == 'red'", "no sample has a det.colour"),
        ("metadata.brightness > 'high'", "a number is compared with text"),
        ("metadata.brightness > 1000", "leaves none of"),
    ],
)
def test_what_fits_nothing_is_one_sentence(recipe: Path, select: str, said: str) -> None:
    with pytest.raises(RecipeError, match=f"train.select: .*{said}"):
        plan.describe(project(recipe, f"train.select={json.dumps(select)}"), measure=0)


def test_a_wrong_expression_is_an_error_of_the_recipe(recipe: Path) -> None:
    with pytest.raises(RecipeError, match=r"train\.select: .* to compare, write =="):
        recipes.load(recipe, ["train.select=aesthetic = 5"])
    shares = [{"root": "elsewhere"}]
    with pytest.raises(RecipeError, match=r"which train\.datasets lacks"):
        recipes.load(recipe, [f"train.datasets={json.dumps(shares)}"])


def test_images_can_be_asked_for(recipe: Path) -> None:
    one = project(recipe, "train.select='canny_edge is not None'")
    for shard in one.train_job.shards:
        record = ledger.read(one.root, "labels/canny_edge", shard.name)
        assert record is not None and shard.count == record.rows - record.nulls
        assert np.count_nonzero(shard.mask()) == shard.count


def test_a_shard_without_its_label_stops_training_alone(recipe: Path) -> None:
    one = project(recipe)
    url = ledger.record_url(one.root, "labels/caption", name := one.train_job.shards[0].name)
    before = storage.read_bytes(url)
    try:
        storage.delete(url)
        missing = status.describe(project(recipe))["missing"]
        assert "train.select: 1 of" in missing["runs/4m"] and name in missing["runs/4m"]
    finally:
        storage.put(url, before)
