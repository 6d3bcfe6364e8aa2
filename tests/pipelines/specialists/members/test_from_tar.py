"""From a tar with labels in it, written by webdataset, to labels and tokens; and what is said of all others."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import webdataset
import yaml
from fourmill_tests import data
from PIL import Image

from fourmill import recipe as recipes
from fourmill.modalities import LABELS
from fourmill.pipelines import source
from fourmill.pipelines.specialists.base import Item, Specialist
from fourmill.pipelines.specialists.instances.sam_edges import instance_map
from fourmill.project import Project
from fourmill.report.inspect import shards
from fourmill.tokenize import labels as label_files
from fourmill.tokenize import store
from fourmill.verbs import starter

H, W = 48, 64
COUNT = 6
GIVEN = {
    "depth": "depth.npy", "normal": "normal.npy", "semseg": "semseg.png", "sam_instance": "instances.png",
    "det": "boxes.json",
}  # fmt: skip


def scene(index: int) -> dict[str, Any]:
    """A ball before a wall, with everything known of it."""
    rows, columns = np.mgrid[:H, :W]
    ball = (rows - 24) ** 2 + (columns - 20 - 4 * index) ** 2 < 144
    depth = np.where(ball, 2.0, 6.0 + columns / W).astype(np.float32)
    depth[0] = np.inf
    normal = np.zeros((H, W, 3), np.float32)
    normal[..., 2] = 1
    xmin, xmax = (8.5 + 4 * index) / W, (31.5 + 4 * index) / W
    return {
        "__key__": f"{index:06d}",
        "jpg": data.picture(index, W, H),
        "txt": f"a ball at {index}",
        "depth.npy": depth,
        "normal.npy": normal,
        "semseg.png": np.where(ball, 0, 7).astype(np.uint8),
        "instances.png": ball.astype(np.uint8) * 3,
        "boxes.json": [{"box": [xmin, 0.25, xmax, 0.75], "label": "ball"}],
        "camera.json": {"focal": 1.5},
        "scan.tif": b"II*\0",
    }


def write(path: Path, scenes: list[dict[str, Any]]) -> str:
    with webdataset.TarWriter(str(path)) as writer:
        for one in scenes:
            writer.write(one)
    return str(path)


def settings(root: Path, train: str, **changes: Any) -> dict[str, Any]:
    given: dict[str, Any] = {label: {"specialist": "member", "name": name} for label, name in GIVEN.items()}
    given["semseg"]["classes"] = {0: "sports ball", 7: "wall-other-merged"}
    given["det"]["classes"] = {"ball": "sports ball"}
    return data.settings(
        root, train, modalities=["rgb", "tok_depth", "det", "caption"], labels__keep=list(GIVEN),
        labels__specialists=given, generate__chains=[], **changes,
    )  # fmt: skip


def labels(root: Path, label: str, shard: str = "a") -> dict[str, Any]:
    return dict(zip(*label_files.read_labels(str(root / f"labels/{label}/{shard}.parquet")), strict=True))


def test_labels_of_a_tar_become_labels_and_tokens(tmp_path: Path) -> None:
    out, scenes = tmp_path / "out", [scene(i) for i in range(COUNT)]
    recipe = recipes.parse(settings(out, write(tmp_path / "a.tar", scenes)))
    records = data.make(recipe, data.outputs(recipe, tokens=False))
    unread = "members: no specialist reads .camera.json (6), .scan.tif (6)"
    assert [record.rejects for record in records if record.rejects] == [[{"key": "", "reason": unread}]]
    for one in scenes:
        made = {label: labels(out, label)[one["__key__"]] for label in GIVEN}
        ball = one["instances.png"] > 0
        assert (made["depth"][ball] == 0).all() and (made["depth"][0] == 1).all() and made["depth"].dtype == np.float16
        assert 0.8 < made["depth"][1, 0] < made["depth"][1, -1] == 1
        np.testing.assert_array_equal(made["normal"], one["normal.npy"])
        np.testing.assert_array_equal(made["semseg"] == 32, ball)
        np.testing.assert_array_equal(instance_map(made["sam_instance"], H, W) > 0, ball)
        (box,) = made["det"]
        assert (box["label"], box["score"]) == ("sports ball", 1.0)
        np.testing.assert_allclose(box["box"], made["sam_instance"][0]["box"], atol=0.03)
    data.fit(recipe)
    data.make(recipe, data.outputs(recipe, labels=False), stored=["depth", "det"])
    for modality in ("tok_depth", "det"):
        assert store.read(str(out / f"tokens/{modality}/a.parquet")).valid.all()


def test_what_is_missing_or_damaged_is_a_reject(tmp_path: Path) -> None:
    scenes = [scene(i) for i in range(COUNT)]
    del scenes[1]["depth.npy"]
    scenes[2]["depth.npy"] = scenes[2]["depth.npy"].T
    buffer = io.BytesIO()
    np.save(buffer, np.array([{"a": 1}]), allow_pickle=True)
    scenes[3] |= {"depth.npy": buffer.getvalue(), "semseg.png": b"no picture"}
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter turn: the image is shown upright, and the member is not turned
    scenes[4]["jpg"] = data.encode(scenes[4]["jpg"], exif=exif)
    scenes[5]["jpg"] = b"no image"
    recipe = recipes.parse(settings(tmp_path / "out", write(tmp_path / "a.tar", scenes)))
    records = {r.output: r for r in data.make(recipe, data.outputs(recipe, tokens=False))}
    reasons = {reject["key"][-1]: reject["reason"] for reject in records["labels/depth"].rejects}
    turn = "(a quarter turn: images are turned by their EXIF orientation, members are not)"
    assert reasons == {
        "1": "depth: depth.npy: there is none",
        "2": f"depth: depth.npy: (64, 48), expected the image's frame, (48, 64) {turn}",
        "3": "depth: depth.npy: an array of object, expected numbers: it is a pickle and is not read",
        "4": f"depth: depth.npy: (48, 64), expected the image's frame, (64, 48) {turn}",
        "5": "image: not a JPEG, PNG, WebP, GIF or BMP file",
    }
    assert [reject["key"][-1] for reject in records["labels/semseg"].rejects] == ["3", "4", "5"]
    assert records["labels/det"].rejects == []  # boxes are shares of a frame, and need no image
    assert [reject["key"] for reject in records["samples"].rejects] == [""]  # members that nobody reads


def test_only_members_that_are_asked_for_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read = []
    member = source.Shard.member
    monkeypatch.setattr(source.Shard, "member", lambda *args: read.append(args[2]) or member(*args))
    path = write(tmp_path / "a.tar", [scene(0)])
    recipe = recipes.parse(settings(tmp_path / "out", path) | {"labels": {"keep": ["caption"]}, "modalities": ["rgb"]})
    data.make(recipe, data.outputs(recipe, tokens=False))
    assert read == []
    recipe = recipes.parse(settings(tmp_path / "out", path))
    everything = data.outputs(recipe, tokens=False)
    data.make(recipe, {name: everything[name] for name in ("labels/depth", "labels/det")})
    assert sorted(read) == ["boxes.json", "depth.npy"]
    read.clear()
    worker, _ = data.worker_of(recipe, {"labels/semseg": everything["labels/semseg"]}, stored=["depth"])
    (task,) = Project(recipe).plan({}, {"labels/depth": everything["labels/depth"]}).tasks.values()
    with source.open_shard(task.url, tmp_path) as shard:
        assert [len(batch) for batch in worker.labelled(shard, task, {"depth", "det"})] == [1]
    assert read == ["boxes.json"]  # the depth is stored


class Sensors(Specialist):
    """Two members, either of which may be missing: one that fourmill can read, and one that it gives as bytes."""

    label: ClassVar[str] = "metadata"
    members: ClassVar[tuple[str, ...]] = ("camera.json", "Scan.TIF")
    needs_members: ClassVar[bool] = False

    def __call__(self, items: list[Item]) -> list[dict[str, float]]:
        return [
            {"brightness": item.members.get("camera.json", {}).get("focal", 0), "contrast": len(item.members)}
            for item in items
        ]


def test_a_specialist_of_ones_own_reads_members(tmp_path: Path) -> None:
    scenes = [scene(0), scene(1)]
    del scenes[1]["camera.json"], scenes[1]["scan.tif"]
    recipe = data.recipe(
        tmp_path / "out", write(tmp_path / "a.tar", scenes), modalities=["rgb"], labels__keep=["metadata"],
        labels__specialists={"metadata": {"specialist": f"{__name__}:Sensors"}}, generate__chains=[],
    )  # fmt: skip
    data.make(recipe, data.outputs(recipe, tokens=False))
    expected = [{"brightness": 1.5, "contrast": 2}, {"brightness": 0, "contrast": 0}]
    assert list(labels(tmp_path / "out", "metadata").values()) == expected


def test_labels_of_ones_own_come_with_the_data_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from fourmill import Form, Label, Storage

    own = Label("weather", Storage.JSON, Form.RECORD, "member", "a class")
    monkeypatch.setitem(LABELS, "weather", own)
    path = write(tmp_path / "a.tar", [scene(0) | {"weather.cls": 3}, scene(1) | {"weather.cls": 1}])
    recipe = data.recipe(
        tmp_path / "out", path, modalities=["rgb"], labels__keep=["weather"], generate__chains=[],
        labels__specialists={"weather": {"name": "weather.cls"}},
    )  # fmt: skip
    data.make(recipe, data.outputs(recipe, tokens=False))
    assert list(labels(tmp_path / "out", "weather").values()) == [3, 1]


def test_init_and_inspect_name_what_nobody_reads(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tar", [scene(i) for i in range(3)])
    kinds = {*GIVEN.values(), "camera.json", "scan.tif"}
    text = starter.recipe_text([path], [], "out")
    (line,) = (line for line in text.splitlines() if line.startswith("# ignored there: "))
    assert all(f"{name} 3" in line for name in kinds - set(GIVEN.values()))
    assert yaml.safe_load(text)["evaluate"]["truth"] == GIVEN, "truth is read by `evaluate`"
    assert shards.inspect_shard(path, path, 0).facts["ignored"] == dict.fromkeys(kinds, 3)
