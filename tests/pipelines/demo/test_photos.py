"""The demo's shards: split by photo, captions true of their crops, the same bytes every time, no network."""

from __future__ import annotations

import hashlib
import io
import itertools
import json
import socket
import tarfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fourmill.pipelines.demo import photos
from fourmill.pipelines.demo.captions import Photo, Region
from fourmill.pipelines.demo.photos import PHOTOS, Crop, attributions, caption, crop_of, shown_regions, write_shards

CASES = [(photo, crop_of(photo, index, seed=7)) for photo in PHOTOS for index in range(60)]


def read_shard(path: Path) -> dict[str, dict[str, bytes]]:
    """Key -> extension -> bytes."""
    samples: dict[str, dict[str, bytes]] = {}
    with tarfile.open(path) as archive:
        for member in archive:
            key, _, extension = member.name.partition(".")
            samples.setdefault(key, {})[extension] = archive.extractfile(member).read()
    return samples


def digests(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.iterdir())}


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("the demo's photos must not need a network")

    monkeypatch.setattr(socket, "socket", refuse)
    monkeypatch.setattr(socket, "create_connection", refuse)


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, photos.Summary]:
    folder = tmp_path_factory.mktemp("demo")
    return folder, write_shards(folder)


def test_the_defaults_give_ten_shards_of_640_samples(demo):
    folder, summary = demo
    shards = [read_shard(folder / name) for name in summary.shards["train"] + summary.shards["val"]]
    keys = [key for shard in shards for key in shard]
    assert summary.samples == {"train": 512, "val": 128}
    assert len(keys) == len(set(keys)) == 640
    assert [len(shard) for shard in shards] == [64] * 10
    assert summary.written == [*summary.shards["train"], *summary.shards["val"]]
    assert {path.name for path in folder.iterdir()} == {*summary.written, photos.RECORD}


def test_no_photo_is_in_both_splits(demo):
    folder, summary = demo
    of_split = {}
    for split, names in summary.shards.items():
        samples = [sample for name in names for sample in read_shard(folder / name).values()]
        of_split[split] = {json.loads(sample["json"])["photo"] for sample in samples}
    assert not of_split["train"] & of_split["val"]
    assert len(of_split["train"]) == 16 and len(of_split["val"]) == 4
    # The two motorcycles are one scene.
    assert {name for name in of_split["train"] if name.startswith("motorcycle")} == {
        "motorcycle_left",
        "motorcycle_right",
    }


def test_each_sample_is_the_crop_it_says(demo):
    folder, summary = demo
    by_name = {photo.name: photo for photo in PHOTOS}
    for key, sample in read_shard(folder / summary.shards["val"][0]).items():
        info = json.loads(sample["json"])
        photo, crop = by_name[info["photo"]], Crop(*info["crop"])
        assert key.startswith(photo.name) and info["licence"] == photo.licence and info["source"] == photo.source
        assert (info["original_width"], info["original_height"]) == (crop.width, crop.height)
        assert sample["txt"].decode() == caption(photo, crop, seed=0)
        picture, source = Image.open(io.BytesIO(sample["jpg"])), photos.load(photo)
        assert picture.mode == source.mode
        assert min(picture.size) == min(256, crop.width, crop.height)
        window = source.resize(picture.size, box=(crop.left, crop.top, crop.left + crop.width, crop.top + crop.height))
        difference = np.abs(np.asarray(window, np.float32) - np.asarray(picture, np.float32)).mean()
        assert difference < 6, (key, difference)  # JPEG and another filter, not another window


def test_shards_mix_the_photos(demo):
    folder, summary = demo
    for name in summary.shards["train"]:
        order = [key.rsplit("-", 1)[0] for key in read_shard(folder / name)]
        assert len(set(order)) >= 12
        assert sum(a == b for a, b in itertools.pairwise(order)) < 16


def test_bytes_are_reproducible_and_whole_shards_stay(tmp_path):
    sizes = {"samples_per_shard": 24, "crops_per_photo": 3}
    first, second = tmp_path / "first", tmp_path / "second"
    write_shards(first, **sizes)
    summary = write_shards(second, **sizes)
    before = digests(first)
    assert before == digests(second)

    lost, kept = summary.shards["train"]
    (second / lost).unlink()
    (second / f".tmp-1-{kept}").write_bytes(b"half a shard of a run that was killed")
    stamp = (second / kept).stat().st_mtime_ns
    again = write_shards(second, **sizes)
    assert again.written == [lost]
    assert (second / kept).stat().st_mtime_ns == stamp
    assert before.items() <= digests(second).items()
    assert write_shards(second, **sizes).written == []


def test_members_carry_no_time_owner_or_folder(tmp_path):
    summary = write_shards(tmp_path, samples_per_shard=40, crops_per_photo=1)
    with tarfile.open(tmp_path / summary.shards["train"][0]) as archive:
        for member in archive:
            assert (member.mtime, member.uid, member.gid, member.uname, member.gname) == (0, 0, 0, "", "")
            assert member.isreg() and "/" not in member.name and member.name.count(".") == 1


