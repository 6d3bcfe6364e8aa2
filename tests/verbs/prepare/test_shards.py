"""`fourmill shards` from the command line: what it prints is a part of a recipe, and mistakes are one sentence."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import yaml
from fourmill_tests import runs
from fourmill_tests.s3 import S3
from fourmill_tests.tiny import datasets

from fourmill import recipe
from fourmill.infra import storage


def made(*arguments: object) -> tuple[int, str]:
    status, said, err = runs.command("shards", *map(str, arguments))
    return status, said + err


def test_its_last_lines_are_a_part_of_a_recipe(tmp_path: Path) -> None:
    datasets.coco(tmp_path / "coco")
    out = tmp_path / "out"
    status, said, _ = runs.command("shards", "coco", str(tmp_path / "coco"), f"--out={out}", "--shard-size=1")
    assert status == 0 and sorted(path.name for path in out.glob("*.tar")) == [f"val2017-0000{i}.tar" for i in (0, 1)]
    part = yaml.safe_load(said.partition("In the recipe that is evaluated:\n")[2])
    assert part["samples"]["val"] == [f"{out}/val2017-*.tar"]
    of = recipe.parse({"root": "out", **part, "samples": {"train": "a.tar", **part["samples"]}})
    assert of.evaluate.truth["sam_instance"].member == "instances.json"


def test_a_shard_that_is_there_is_kept(tmp_path: Path) -> None:
    datasets.coco(tmp_path / "coco")
    arguments = ("coco", tmp_path / "coco", "--out", tmp_path / "out", "--shard-size", 1)
    assert made(*arguments)[0] == 0
    first, second = (tmp_path / f"out/val2017-0000{i}.tar" for i in (0, 1))
    before, when = first.read_bytes(), second.stat().st_mtime_ns
    first.unlink()
    assert made(*arguments)[0] == 0
    assert first.read_bytes() == before and second.stat().st_mtime_ns == when
    status, said = made(*arguments[:-1], 2)
    assert status == 2 and "holds other shards (shard_size 1); choose another folder" in said


def test_samples_that_cannot_be_read_are_left_out(tmp_path: Path) -> None:
    names = datasets.diode(tmp_path / "diode")
    gone = next((tmp_path / "diode").rglob(f"{names[0]}_depth_mask.npy"))
    gone.unlink()
    damaged = next((tmp_path / "diode").rglob(f"{names[1]}_normal.npy"))
    damaged.write_bytes(damaged.read_bytes()[:60])
    for _ in range(2):  # the second time from the record
        status, said = made("diode", tmp_path / "diode", "--out", tmp_path / "out")
        assert status == 0 and "2 samples were left out; shards.json says which and why" in said
    left_out = json.loads((tmp_path / "out/shards.json").read_text())["left_out"]
    assert set(left_out) == set(names[:2]) and "_depth_mask.npy" in left_out[names[0]]


def test_shards_go_to_a_bucket(tmp_path: Path, s3: S3) -> None:
    datasets.imagenet(tmp_path / "in", {"a": 2})
    bucket = s3.bucket("shards")
    assert made("imagenet", tmp_path / "in", "--out", bucket)[0] == 0
    assert storage.list_names(bucket) == ["shards.json", "val-00000.tar"]


def test_a_data_set_without_normals_has_depth(tmp_path: Path) -> None:
    datasets.diode(tmp_path / "diode")
    for path in (tmp_path / "diode").rglob("*_normal.npy"):
        path.unlink()
    status, said = made("diode", tmp_path / "diode/val", "--out", tmp_path / "out")  # the folder of the split itself
    assert status == 0 and "truth: {depth: depth.npy}" in said


@pytest.mark.parametrize(
    ("layout", "message"),
    [
        ("coco", "there is no folder annotations"),
        ("diode", "there is no folder val"),
        ("nyuv2", "there is no folder test_rgb"),
        ("imagenet", "there is no folder val"),
    ],
)
def test_a_folder_of_another_layout_is_one_sentence(tmp_path: Path, layout: str, message: str) -> None:
    (tmp_path / "in").mkdir()
    status, said = made(layout, tmp_path / "in", "--out", tmp_path / "out")
    assert status == 2 and message in said and len(said.splitlines()) == 1 and not (tmp_path / "out").exists()


def test_other_mistakes_are_one_sentence(tmp_path: Path) -> None:
    datasets.diode(tmp_path / "diode")
    coco = tmp_path / "coco/annotations"
    coco.mkdir(parents=True)
    (tmp_path / "file").touch()
    (tmp_path / "full").mkdir()
    (tmp_path / "full/a.txt").touch()
    for path in (tmp_path / "diode").rglob("*_normal.npy"):
        noise = np.random.default_rng(0).normal(size=(datasets.HEIGHT, datasets.WIDTH, 3))
        np.save(path, noise / np.linalg.norm(noise, axis=-1, keepdims=True))
    tried = [
        (("diode", tmp_path / "gone", "--out", tmp_path / "o"), "there is no such folder"),
        (("diode", tmp_path / "diode", "--out", tmp_path / "o"), "by no order of axes"),
        (("coco", tmp_path / "coco", "--out", tmp_path / "o"), "no panoptic_val2017.json and no instances_val2017"),
        (("imagenet", tmp_path, "--split", "coco", "--out", tmp_path / "o"), "no image in a folder of its class"),
    ]
    datasets.imagenet(tmp_path / "in", {"a": 1})
    for out, message in (("file", "is a file, expected a folder"), ("full", "holds other files (a.txt)")):
        tried.append((("imagenet", tmp_path / "in", "--out", tmp_path / out), message))
    tried.append((("imagenet", tmp_path / "in", "--out", tmp_path / "o", "--shard-size=-1"), "expected at least 1"))
    for text, message in (("{", "expected JSON"), ('{"images": []}', "it has no annotations"),
                          ('{"images": [], "annotations": []}', "has no 'categories'")):  # fmt: skip
        (coco / "instances_val2017.json").write_text(text)
        (tmp_path / "coco/val2017").mkdir(exist_ok=True)
        status, said = made("coco", tmp_path / "coco", "--out", tmp_path / "o")
        assert status == 2 and message in said and len(said.splitlines()) == 1, said
    (coco / "instances_val2017.json").unlink()
    for arguments, message in tried:
        status, said = made(*arguments)
        assert status == 2 and message in said and len(said.splitlines()) == 1, said
