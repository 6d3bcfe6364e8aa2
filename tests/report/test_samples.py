"""Samples for the pages: what is stored, and nothing that has to be made."""

from __future__ import annotations

import ast
from pathlib import Path

import numpy as np
import pytest
from fourmill_tests.small import SmallRoot

from fourmill.infra.ledger import SAMPLES
from fourmill.project import Project
from fourmill.recipe import Recipe
from fourmill.report import samples
from fourmill.report.html.gallery import GallerySample, crop_image
from fourmill.verbs import pages

REPORT = Path(samples.__file__).parent
GOOD = "train-00000"
LABELS = {"canny_edge", "color_palette", "metadata", "det"}


def look(recipe: Recipe, shard: str, rows: list[int] | None = None) -> list[GallerySample]:
    """The samples of a shard as the gallery shows them, all of them without `rows`."""
    collector, plan = pages.collect(Project(recipe))
    count = plan.done[SAMPLES, shard].rows
    return collector.samples(list(plan.tasks.values()), {shard: list(range(count)) if rows is None else rows})


def keeping(recipe: Recipe, *labels: str) -> Recipe:
    settings = recipe.labels.model_copy(update={"keep": list(labels)})
    return recipe.model_copy(update={"labels": settings})


@pytest.mark.parametrize("kept", [(), ("det",), tuple(LABELS)])
def test_labels_that_are_not_kept_are_named(small_root: SmallRoot, kept: tuple[str, ...]) -> None:
    for sample in look(keeping(small_root.recipe, *kept), GOOD, [0, 5]):
        assert set(sample.labels) == set(kept)
        assert set(sample.not_kept) == LABELS - set(kept)


def test_pages_import_no_specialist_and_no_engine() -> None:
    # doctor asks what specialists need, a probe runs one on purpose, and statistics measure files on the engine's
    # actors; none of them shows what is stored.
    others = {*REPORT.glob("doctor/*.py"), REPORT / "probe.py", REPORT / "stats" / "collect.py"}
    for path in set(REPORT.rglob("*.py")) - others:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom):
                names = {*(node.module or "").split("."), *(alias.name for alias in node.names)}
                assert not names & {"specialists", "engine", "registry"}, path


def test_kept_labels_stand_beside_their_tokens(small_root: SmallRoot) -> None:
    sample = look(small_root.recipe, GOOD, [0])[0]
    assert sample.image is not None
    views = {(view.modality, view.crop): view for view in sample.tokens}
    edges = views["tok_canny_edge", 0]
    assert edges.truth.shape == edges.decoded.shape == (64, 64) and edges.error is not None
    window = crop_image(sample, 0)
    assert window is not None
    pixels = views["rgb", 0]
    assert np.abs(pixels.truth.mean((0, 1)) - window.mean((0, 1))).max() < 3  # the crop that was tokenized
    assert views["caption", None].truth == sample.caption
    assert np.array_equal(sample.labels["canny_edge"].shape, sample.image.shape[:2])


def test_rows_have_their_own_labels_and_reasons(small_root: SmallRoot) -> None:
    whole = look(small_root.recipe, "bad")
    some = look(small_root.recipe, "bad", [0, 3])
    assert [sample.key for sample in some] == [whole[0].key, whole[3].key]
    for one, other in zip(some, (whole[0], whole[3]), strict=True):
        assert one.rejects == other.rejects and one.labels.keys() == other.labels.keys()
    truncated = next(sample for sample in whole if sample.key == "truncated")
    assert truncated.image is None and truncated.labels.keys() <= {"metadata"}
    assert "truncated or damaged" in truncated.rejects["tokens/tok_rgb"]
    assert next(view for view in truncated.tokens if view.modality == "tok_rgb").tokens is None


def test_tokens_without_their_label_are_decoded(small_root: SmallRoot) -> None:
    sample = look(keeping(small_root.recipe), GOOD, [0])[0]
    edges = next(view for view in sample.tokens if view.modality == "tok_canny_edge")
    assert edges.truth is None and edges.error is None and edges.decoded.shape == (64, 64)
    colors = next(view for view in sample.tokens if view.modality == "tok_rgb")
    assert colors.truth is not None  # of the image, which the shard has
