"""Changing one option redoes exactly what depends on it; a shard counts as changed when its bytes are."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fourmill_tests import data

from fourmill.infra import ledger, storage
from fourmill.pipelines import outputs
from fourmill.pipelines import plan as plans
from fourmill.pipelines.outputs import Fitted, Output
from fourmill.pipelines.specialists import registry
from fourmill.project import Project
from fourmill.recipe import RecipeError

SPATIAL = {"tokens/rgb", "tokens/tok_rgb", "tokens/tok_canny_edge", "tokens/det"}
LABELS = {f"labels/{name}" for name in data.TINY["labels"]["keep"]}
GRIDS = {"fit/tok_rgb", "fit/tok_canny_edge"}
TOKENS = {*SPATIAL, "tokens/caption", "tokens/metadata", "tokens/color_palette"}
EVERYTHING = {"samples", *LABELS, *TOKENS, *GRIDS, "fit/text"}


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    return data.good_shards(tmp_path_factory.mktemp("shards"), 2, 2)


def prints(shards: list[str], changes: dict[str, Any]) -> dict[str, str]:
    """Fingerprint of every output of a recipe, as if its tokenizers were fitted (to the same contents)."""
    project = Project(data.recipe("out", shards, **changes))
    fits = project.fit_fingerprints
    project.fitted = {name: Fitted("weights", 6000 if name == "text" else 64) for name in fits}
    asked = project.label_outputs | project.token_outputs
    return {name: o.fingerprint for name, o in asked.items()} | {f"fit/{n}": p for n, p in fits.items()}


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, set()),
        ({"labels__specialists__canny_edge": {"low": 50}},
         {"labels/canny_edge", "tokens/tok_canny_edge", "fit/tok_canny_edge"}),
        ({"labels__specialists__canny_edge": {"specialist": "fourmill_tests.specialists:Slow"}},
         {"labels/canny_edge", "tokens/tok_canny_edge", "fit/tok_canny_edge"}),
        ({"labels__specialists__color_palette": {"side": 32}}, {"labels/color_palette", "tokens/color_palette"}),
        ({"labels__specialists__metadata": {"min_score": 0.7}}, {"labels/metadata", "tokens/metadata"}),
        ({"labels__specialists": {"det": {"min_score": 0.7}}},  # metadata counts boxes
         {"labels/det", "tokens/det", "labels/metadata", "tokens/metadata"}),
        ({"images__size": 32}, SPATIAL | GRIDS),
        ({"images__crops": 2}, SPATIAL),
        ({"images__hflip": 0.0}, set()),  # of the random crops, and the first crop is not
        ({"images__crop_scale": 0.5}, set()),
        ({"images__pixel_format": "png"}, {"tokens/rgb"}),
        ({"images__jpeg_quality": 80}, {"tokens/rgb"}),
        ({"images__max_pixels": 10_000}, EVERYTHING - {"samples", "fit/text", "labels/caption", "tokens/caption"}),
        ({"seed": 1}, SPATIAL | GRIDS | {"tokens/metadata", "tokens/color_palette"}),
        ({"tokenizers__min_box_score": 0.9}, {"tokens/det"}),
        ({"tokenizers__text__vocab_size": 7000}, {"fit/text"}),
        ({"tokenizers__common__steps": 13}, GRIDS),
        ({"tokenizers__common__checkpoint_every": 5}, set()),
        ({"tokenizers__each": {"tok_rgb": {"steps": 13}}}, {"fit/tok_rgb"}),
        ({"engine__batch_size": 7}, set()),
        ({"engine__decode_threads": 1, "engine__actors": 1, "engine__attempts": 9}, set()),
        ({"fit__workers": 2}, set()),
        ({"train__steps": 99}, set()),
        ({"generate__seed": 5}, set()),
        ({"labels__keep": ["canny_edge"]}, LABELS - {"labels/canny_edge"}),  # not asked for any more
    ],
)  # fmt: skip
def test_an_option_changes_exactly_what_depends_on_it(
    shards: list[str], changes: dict[str, Any], expected: set[str]
) -> None:
    before, after = prints(shards, {}), prints(shards, changes)
    assert set(before) == EVERYTHING
    assert {name for name in before if before[name] != after.get(name)} == expected


@pytest.mark.parametrize("change", [{"images__hflip": 0.0}, {"images__crop_scale": 0.5}])
def test_random_crops_change_with_how_they_are_drawn(shards: list[str], change: dict[str, Any]) -> None:
    before, after = prints(shards, {"images__crops": 2}), prints(shards, {"images__crops": 2, **change})
    assert {name for name in before if before[name] != after.get(name)} == SPATIAL


@pytest.mark.parametrize("name", ["text", "tok_rgb"])
def test_other_tokenizer_weights_change_only_its_columns(shards: list[str], name: str) -> None:
    def columns(changed: str) -> dict[str, str]:
        project = Project(data.recipe("out", shards))
        fits = project.fit_fingerprints
        project.fitted = {n: Fitted("new" if n == changed else "old", 6000 if n == "text" else 64) for n in fits}
        return {n: o.fingerprint for n, o in project.token_outputs.items()}

    before, after = columns(""), columns(name)
    sequences = {"tokens/caption", "tokens/det", "tokens/metadata", "tokens/color_palette"}
    expected = sequences if name == "text" else {"tokens/tok_rgb"}
    assert {column for column in before if before[column] != after[column]} == expected


def test_labels_say_for_people_what_makes_them(shards: list[str]) -> None:
    asked = Project(data.recipe("out", shards, labels__keep=["rgb", "canny_edge"])).label_outputs
    canny = asked["labels/canny_edge"].identity
    assert asked["labels/rgb"].identity == {"specialist": "source"}
    assert (canny["specialist"], canny["version"], canny["options"]["low"]) == ("canny", 1, 100.0)


def test_columns_need_fitted_tokenizers(shards: list[str]) -> None:
    project = Project(data.recipe("out", shards))
    with pytest.raises(RecipeError, match="run `fourmill fit` first"):
        _ = project.token_outputs


# shards against the ledger


@pytest.fixture
def labelled(tmp_path: Path) -> tuple[Any, dict[str, Output]]:
    """A recipe of two shards whose captions are labelled."""
    paths = data.good_shards(tmp_path / "s", 2, 2)
    recipe = data.recipe(tmp_path / "out", paths, modalities=["rgb"], labels__keep=["caption"], generate__chains=[])
    asked = data.outputs(recipe, tokens=False)
    data.make(recipe, asked)
    return recipe, asked


def missing(recipe: Any, asked: dict[str, Output]) -> dict[str, tuple[str, ...]]:
    return {task.shard: task.outputs for task in Project(recipe).plan(asked).missing}


def test_what_exists_is_not_asked_for_again(labelled: tuple[Any, dict[str, Output]]) -> None:
    recipe, asked = labelled
    plan = Project(recipe).plan(asked)
    assert not plan.missing and set(plan.done) == {(o, s) for o in asked for s in ("train-00000", "train-00001")}


def test_touched_shard_is_the_same_and_a_changed_one_is_not(
    labelled: tuple[Any, dict[str, Output]],
) -> None:
    recipe, asked = labelled
    shard = Path(recipe.samples.train[0])
    os.utime(shard, ns=(1, 1))
    assert missing(recipe, asked) == {}
    content = bytearray(shard.read_bytes())
    content[600] ^= 1  # same size, other bytes
    shard.write_bytes(content)
    assert missing(recipe, asked) == {"train-00000": ("samples", "labels/caption")}
    shard.write_bytes(bytes(content) + bytes(512))
    assert missing(recipe, asked) == {"train-00000": ("samples", "labels/caption")}


def test_a_deleted_file_or_record_is_made_again(labelled: tuple[Any, dict[str, Output]]) -> None:
    recipe, asked = labelled
    storage.delete(ledger.output_url(recipe.root, "labels/caption", "train-00000"))
    storage.delete(ledger.record_url(recipe.root, "samples", "train-00001"))
    assert missing(recipe, asked) == {"train-00000": ("labels/caption",), "train-00001": ("samples",)}


def test_an_absent_shard_is_told_and_the_others_go_on(labelled: tuple[Any, dict[str, Output]]) -> None:
    recipe, asked = labelled
    Path(recipe.samples.train[1]).unlink()
    storage.delete(ledger.record_url(recipe.root, "samples", "train-00001"))
    plan = Project(recipe).plan(asked)
    assert list(plan.absent) == ["train-00001"] and not plan.unseen
    assert plan.absent["train-00001"].startswith("lacks samples; there is no shard at")
    assert list(plan.tasks) == ["train-00000"] and not plan.missing


def test_what_is_made_of_a_shard_needs_it_no_more(labelled: tuple[Any, dict[str, Output]]) -> None:
    recipe, asked = labelled
    before = Project(recipe).plan(asked).done
    for shard in recipe.samples.train:
        Path(shard).unlink()
    plan = Project(recipe).plan(asked)
    assert list(plan.unseen) == ["train-00000", "train-00001"] and not plan.absent and not plan.missing
    assert plan.done == before and list(plan.tasks) == ["train-00000", "train-00001"]


def test_outputs_of_several_versions_of_a_lost_shard_do_not_fit(
    labelled: tuple[Any, dict[str, Output]],
) -> None:
    recipe, asked = labelled
    record = ledger.read(recipe.root, "samples", "train-00000")
    assert record is not None
    other = replace(record, source=replace(record.source, sha256="another"))
    storage.put(ledger.record_url(recipe.root, "samples", "train-00000"), ledger.dumps(other))
    Path(recipe.samples.train[0]).unlink()
    plan = Project(recipe).plan(asked)
    assert "several versions of the shard" in plan.absent["train-00000"] and "train-00000" not in plan.tasks


def test_a_new_shard_is_all_that_is_missing(labelled: tuple[Any, dict[str, Output]], tmp_path: Path) -> None:
    recipe, asked = labelled
    new = data.good_shards(tmp_path / "more", 1, 1, name="new")
    more = data.recipe(recipe.root, [*recipe.samples.train, *new], modalities=["rgb"], labels__keep=["caption"],
                       generate__chains=[])  # fmt: skip
    assert missing(more, asked) == {"new-00000": ("samples", "labels/caption")}


def test_stored_labels_are_offered_where_they_exist(labelled: tuple[Any, dict[str, Output]]) -> None:
    recipe, asked = labelled
    storage.delete(ledger.record_url(recipe.root, "labels/caption", "train-00001"))
    plan = Project(recipe).plan({"samples": asked["samples"]}, {"labels/caption": asked["labels/caption"]})
    assert {name: task.stored for name, task in plan.tasks.items()} == {"train-00000": ("caption",), "train-00001": ()}


def test_splits_keep_the_order_and_must_not_overlap(tmp_path: Path) -> None:
    train = data.good_shards(tmp_path / "a", 2, 1)
    val = data.good_shards(tmp_path / "b", 1, 1)  # the same stem in another folder
    shards = plans.list_shards(data.recipe("out", train[::-1], val).samples)
    assert shards.splits == {"train": ["train-00001", "train-00000"], "val": ["b-train-00000"]}
    assert list(shards.urls.values()) == [*train[::-1], *val]
    with pytest.raises(RecipeError, match="in the training and in the validation split"):
        plans.list_shards(data.recipe("out", train, train[:1]).samples)
    with pytest.raises(RecipeError, match=r"samples: .*nothing found"):
        plans.list_shards(data.recipe("out", str(tmp_path / "none-*.tar")).samples)


def specialists(recipe: Any) -> dict[str, Any]:
    return registry.build(recipe.modalities, recipe.labels)


def deferred(recipe: Any) -> set[str]:
    return outputs.deferred(recipe.labels.keep, recipe.modalities, specialists(recipe))


def test_kept_labels_are_deferred_if_sources_are_made_twice(tmp_path: Path) -> None:
    """Metadata looks at depth, which is not kept and is tokenized; boxes are kept, so they are made first."""
    chosen = {"modalities": ["rgb", "tok_depth", "metadata"], "labels__keep": ["metadata", "det"]}
    assert deferred(data.recipe(tmp_path, ["a.tar"], **chosen, generate__chains=[])) == {"metadata"}
    chosen["labels__keep"] = ["metadata", "det", "depth"]
    assert deferred(data.recipe(tmp_path, ["a.tar"], **chosen, generate__chains=[])) == set()


def test_metadata_makes_nothing_for_sources_that_it_leaves_out(tmp_path: Path) -> None:
    options = {"metadata": {"sources": ["det"]}}
    chosen = {"modalities": ["rgb", "tok_depth", "metadata"], "labels__specialists": options}
    built = specialists(data.recipe(tmp_path, ["a.tar"], **chosen, generate__chains=[]))
    assert "depth" in built and outputs.sources(built, ["metadata"]) == {"metadata", "det"}  # boxes are kept
