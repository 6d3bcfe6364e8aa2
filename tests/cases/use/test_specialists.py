"""Specialists of one's own, and the one of the demo."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from fourmill_tests import data, runs
from fourmill_tests.cases import require

from fourmill.infra import ledger
from fourmill.modalities import LABELS, MODALITIES, TOKENIZERS
from fourmill.verbs import demos, starter

SPECTRUM = """
from typing import ClassVar
import numpy as np
from fourmill.modalities import Form, Kind, Label, Modality, Storage, declare
from fourmill.pipelines.specialists.base import Specialist
declare(
    Label("spectrum", Storage.ARRAY, Form.VECTOR, "spectrum_module:Spectrum", "a spectrum"),
    Modality("tok_spectrum", "spectrum", Kind.GRID, "vq", 64, 16, "its tokens", channels=32, spatial=False),
)
class Spectrum(Specialist):
    label: ClassVar[str] = "spectrum"
    sees_image: ClassVar[bool] = False
    needs_image: ClassVar[bool] = False
    def __call__(self, items):
        return [np.asarray(item.info["spectrum"], "f2") for item in items]
"""


def test_labels_without_an_image_can_be_fitted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """needs_image=False on samples without an image: `label` makes all of them, `fit` finds none."""
    (tmp_path / "spectrum_module.py").write_text(SPECTRUM)
    monkeypatch.syspath_prepend(tmp_path)
    tables: list[dict[str, Any]] = [LABELS, MODALITIES, TOKENIZERS]
    before, rng = [dict(table) for table in tables], np.random.default_rng(0)
    entries = [(f"{i}.json", json.dumps({"spectrum": rng.random(32).tolist()}).encode()) for i in range(24)]
    (tmp_path / "a.tar").write_bytes(data.tar(entries))
    said = ""
    try:
        recipe = data.recipe(
            tmp_path / "out", str(tmp_path / "a.tar"), modules=["spectrum_module"], modalities=["tok_spectrum"],
            labels__keep=["spectrum"], generate__chains=[],
        )  # fmt: skip
        (record,) = (r for r in data.make(recipe, data.outputs(recipe, tokens=False)) if r.output != "samples")
        if record.nulls:
            raise RuntimeError(f"it is not labelled: {record.rejects}")
        data.fit(recipe)
        (record,) = data.make(recipe, data.outputs(recipe, labels=False))
        if record.nulls:
            raise RuntimeError(f"it is not tokenized: {record.rejects}")
    except ValueError as error:
        said = str(error)
    finally:
        sys.modules.pop("spectrum_module", None)
        for table, old in zip(tables, before, strict=True):
            table.clear()
            table.update(old)
    require(not said, f"all samples have the label, and fit says: {said}")


@pytest.mark.timeout(600)
@pytest.mark.slow
def test_fit_goes_on_without_a_poison_sample(ray_cluster: str, tmp_path: Path) -> None:
    """One sample aborts the process of a specialist: `label` sets its shard aside, and so does `fit`."""
    killer = {
        "specialist": "fourmill_tests.specialists:Killer", "key": "000001", "marker": str(tmp_path / "never"),
        "once": False,
    }  # fmt: skip
    settings = data.settings(
        tmp_path / "out", data.good_shards(tmp_path / "s", 3, 4), modalities=["tok_canny_edge"],
        labels__keep=["canny_edge"], generate__chains=[], labels__specialists={"canny_edge": killer},
        engine__attempts=1,
    )  # fmt: skip
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(settings))
    if runs.command("label", str(tmp_path / "recipe.yaml"))[0] != 1:
        raise RuntimeError("label did not set the shard aside")
    status, _, said = runs.command("fit", str(tmp_path / "recipe.yaml"))
    assert status == 0, f"fit cannot get past the sample: {said[-300:]}"
    record = ledger.read(str(tmp_path / "out"), "tokenizers", "tok_canny_edge")
    assert record is not None and record.identity["shards_passed_over"] == ["train-00000"]


@pytest.mark.parametrize("recipe", ["photos", "init"])
def test_no_boxes_of_people_where_none_are(recipe: str, tmp_path: Path) -> None:
    """OpenCV's detector finds more people on photos without any than on photos with some: nobody gets it unasked."""
    if recipe == "photos":
        text = demos.PHOTOS.recipe(tmp_path, 0)
    else:
        text = starter.recipe_text(data.good_shards(tmp_path / "s", 1, 2), [], str(tmp_path / "out"))
    asked = yaml.safe_load(text)
    assert "det" not in [*asked["modalities"], *asked["labels"]["keep"], *asked["labels"].get("specialists", {})]
