"""`duplicate` from the recipe to its page: made over the whole set, after the labels that it compares."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fourmill_tests import data, runs

from fourmill import recipe as recipes
from fourmill.infra import ledger
from fourmill.project import Project
from fourmill.recipe import Recipe, RecipeError
from fourmill.report.check import check
from fourmill.tokenize import labels as label_files
from fourmill.verbs import duplicates, stage
from fourmill.verbs.look import status
from fourmill.verbs.make import plan


def shard(path: Path, images: dict[str, np.ndarray]) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    entries = [(f"{key}.png", data.encode(image, "PNG")) for key, image in images.items()]
    path.write_bytes(data.tar(entries))
    return str(path)


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    """Two training shards and a validation shard: mirrored, half as large, and one that is nowhere else."""
    folder = tmp_path_factory.mktemp("duplicates")
    one, two, three, four = (data.picture(i, 150, 150) for i in (1, 6, 12, 19))
    flat = np.full((60, 60, 3), 90, np.uint8)
    train = [
        shard(folder / "s/t0.tar", {"a": one, "b": two, "flat": flat}),
        shard(folder / "s/t1.tar", {"c": one[:, ::-1], "d": three}),
    ]
    val = [shard(folder / "s/v0.tar", {"e": two[::2, ::2], "f": four})]
    made = data.recipe(
        folder / "out", train, val, modalities=["rgb", "tok_rgb"], labels__keep=["duplicate"], labels__specialists={},
        generate__chains=[], train__select="not duplicate",
    )  # fmt: skip
    project = Project(made)
    data.make(made, stage.shardwise(project, project.label_outputs))
    return made


def said(recipe: Recipe, name: str) -> dict[str, Any]:
    keys, values = label_files.read_labels(ledger.output_url(recipe.root, "labels/duplicate", name))
    return dict(zip(keys, values, strict=True))


def test_what_is_compared_is_kept_by_itself() -> None:
    def kept(**labels: Any) -> list[str]:
        keep: list[str] = recipes.parse({"root": "o", "samples": "a.tar", "labels": labels}).labels.keep
        return keep

    assert kept(keep=["duplicate"]) == ["duplicate", "signature"]
    by = {"duplicate": {"by": ["signature", "clip_global"]}}
    assert kept(keep=["signature", "duplicate"], specialists=by) == ["signature", "duplicate", "clip_global"]
    assert kept(keep=["size"]) == ["size"]


@pytest.mark.parametrize("by", [["caption"], ["signature", "signature"], []])
def test_what_cannot_be_compared_is_refused(by: list[str]) -> None:
    labels = {"keep": ["duplicate"], "specialists": {"duplicate": {"by": by}}}
    with pytest.raises(RecipeError, match=r"labels\.specialists\.duplicate"):
        Project(recipes.parse({"root": "o", "samples": __file__, "labels": labels}))


def test_duplicates_are_said_missing_until_they_are_made(recipe: Recipe) -> None:
    missing = status.describe(Project(recipe))["missing"]
    assert missing["shard t0"] == "lacks labels/duplicate"
    described = plan.describe(Project(recipe), measure=2)
    assert described["missing"]["labels/duplicate"] == 3 and not described["measured"]["all_rejected"]

    project = Project(recipe)
    made = duplicates.make(project)
    assert (made.made, made.existed, made.missing) == (3, 0, {})
    found = said(recipe, "t1") | said(recipe, "t0") | said(recipe, "v0")
    assert {key: value if value is None else bool(value) for key, value in found.items()} == {
        "a": False, "b": False, "flat": None, "c": True, "d": False, "e": True, "f": False
    }  # fmt: skip
    assert found["e"] == found["e"] | {"of": "b", "of_shard": "t0", "nearest": "b", "by": "signature"}
    assert duplicates.make(Project(recipe)).existed == 3
    assert not [name for name in status.describe(Project(recipe))["missing"] if "shard" in name]
    assert not [one for one in check.check(recipe.root).findings if one.broken]
    # The flat image is unknown, so that it is not selected; of validation all is read.
    selection = Project(recipe).selection()
    assert selection is not None and [one.count for one in selection.shards.values()] == [2, 1]
    assert plan.describe(Project(recipe), measure=0)["selected"]["left"] == 3

    page = Path(duplicates.write_page(Project(recipe), 10)).read_text()
    assert "2 of 6 samples are copies of earlier ones (2 by signature)" in page
    assert "1 in validation shards are copies of samples in training shards" in page
    assert page.count("<figure") == 4 and page.count("data:image") == 4


def test_a_recipe_without_duplicates_has_none_to_look_for(tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    path.write_text(f"{{root: {tmp_path}/out, samples: {shard(tmp_path / 'a.tar', {'a': data.picture(1)})}}}")
    code, _, err = runs.command("duplicates", str(path))
    assert code != 0 and "the recipe keeps no duplicate; add it to labels.keep" in err
