"""`include`: parts of recipes under a recipe's own fields."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from fourmill import recipe as recipes
from fourmill.infra import storage
from fourmill.recipe import RecipeError

Write = Callable[[str, str], Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def _write(name: str, text: str) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    return _write


MINE = "root: out\nsamples: a.tar\n"


def test_ones_own_fields_count_and_later_files_win(write: Write) -> None:
    write("a.yaml", "seed: 1\nimages: {size: 448}\ntrain: {steps: 10, batch_size: 8, betas: [0.1, 0.2]}")
    write("b.yaml", "train: {steps: 20, model: {dim: 64, heads: 2}}")
    mine = f"{MINE}train: {{batch_size: 16, betas: [0.5, 0.6]}}\nimages:\n"
    path = write("recipe.yaml", f"include: [a.yaml, b.yaml]\n{mine}")
    recipe = recipes.load(path)
    assert (recipe.seed, recipe.images.size, recipe.train.steps, recipe.train.model.dim) == (1, 448, 20, 64)
    assert recipe.train.batch_size == 16 and recipe.train.betas == (0.5, 0.6)


def test_files_include_others_by_their_own_folder(write: Write) -> None:
    write("parts/sizes/b.yaml", "train: {model: {dim: 64, heads: 2}, steps: 5}")
    write("parts/a.yaml", "include: sizes/b.yaml\ntrain: {steps: 6}")
    recipe = recipes.load(write("recipe.yaml", f"include: parts/a.yaml\n{MINE}"))
    assert (recipe.train.model.dim, recipe.train.steps) == (64, 6)


def test_the_command_line_comes_last_and_may_include(write: Write) -> None:
    write("a.yaml", "train: {steps: 5, mixtures: [{weight: 2}]}")
    path = write("recipe.yaml", f"{MINE}seed: 3\n")
    sets = ["train.steps=7", "include=[a.yaml]", "train.mixtures.0.weight=4", "seed=5"]
    recipe = recipes.load(path, sets)
    assert (recipe.train.steps, recipe.train.mixtures[0].weight, recipe.seed) == (7, 4.0, 5)


def test_recipes_of_the_package_are_found_from_anywhere(write: Write) -> None:
    recipe = recipes.load(write("recipe.yaml", f"include: recipes/train/4m21_b.yaml\n{MINE}"))
    assert recipe.train.name == "4m21-b" and len(recipe.modalities) == 19


def test_what_is_resolved_needs_no_other_file(write: Write) -> None:
    write("a.yaml", "train: {total_tokens: 1e9, batch_size: 16}")
    recipe = recipes.load(write("recipe.yaml", f"include: [a.yaml]\n{MINE}"))
    assert recipes.load(write("other/dumped.yaml", recipes.dump(recipe))) == recipe


def test_a_recipe_in_a_bucket_includes_what_lies_beside_it() -> None:
    folder = "memory://recipes"
    storage.put(f"{folder}/parts/sizes.yaml", b"include: more.yaml\ntrain: {steps: 6}")
    storage.put(f"{folder}/parts/more.yaml", b"seed: 4\ntrain: {steps: 5, batch_size: 8}")
    storage.put(f"{folder}/recipe.yaml", f"include: parts/sizes.yaml\n{MINE}".encode())
    storage.put(f"{folder}/paper.yaml", f"include: recipes/train/4m7_b.yaml\n{MINE}".encode())
    storage.put(f"{folder}/round.yaml", b"include: round.yaml\n")
    recipe = recipes.load(f"{folder}/recipe.yaml", ["train.steps=7"])
    assert (recipe.seed, recipe.train.steps, recipe.train.batch_size) == (4, 7, 8)
    assert recipes.load(f"{folder}/paper.yaml").train.name == "4m7-b"
    with pytest.raises(RecipeError, match=r"there is no recipe at memory://recipes/none.yaml; `fourmill init"):
        recipes.load(f"{folder}/none.yaml")
    with pytest.raises(RecipeError, match=r"memory://recipes/round.yaml: include: round.yaml includes itself"):
        recipes.load(f"{folder}/round.yaml")
    with pytest.raises(RecipeError, match=r"nowhere://recipe.yaml: the recipe cannot be read: .*fsspec knows no"):
        recipes.load("nowhere://recipe.yaml")


@pytest.mark.parametrize(
    ("include", "said"),
    [
        ("[nowhere.yaml]", r"there is no recipe at .*nowhere.yaml; .*recipe.yaml includes it"),
        ("{a: b}", "include: expected a list of files, got"),
        ("[1]", "include: expected a list of files, got"),
        ("[list.yaml]", "list.yaml is no part of a recipe, a mapping, but list"),
        ("[recipe.yaml]", "recipe.yaml includes itself"),
        ("[round.yaml]", "include: recipe.yaml includes itself"),
        ("[broken.yaml]", "broken.yaml: this is no YAML"),
        ("[typo.yaml]", "train.stpes: no such field"),
    ],
)
def test_mistakes_are_sentences(write: Write, include: str, said: str) -> None:
    write("list.yaml", "- 1")
    write("round.yaml", "include: [recipe.yaml]")
    write("broken.yaml", "a: [")
    write("typo.yaml", "train: {stpes: 3}")
    with pytest.raises(RecipeError, match=said):
        recipes.load(write("recipe.yaml", f"include: {include}\n{MINE}"))
