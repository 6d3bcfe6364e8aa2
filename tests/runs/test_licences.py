"""A run inherits the licences of its images, and of what its columns were made with, over all of its roots."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import yaml
from fourmill_tests import data
from fourmill_tests.tables import measured

from fourmill import recipe as recipes
from fourmill.infra import ledger
from fourmill.report.doctor import licences as of_weights
from fourmill.runs import licences
from fourmill.train.data.blend import Dataset
from fourmill.train.data.groups import ShardRows
from fourmill.train.pretrain.job import TrainJob


def root_of(folder: Path, weights: str, licence: str) -> Path:
    """A root with depth by these weights, whose licence it has noted from the hub."""
    measured.commit(folder / "out", "tokens/tok_depth", "00000", [np.ones((1, 16), np.uint16)] * 2)
    measured.commit(folder / "out", "tokens/tok_rgb", "00000", [np.ones((1, 16), np.uint16)] * 2)
    (folder / "00000.tar").write_bytes(data.tar([]))
    recipe = {
        "root": str(folder / "out"), "samples": str(folder / "00000.tar"), "modalities": ["tok_rgb", "tok_depth"],
        "labels": {"specialists": {"depth": {"weights": weights}}}, "licence": licence,
        "generate": {"chains": []},
    }  # fmt: skip
    (folder / "out/recipe.yaml").write_text(yaml.safe_dump(recipe))
    (folder / "out/ledger/weights").mkdir()
    noted = {"weights": weights, "licence": "cc-by-nc-4.0" if "large" in weights else "apache-2.0", "commit": "abc"}
    (folder / "out/ledger/weights/one.json").write_text(json.dumps(noted))
    return folder / "out"


def test_a_folder_of_models_states_its_licence(tmp_path: Path) -> None:
    """On its card, or on that of the folder above, as the demo's models."""
    folder = tmp_path / "models" / "depth"
    folder.mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(b"x")
    recipe = recipes.load(root_of(tmp_path, str(folder), "") / "recipe.yaml")
    record = ledger.read(str(tmp_path / "out"), "tokens/tok_depth", "00000")
    assert record is not None

    def said() -> list[str]:
        return [one.licence for one in licences.used(recipe.root, recipe, {record.output: record})[record.output]]

    assert said() == ["see its source"]
    (folder.parent / "README.md").write_text("---\nlicense: apache-2.0\n---\n")
    assert said() == ["apache-2.0"]
    (folder / "README.md").write_text("---\nlicense: cc-by-nc-4.0\n---\n")
    assert said() == ["cc-by-nc-4.0"]


def test_a_run_names_what_is_not_free(tmp_path: Path) -> None:
    one, other = tmp_path / "a", tmp_path / "b"
    own = root_of(one, "someone/depth-small", "CC-BY-NC-2.0")
    more = root_of(other, "someone/depth-large", "")
    recipe = recipes.load(own / "recipe.yaml")
    shards = (ShardRows("00000", 2),)
    job = TrainJob(
        str(own), "print", 0, recipe.train, None, (), {}, (), shards, (), 5, 200,
        datasets=tuple(Dataset(f"{root}/tokens", shards, modalities=("tok_rgb", "tok_depth")) for root in (own, more)),
    )  # fmt: skip
    said = licences.of_run(job, recipe)
    assert said["images"] == {str(own): "CC-BY-NC-2.0", str(more): "unknown"} and said["began_with"] is None
    assert [row["weights"] for row in said["columns"]["tok_depth"]] == ["someone/depth-small", "someone/depth-large"]
    assert said["columns"]["tok_rgb"] == []
    assert said["to_be_known"]["images"] == ["CC-BY-NC-2.0 is not for commercial use (CC-BY-NC-2.0)"]
    (why,) = said["to_be_known"]["tok_depth"]
    assert "someone/depth-large" in why and "not for commercial use" in why
    assert any("tok_depth" in line for line in licences.keep(said, job.folder))
    assert of_weights.read((own / "runs/4m/print/licences.json").read_bytes()) == said
    licences.complete(job)  # it was killed when it had its model
    assert of_weights.read((own / "runs/4m/print/model/licences.json").read_bytes()) == said
