"""The truth beside what a model generates: it comes from the members, in the form of the labels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from fourmill_tests.tiny.truth import CLASSES, scene, things

from fourmill.project import Project
from fourmill.recipe import Recipe
from fourmill.report.truths import truths


def test_truths_are_the_members_in_the_form_of_labels(known_root: tuple[Path, Recipe]) -> None:
    job = Project(known_root[1]).evaluate_job
    numbers = [2, 0, 5]
    found = truths(job, [("val", f"{number:04d}", number) for number in numbers])
    # Captions and masks cannot be drawn from what truth says of them.
    assert set(found) == {"depth", "normal", "semseg", "det"}
    for i, number in enumerate(numbers):
        size = found["semseg"][i].shape[0]
        at = (2 * np.arange(size) + 1) * 40 // (2 * size)
        semseg = scene(number)["semseg"][:, 4:44][at[:, None], at[None, :]]
        assert np.array_equal(found["semseg"][i], semseg)
        assert [box["label"] for box in found["det"][i]] == [one.name for one in things(number)]
        depth = found["depth"][i]
        assert depth.min() == 0 and depth.max() == 1
        assert depth[semseg > CLASSES.index("wall")].max() < depth[semseg == CLASSES.index("wall")].min()
