"""Labels of photos with bars are those of the photos without: whatever travels with a sample follows."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fourmill_tests import data, pictures, runs

from fourmill.infra import ledger
from fourmill.project import Project
from fourmill.recipe import Recipe, RecipeError
from fourmill.tokenize import labels as label_files
from fourmill.verbs import stage

COLOURS = [pictures.WHITE, (0, 0, 0), (40, 120, 80)]
MEMBERS = {
    "depth": {"specialist": "member", "name": "depth.npy"},
    "semseg": {"specialist": "member", "name": "semseg.png", "resize": True},
    "sam_instance": {"specialist": "member", "name": "ids.png"},
    "det": {"specialist": "member", "name": "boxes.json"},
}
KEPT = ["canny_edge", "color_palette", "metadata", "caption", *MEMBERS]


def npy(values: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, values)
    return buffer.getvalue()


def sample(number: int, with_bars: bool) -> list[tuple[str, bytes]]:
    """A photo with truth of all kinds, with or without bars around everything."""
    photo = data.picture(number, *((96, 60 + number) if number % 2 else (55 + number, 96)))
    height, width = photo.shape[:2]
    rows, columns = np.mgrid[:height, :width]
    maps = {"depth": (1 + rows + 2 * columns).astype(np.float32), "semseg": (columns // 9).astype(np.uint8)}
    maps["ids"] = ((rows > 10) & (columns > 12)).astype(np.uint8)
    place = (0, 0, width, height)
    if with_bars:
        photo, middle = pictures.padded(photo, COLOURS[number % 3], number != 4), number != 4
        side = max(height, width)
        top, left = ((side - height) // 2, (side - width) // 2) if middle else (0, 0)
        place = (left, top, side, side)
        for name, values in maps.items():
            around = np.zeros((side, side), values.dtype)
            around[top : top + height, left : left + width] = values
            maps[name] = around
        maps["semseg"] = np.kron(maps["semseg"], np.ones((2, 2), np.uint8))  # at another size
    box = [(place[0] + 8) / place[2], (place[1] + 4) / place[3], (place[0] + 40) / place[2], (place[1] + 44) / place[3]]
    sidecar = {"original_width": 10 * width, "original_height": 10 * height} if number < 2 else {}
    key = f"{number:04d}"
    return [
        (f"{key}.png", data.encode(photo, "PNG")),
        (f"{key}.txt", f"Photo {number} of a test.".encode()),
        (f"{key}.json", json.dumps({"caption": "x", **sidecar}).encode()),
        (f"{key}.depth.npy", npy(maps["depth"])),
        *((f"{key}.{name}.png", data.encode(maps[name], "PNG")) for name in ("semseg", "ids")),
        (f"{key}.boxes.json", json.dumps([{"box": box, "label": "dog"}]).encode()),
    ]


def recipe(folder: Path, with_bars: bool, **images: Any) -> Recipe:
    folder.mkdir()
    shard = folder / "s.tar"
    shard.write_bytes(data.tar([member for number in range(5) for member in sample(number, with_bars)]))
    changes = {f"images__{name}": value for name, value in images.items()}
    return data.recipe(
        folder / "out", [str(shard)], modalities=["rgb"], labels__keep=KEPT, labels__specialists=MEMBERS,
        generate={}, train__mixtures=[{}], **changes,
    )  # fmt: skip


def stored(recipe: Recipe, name: str) -> list[Any]:
    path = f"{recipe.root}/{name}/s.parquet"
    return label_files.read_labels(path)[1]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Recipe]:
    folder = tmp_path_factory.mktemp("bars")
    recipes = {
        "without": recipe(folder / "without", False),
        "trimmed": recipe(folder / "trimmed", True, trim_borders=True),
        "untrimmed": recipe(folder / "untrimmed", True),
    }
    for one in recipes.values():
        data.make(one, data.outputs(one))
    return recipes


@pytest.mark.parametrize("label", KEPT)
def test_labels_are_those_of_photos_without_bars(made: dict[str, Recipe], label: str) -> None:
    expected, found = (stored(made[name], f"labels/{label}") for name in ("without", "trimmed"))
    assert all(one is not None for one in expected)
    for one, other in zip(expected, found, strict=True):
        if label == "det":
            np.testing.assert_allclose([box["box"] for box in other], [box["box"] for box in one], atol=1e-12)
        else:
            np.testing.assert_equal(other, one)
    if label not in ("caption", "color_palette"):
        others = stored(made["untrimmed"], f"labels/{label}")
        assert any(str(a) != str(b) for a, b in zip(expected, others, strict=True))


def test_columns_are_those_of_photos_without_bars(made: dict[str, Recipe]) -> None:
    of = {name: data.rows(one.root)["tokens/rgb/s.parquet"] for name, one in made.items()}
    assert of["trimmed"] == of["without"] != of["untrimmed"]


def test_what_was_cut_off_is_recorded_with_each_sample(made: dict[str, Recipe]) -> None:
    assert "window" in made["trimmed"].labels.keep and "window" not in made["without"].labels.keep
    (first, *_) = stored(made["trimmed"], "labels/window")
    assert first == {"left": 20, "top": 0, "width": 55, "height": 96, "image_width": 96, "image_height": 96}
    record = ledger.read(made["untrimmed"].root, "samples", "s")
    assert record is not None and record.made["bars"] == 5
    record = ledger.read(made["without"].root, "samples", "s")
    assert record is not None and "bars" not in record.made


def test_label_says_how_many_images_have_bars(made: dict[str, Recipe]) -> None:
    said = {}
    for name, one in made.items():
        record = ledger.read(one.root, "samples", "s")
        assert record is not None
        said[name] = stage.bars_noted([record], one.images.trim_borders)
    assert said["without"] == []
    assert re.match("5 of 5 images have bars .* images.trim_borders: true cuts them off", said["untrimmed"][0])
    assert re.match("5 of 5 images have bars .* were cut off", said["trimmed"][0])


def test_fingerprints_change_only_where_labels_do(made: dict[str, Recipe]) -> None:
    off, on = (Project(made[name]).label_prints.current for name in ("untrimmed", "trimmed"))
    assert {label for label in off if off[label] == on[label]} == {"caption"}
    assert off == Project(made["without"]).label_prints.current


def test_a_wrong_value_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"images\.trim_borders: Input should be a valid boolean"):
        recipe(tmp_path / "a", False, trim_borders="white")


def test_init_and_plan_say_it_and_draw_it(made: dict[str, Recipe], tmp_path: Path) -> None:
    shard, picture = made["untrimmed"].samples.train[0], tmp_path / "bars.png"
    status, out, err = runs.command("init", "--samples", shard, "--root", "out", "--borders", str(picture))
    assert status == 0 and re.search(r"5 of 5 images have bars of one colour, 3\d% of the pixels", out), err
    assert "trim_borders: true" in out and picture.read_bytes().startswith(b"\x89PNG")
    (tmp_path / "recipe.yaml").write_text(out)
    picture.unlink()
    status, out, err = runs.command(
        "plan", str(tmp_path / "recipe.yaml"), "--measure", "0", "--borders", str(picture),
        "--set", "images.trim_borders=false",
    )  # fmt: skip
    assert status == 0 and "images.trim_borders: true would cut them off" in " ".join(out.split()), err
    assert picture.exists()
    shard = made["without"].samples.train[0]
    status, out, _ = runs.command("init", "--samples", shard, "--root", "out")
    assert status == 0 and "have bars" not in out and "trim_borders" not in out
    status, _, err = runs.command("init", "--samples", shard, "--root", "out", "--borders", "bars.txt")
    assert status == 2 and "--borders: got bars.txt, expected the name of a picture" in err
