"""Planted bugs move the cells of their column that need no trained model: on eight scenes whose truth is known.

What is measured are the rows of the labeller and of the tokenizers, beside three sound roots of other seeds and scenes.
benchmarks/trials/planted_bugs.py has all bugs, also those that only answers of a model show, by `fourmill run` on Ray.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from fourmill_tests import data
from fourmill_tests.bugs.bugs import BUGS, MODULE, shows
from fourmill_tests.tiny import declared, truth

from fourmill import recipe as recipes
from fourmill.project import Project
from fourmill.recipe import Recipe
from fourmill.train.downstream import samples as chosen
from fourmill.train.downstream.evaluation.columns import columns
from fourmill.train.downstream.evaluation.references import Reference

Cells = dict[tuple[str, str], float]  # by label and row
MODALITIES = ["rgb", "tok_depth", "tok_normal", "tok_semseg", "caption"]
UNTRAINED = {name: bug for name, bug in BUGS.items() if not bug.needs_training}


def settings(folder: Path, seed: int, weights: dict[str, Path]) -> dict[str, object]:
    """A recipe on scenes of its seed, with these finished tokenizers; the shards are in the folder."""
    (folder / "s").mkdir(parents=True)
    for number, name in enumerate(("train", "val")):
        (folder / "s" / f"{name}.tar").write_bytes(truth.shard(first=1000 * seed + 100 * number))
    # Of few steps, from principal components: good enough that its codes differ.
    fitted = {"tok_normal": {"warm_start": True, "steps": 40, "codebook_size": 128}}
    each = fitted | {name: {"weights": str(of)} for name, of in weights.items()}
    of = truth.settings(str(folder), modalities=MODALITIES, seed=seed, tokenizers__each=each)
    labels, used = of["labels"], ("depth", "normal", "semseg")
    labels["specialists"] = {name: labels["specialists"][name] for name in used}
    return of | {"labels": labels | {"keep": [*used, "caption"]}, "classes": {"semseg": truth.CLASSES}}


def cells(recipe: Recipe) -> Cells:
    """Label, fit, tokenize; then the first measure of each label, of the rows that ask no model."""
    data.make(recipe, data.outputs(recipe, tokens=False))
    data.fit(recipe)
    data.make(recipe, data.outputs(recipe, labels=False))
    job = Project(recipe).evaluate_job
    generation = job.generation
    samples = chosen.read(generation.root, generation.specs, generation.splits["val"], truth.COUNT, ("rgb",))
    of, found = columns(job)[0], Cells()
    here = Reference(job, samples, of)
    for column in of:
        references = here.of(column)
        for row, answers in {"labels": here.labels(column), "bound": here.coded(column, references)}.items():
            statistic = column.judge.statistic(answers, references)
            assert statistic is not None
            values = statistic(np.ones((1, truth.COUNT), np.int64))
            found[column.label, row] = float(values[column.judge.measures[0]][0])
    return found


@pytest.fixture(scope="module", autouse=True)
def forgotten() -> Iterator[None]:
    with declared.forgotten() as names:
        names.append(MODULE)
        yield


@pytest.fixture(scope="module")
def weights(known_root: tuple[Path, Recipe]) -> dict[str, Path]:
    """Finished tokenizers for all but normals, which each seed fits for itself."""
    return {name: known_root[0] / "out/tokenizers" / name for name in ("tok_depth", "tok_semseg")}


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory, weights: dict[str, Path]) -> tuple[list[Cells], Path]:
    """Cells without a bug, of three seeds; and the folder of the first seed's tokenizer of normals."""
    folder = tmp_path_factory.mktemp("sound")
    found = [cells(recipes.parse(settings(folder / str(seed), seed, weights))) for seed in range(3)]
    return found, folder / "0/out/tokenizers/tok_normal"


@pytest.mark.parametrize("name", UNTRAINED)
def test_a_planted_bug_moves_its_column_alone(
    name: str, sound: tuple[list[Cells], Path], weights: dict[str, Path], tmp_path: Path
) -> None:
    bug, (without, of_normals) = UNTRAINED[name], sound
    planted = bug.planted(settings(tmp_path, 0, weights | {"tok_normal": of_normals}))
    found = cells(recipes.parse(planted))
    for row in bug.rows[:-1]:
        print(f"{bug.title}: {row} {[one[bug.label, row] for one in without]}, with it {found[bug.label, row]}")
    moved = {cell for cell, value in found.items() if shows(value, [one[cell] for one in without])}
    assert {(bug.label, row) for row in bug.rows if row != "step"} <= moved
    assert {label for label, _ in moved} == {bug.label}


def test_what_shows_a_bug_is_beyond_the_spread() -> None:
    assert shows(7.1, [3, 5, 4]) and shows(0.9, [3, 5, 4]) and shows(2, [1, 1, 1])
    assert not shows(7, [3, 5, 4]) and not shows(1, [3, 5, 4]) and not shows(4, [3, 5, 4]) and not shows(1, [1, 1, 1])
