"""Samples for the pages: what is stored, and nothing that has to be made."""

from __future__ import annotations

import ast
from pathlib import Path

import numpy as np
import pytest
from fourmill_tests import data

from fourmill import pages
from fourmill.infra.ledger import SAMPLES
from fourmill.recipe import Recipe
from fourmill.report import samples
from fourmill.report.html.gallery import GallerySample

REPORT = Path(samples.__file__).parent
LABELS = {"canny_edge", "color_palette", "metadata", "det"}


@pytest.fixture(scope="module")
def milled(tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    """A finished token store of one shard, good and bad; its edges come from a specialist that notes its calls."""
    folder = tmp_path_factory.mktemp("samples")
    (folder / "s.tar").write_bytes(data.tar(data.good_entries(0, 6) + data.bad_entries()[:6]))
    counted = {"specialist": "fourmill_tests.specialists:Counted", "calls": str(folder / "calls")}
    recipe = data.recipe(
        folder / "out", str(folder / "s.tar"), labels__specialists__canny_edge=counted, images__crops=2
    )
    data.fit(recipe)
    data.mill(recipe, data.outputs(recipe))
    return recipe


def look(recipe: Recipe, rows: list[int] | None = None) -> list[GallerySample]:
    recipe, collector, plan = pages.gather(recipe)
    (shard,) = plan.shards
    count = plan.done[SAMPLES, shard].rows
    return collector.samples(list(plan.tasks.values()), {shard: list(range(count)) if rows is None else rows})


def keeping(recipe: Recipe, *labels: str) -> Recipe:
    settings = recipe.labels.model_copy(update={"keep": list(labels)})
    return recipe.model_copy(update={"labels": settings})


@pytest.mark.parametrize("kept", [(), ("det",), tuple(LABELS)])
def test_no_specialist_is_called(milled: Recipe, kept: tuple[str, ...]) -> None:
    calls = Path(milled.labels.specialists["canny_edge"]["calls"])
    before = calls.stat().st_size
    assert before > 0
    for sample in look(keeping(milled, *kept)):
        assert set(sample.not_kept) == LABELS - set(kept)
        assert set(sample.labels) <= set(kept)
    assert calls.stat().st_size == before


def test_pages_import_no_specialist() -> None:
    for path in REPORT.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom):
                names = {*(node.module or "").split("."), *(alias.name for alias in node.names)}
                assert not names & {"specialists", "registry"}, path


def test_kept_labels_stand_beside_their_tokens(milled: Recipe) -> None:
    sample = look(milled, [0])[0]
    assert sample.image is not None
    views = {(view.modality, view.crop): view for view in sample.tokens}
    edges = views["tok_canny_edge", 1]
    assert edges.truth.shape == edges.decoded.shape == (64, 64) and edges.error is not None
    crop = sample.crops[1]
    window = sample.image[crop.top : crop.top + crop.height, crop.left : crop.left + crop.width]
    window = window[:, ::-1] if crop.flip else window
    pixels = views["rgb", 1]
    assert np.abs(pixels.truth.mean((0, 1)) - window.mean((0, 1))).max() < 3  # the crop that was tokenized
    assert views["caption", None].truth == sample.caption
    assert np.array_equal(sample.labels["canny_edge"].shape, sample.image.shape[:2])


def test_rows_have_their_own_labels_and_reasons(milled: Recipe) -> None:
    whole = look(milled)
    some = look(milled, [1, 7])
    assert [sample.key for sample in some] == [whole[1].key, whole[7].key]
    for one, other in zip(some, (whole[1], whole[7]), strict=True):
        assert one.rejects == other.rejects and one.labels.keys() == other.labels.keys()
    truncated = next(sample for sample in whole if sample.key == "truncated")
    assert truncated.image is None and truncated.labels.keys() <= {"metadata"}
    assert "truncated or damaged" in truncated.rejects["tokens/tok_rgb"]
    assert next(view for view in truncated.tokens if view.modality == "tok_rgb").tokens is None


def test_tokens_without_their_label_are_decoded(milled: Recipe) -> None:
    sample = look(keeping(milled), [0])[0]
    edges = next(view for view in sample.tokens if view.modality == "tok_canny_edge")
    assert edges.truth is None and edges.error is None and edges.decoded.shape == (64, 64)
    colors = next(view for view in sample.tokens if view.modality == "tok_rgb")
    assert colors.truth is not None  # of the image, which the shard has
