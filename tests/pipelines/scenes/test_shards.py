"""Shards of scenes: the same bytes however they are made, resumed, refused; other readers read them."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
import webdataset
from PIL import Image

from fourmill.pipelines import source
from fourmill.pipelines.scenes import draw, kinds, shards
from fourmill.pipelines.scenes.sample import EXTENSIONS, Options
from fourmill.tokenize.crops import Crop
from fourmill.tokenize.text import sentences

OPTIONS = Options(seed=5, size=32, clutter="simple")


def members(folder: Path, split: str) -> list[tuple[str, bytes]]:
    """(name, bytes) of all shards of a split, in order."""
    found = []
    for path in sorted(folder.glob(f"{split}-*.tar")):
        with tarfile.open(path) as archive:
            found += [(member.name, archive.extractfile(member).read()) for member in archive]
    return found


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("scenes") / "new"
    written = shards.write(str(made), OPTIONS, {"train": 20, "val": 6}, 8, 1)
    assert written.made == [*written.shards["train"], *written.shards["val"]]
    return made


def test_bytes_depend_on_neither_workers_nor_shard_size(folder: Path, tmp_path: Path) -> None:
    shards.write(str(tmp_path / "b"), OPTIONS, {"train": 20, "val": 6}, 100, 2)
    for split, count in (("train", 20), ("val", 6)):
        one, other = members(folder, split), members(tmp_path / "b", split)
        assert one == other and len(one) == count * len(EXTENSIONS)
    names = [path.name for path in sorted(folder.glob("*.tar"))]
    assert names == ["train-00000.tar", "train-00001.tar", "train-00002.tar", "val-00000.tar"]


def test_training_and_validation_share_no_image(folder: Path) -> None:
    images = {split: dict(members(folder, split)) for split in draw.SPLITS}
    train, val = ({data for name, data in one.items() if name.partition(".")[2] == "png"} for one in images.values())
    assert len(train) == 20 and len(val) == 6 and not train & val


def test_truth_has_the_names_and_types_that_are_documented(folder: Path) -> None:
    samples: dict[str, dict[str, bytes]] = {}
    for name, data in members(folder, "val"):
        key, _, extension = name.partition(".")
        samples.setdefault(key, {})[extension] = data
    for index, (key, parts) in enumerate(samples.items()):
        assert key == f"val-5-{index:07d}" and tuple(parts) == EXTENSIONS
        depth, normal = (np.load(io.BytesIO(parts[f"{name}.npy"])) for name in ("depth", "normal"))
        assert (depth.dtype, depth.shape) == (np.float32, (32, 32))
        assert (normal.dtype, normal.shape) == (np.float16, (32, 32, 3))
        images = {name: Image.open(io.BytesIO(parts[name])) for name in ("png", "semseg.png", "instances.png")}
        assert [images[name].mode for name in images] == ["RGB", "L", "L"]
        semseg, instances = np.array(images["semseg.png"]), np.array(images["instances.png"])
        info, scene, camera = (json.loads(parts[name]) for name in ("json", "scene.json", "camera.json"))
        assert (info["key"], info["width"], info["height"], info["scene"], info["seed"]) == (key, 32, 32, index, 5)
        assert info["caption"] == parts["txt"].decode()
        for one in scene["objects"]:
            assert one["pixels"] == (instances == one["instance"]).sum()
            assert set(semseg[instances == one["instance"]]) <= {one["class"]}
            assert kinds.CLASSES[one["class"]] == one["shape"]
        shown = [one for one in scene["objects"] if one["pixels"]]
        boxes = json.loads(parts["boxes.json"])
        assert boxes == [{"box": one["box"], "label": one["shape"], "score": 1.0} for one in shown]
        _check_camera(camera, scene, depth, instances)


def _check_camera(camera: dict, scene: dict, depth: np.ndarray, instances: np.ndarray) -> None:
    """Depth goes back into the world by the stored camera, onto the things and the floor."""
    rows, columns = np.mgrid[:32, :32] + 0.5
    x, y = (columns - camera["cx"]) / camera["fx"], (camera["cy"] - rows) / camera["fy"]
    pose = np.array(camera["camera_to_world"])
    points = (np.stack([x, y, -np.ones_like(x)], -1) * depth[..., None]) @ pose[:3, :3].T + pose[:3, 3]
    for one in scene["objects"]:
        local = (points[instances == one["instance"]] - one["position"]) @ np.array(one["rotation"])
        assert (np.abs(local) <= np.array(one["half_extents"]) + 1e-3).all()


def test_boxes_are_written_as_the_codec_of_det_reads_them(folder: Path) -> None:
    boxes = json.loads(next(data for name, data in members(folder, "val") if name.endswith("boxes.json")))
    for box in boxes:
        assert sentences.box_in_crop(box["box"], 32, 32, Crop(0, 0, 32, 32)) == pytest.approx(box["box"])


def test_webdataset_and_fourmill_read_the_shards(folder: Path) -> None:
    path = folder / "train-00000.tar"
    theirs = list(webdataset.WebDataset(str(path), shardshuffle=False))
    assert len(theirs) == 8 and set(EXTENSIONS) <= set(theirs[0])
    decoded = next(iter(webdataset.WebDataset(str(path), shardshuffle=False).decode("rgb8")))
    assert decoded["depth.npy"].shape == (32, 32) and decoded["png"].shape == (32, 32, 3)
    with source.open_shard(str(path), str(folder)) as shard:
        assert [sample.key for sample in shard.samples] == [sample["__key__"] for sample in theirs]
        assert [shard.image(sample) for sample in shard.samples] == [sample["png"] for sample in theirs]


def test_a_finished_shard_is_kept_and_a_missing_one_is_made(folder: Path, tmp_path: Path) -> None:
    target = tmp_path / "a"
    shards.write(str(target), OPTIONS, {"train": 20, "val": 6}, 8, 1)
    before = {path.name: path.read_bytes() for path in target.iterdir()}
    (target / "train-00001.tar").unlink()
    (target / "train-00000.tar").write_bytes(b"kept")
    written = shards.write(str(target), OPTIONS, {"train": 20, "val": 6}, 8, 1)
    assert written.made == ["train-00001.tar"]
    after = {path.name: path.read_bytes() for path in target.iterdir()}
    assert after == before | {"train-00000.tar": b"kept"}


def test_a_folder_grows_to_what_would_have_been_made_at_once(folder: Path, tmp_path: Path) -> None:
    target = tmp_path / "a"
    shards.write(str(target), OPTIONS, {"train": 10, "val": 0}, 8, 1)
    written = shards.write(str(target), OPTIONS, {"train": 20, "val": 6}, 8, 1)
    assert written.made == ["train-00001.tar", "train-00002.tar", "val-00000.tar"]
    for path in folder.iterdir():
        assert (target / path.name).read_bytes() == path.read_bytes()


def test_a_kill_while_growing_leaves_no_short_shard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shards.write(str(tmp_path / "a"), OPTIONS, {"train": 10, "val": 0}, 8, 1)

    def die(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(shards, "_rendered", die)
    with pytest.raises(KeyboardInterrupt):
        shards.write(str(tmp_path / "a"), OPTIONS, {"train": 12, "val": 0}, 8, 1)
    assert [path.name for path in sorted((tmp_path / "a").iterdir())] == ["scenes.json", "train-00000.tar"]


@pytest.mark.parametrize(
    ("options", "counts", "shard_size", "expected"),
    [
        (Options(6, 32, "simple"), {"train": 20, "val": 6}, 8, r"holds scenes of other options \(seed 5\)"),
        (Options(5, 48, "medium"), {"train": 20, "val": 6}, 8, r"\(size 32, clutter simple\); give these again"),
        (OPTIONS, {"train": 20, "val": 6}, 9, r"\(shard_size 8\)"),
        (OPTIONS, {"train": 19, "val": 6}, 8, r"\(20 train images\)"),
    ],
)
def test_a_folder_of_other_options_is_refused(
    folder: Path, options: Options, counts: dict[str, int], shard_size: int, expected: str
) -> None:
    before = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    with pytest.raises(ValueError, match=expected):
        shards.write(str(folder), options, counts, shard_size, 1)
    assert {path.name: path.stat().st_mtime_ns for path in folder.iterdir()} == before


def test_a_folder_of_other_files_is_refused(tmp_path: Path) -> None:
    (tmp_path / "photo.jpg").touch()
    with pytest.raises(ValueError, match=r"holds other files \(photo.jpg\); choose a new folder"):
        shards.write(str(tmp_path), OPTIONS, {"train": 1, "val": 0}, 8, 1)
    assert [path.name for path in tmp_path.iterdir()] == ["photo.jpg"]