def test_another_seed_gives_other_crops_in_another_folder(tmp_path):
    assert crop_of(PHOTOS[0], 5, seed=0) != crop_of(PHOTOS[0], 5, seed=1)
    write_shards(tmp_path, samples_per_shard=40, crops_per_photo=1)
    before = digests(tmp_path)
    with pytest.raises(ValueError, match=r"'seed': 0.*'seed': 1.*delete the folder or choose another"):
        write_shards(tmp_path, samples_per_shard=40, crops_per_photo=1, seed=1)
    with pytest.raises(ValueError, match="crops_per_photo: got 0"):
        write_shards(tmp_path, crops_per_photo=0)
    assert digests(tmp_path) == before


def test_crops_lie_inside_their_photo_and_vary():
    for photo, crop in CASES:
        width, height = photo.size
        assert 0 <= crop.left and crop.left + crop.width <= width
        assert 0 <= crop.top and crop.top + crop.height <= height
        assert min(crop.width, crop.height) >= 160 and not crop.flip
    for photo in PHOTOS:
        crops = {crop for other, crop in CASES if other is photo}
        assert len(crops) >= 58
        assert Crop(0, 0, *photo.size) in crops


def pixels_of(photo: Photo, region: Region, crop: Crop) -> tuple[float, float]:
    """(share of the region held, share of the crop filled), by counting pixels: no arithmetic of the module's."""
    width, height = photo.size
    left, top, right, bottom = region.box
    x, y = (np.arange(width) + 0.5) / width, (np.arange(height) + 0.5) / height
    columns, rows = (x >= left) & (x < right), (y >= top) & (y < bottom)
    inside = columns[crop.left : crop.left + crop.width].sum() * rows[crop.top : crop.top + crop.height].sum()
    return float(inside / (columns.sum() * rows.sum())), float(inside / (crop.width * crop.height))


def test_captions_name_only_what_the_crop_shows():
    checked = 0
    for photo, crop in CASES:
        text = caption(photo, crop, seed=7)
        if text in photo.captions:
            held = [pixels_of(photo, region, crop)[0] for region in photo.regions if not region.stuff]
            assert crop.width * crop.height > 0.7 * photo.size[0] * photo.size[1], (photo.name, text)
            assert all(share > 0.75 for share in held), (photo.name, text)
            continue
        shown, hidden = [], []
        for region in photo.regions:
            held, filled = pixels_of(photo, region, crop)
            true = filled > 0.2 if region.stuff else held > 0.75
            (shown if true else hidden).extend(region.phrases)
        allowed = " | ".join([*shown, *photo.kinds])
        for phrase in hidden:
            if phrase not in allowed:
                checked += 1
                assert phrase not in text.lower(), (photo.name, crop, text)
        phrases = [phrase for region in shown_regions(photo, crop) for phrase in region.phrases]
        assert not phrases or any(phrase in text.lower() for phrase in phrases), (photo.name, crop, text)
    assert checked > 1000


def test_a_part_is_not_named_beside_the_whole():
    cup = next(photo for photo in PHOTOS if photo.name == "coffee")
    part = next(region for region in cup.regions if region.part_of == "a cup of coffee")
    assert part not in shown_regions(cup, Crop(0, 0, *cup.size))
    assert part in shown_regions(cup, Crop(200, 100, 200, 160))


def test_captions_vary():
    texts = {caption(photo, crop, seed=7) for photo, crop in CASES}
    words = {word for text in texts for word in text.lower().replace(".", "").replace(",", "").split()}
    assert len(texts) > 800 and len(words) > 200
    assert all(text == text.strip() and "{" not in text and text.isascii() for text in texts)


def test_the_table_is_sound():
    names = [photo.name for photo in PHOTOS]
    assert len(names) == len(set(names)) == 20
    for photo in PHOTOS:
        assert photo.split in photos.SPLITS and len(photo.captions) >= 3 and photo.kinds
        things = {region.phrases[0] for region in photo.regions if not region.stuff}
        for region in photo.regions:
            left, top, right, bottom = region.box
            assert 0 <= left < right <= 1 and 0 <= top < bottom <= 1, (photo.name, region)
            assert region.phrases and all(phrase == phrase.lower() for phrase in region.phrases)
            assert not region.part_of or region.part_of in things, (photo.name, region)


def test_attributions_name_every_photo_its_author_and_licence():
    rows = attributions()
    assert [row["name"] for row in rows] == [photo.name for photo in PHOTOS]
    assert all(row["licence"] and row["attribution"] and row["source"].startswith("http") for row in rows)
    licences = {row["name"]: row["licence"] for row in rows}
    assert licences["china"] == licences["flower"] == "CC-BY-2.0"


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"package": "no_such_package"}, "no_such_package is not installed"),
        ({"path": "data/none.png"}, "has no file data/none.png"),
        ({"size": (3, 4)}, "expected 3 x 4 px"),
    ],
)
def test_a_missing_photo_says_how_to_install_it(monkeypatch, tmp_path, change, complaint):
    monkeypatch.setattr(photos, "PHOTOS", (replace(PHOTOS[0], **change), *PHOTOS[1:]))
    with pytest.raises(ValueError, match=complaint) as error:
        write_shards(tmp_path / "demo")
    assert "pip install 'fourmill[demo]'" in str(error.value)
    assert not (tmp_path / "demo").exists()


def test_a_folder_of_other_shards_is_refused(tmp_path):
    """Photos would be taken for there already, where scenes have shards of the same names."""
    (tmp_path / "train-00000.tar").write_bytes(b"of somebody")
    with pytest.raises(ValueError, match=r"holds other files \(train-00000.tar\); choose a new folder"):
        write_shards(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["train-00000.tar"]
