"""`fourmill transfer` on a tiny model: the first example of its help, and files that are damaged."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from fourmill_tests import data, runs

from fourmill.modalities import Kind, ModalitySpec
from fourmill.model import checkpoint
from fourmill.model.config import FourMConfig
from fourmill.model.fourm import FourM


@pytest.fixture
def pets(tmp_path: Path) -> Path:
    """A folder with a tiny model in model/, and two labelled pictures in a tar and in a table."""
    torch.manual_seed(0)
    spec = ModalitySpec("rgb", Kind.PIXELS, 0, 4, 192), ModalitySpec("tok_rgb", Kind.GRID, 8, 4)
    sizes: dict[str, Any] = {"dim": 8, "num_heads": 2, "encoder_depth": 1, "decoder_depth": 1}
    checkpoint.save(FourM(FourMConfig(spec, **sizes)), tmp_path / "model")
    pictures = [data.encode(data.picture(i), "PNG") for i in range(2)]
    for i, picture in enumerate(pictures):
        (tmp_path / f"{i}.png").write_bytes(picture)
    entries = [(f"{i}.{s}", x) for i, p in enumerate(pictures) for s, x in (("png", p), ("cls", str(i).encode()))]
    (tmp_path / "train-0.tar").write_bytes(data.tar(entries))
    (tmp_path / "val.csv").write_text("path,label\n0.png,0\n1.png,1\n")
    return tmp_path


def transfer(pets: Path, *more: str) -> tuple[int, str, str]:
    options = ["--epochs", "1", "--batch-size", "2", *more]
    places = ["--train", str(pets / "train-*.tar"), "--val", str(pets / "val.csv"), "--out", str(pets / "out")]
    return runs.command("transfer", str(pets / "model"), *places, *options)


def test_the_first_example_of_transfer(pets: Path) -> None:
    status, out, err = transfer(pets)
    assert status == 0 and f"classifier: {pets / 'out'}" in out, err
    settings = json.loads((pets / "out" / "config.json").read_text())["settings"]
    assert settings["image_size"] == 16  # the model's: 2 x 2 patches of 8 px


def test_images_may_have_another_size_than_in_training(pets: Path) -> None:
    status, _, err = transfer(pets, "--image-size", "24")
    assert status == 0, err
    assert json.loads((pets / "out" / "config.json").read_text())["settings"]["image_size"] == 24


@pytest.mark.parametrize("damaged", ["model/model.safetensors", "train-0.tar", "val.csv"])
def test_damaged_files_are_sentences(pets: Path, damaged: str) -> None:
    content = (pets / damaged).read_bytes()
    (pets / damaged).write_bytes(content[: len(content) // 3] if damaged != "val.csv" else b"\xff" + content)
    status, _, err = transfer(pets)
    assert status == 2 and err.startswith(f"fourmill transfer: {pets / damaged}: "), err


@pytest.mark.parametrize(
    "row, said", [("9.png,1", "1 of 3 images: .*9.png"), ("bad.png,1", "bad.png, image 2: image: not a JPEG")]
)
@pytest.mark.parametrize("split", ["train", "val"])
def test_every_image_is_looked_at_first(pets: Path, split: str, row: str, said: str) -> None:
    table = pets / f"{split}.csv"
    table.write_text(f"path,label\n0.png,0\n1.png,1\n{row}\n")
    (pets / "bad.png").write_bytes(b"no picture")
    options = ["--out", str(pets / "out"), "--epochs", "1", "--batch-size", "2", "--image-size", "16"]
    other = pets / "val.csv" if split == "train" else pets / "train-*.tar"
    places = {"train": other, "val": other} | {split: table}
    status, _, err = runs.command(
        "transfer", str(pets / "model"), "--train", str(places["train"]), "--val", str(places["val"]), *options
    )
    assert status == 2 and re.search(said, err) and not (pets / "out").exists(), err


@pytest.mark.parametrize(
    "change, said",
    [
        (["--image-size", "20"], "image_size is 20, and the model reads patches of 8 px; take 16"),
        (["--out", "s3://bucket/out"], "--out s3://bucket/out: the classifier is written to this machine"),
        (["--train", "ONE.csv"], "there is one class alone, 'cat'; expected two or more"),
        (["--checkpoint", "5"], "is no run, and has no checkpoints"),
    ],
)
def test_what_cannot_be_is_said_first(pets: Path, change: list[str], said: str) -> None:
    (pets / "ONE.csv").write_text("path,label\n0.png,cat\n1.png,cat\n")
    options = {"--train": str(pets / "train-*.tar"), "--val": str(pets / "val.csv"), "--out": str(pets / "out")}
    options |= {change[0]: change[1].replace("ONE", str(pets / "ONE"))}
    if change[0] == "--train":
        options["--val"] = options["--train"]
    arguments = [part for name, value in ({"--image-size": "16"} | options).items() for part in (name, value)]
    status, _, err = runs.command("transfer", str(pets / "model"), *arguments)
    assert status == 2 and said in err and "look at images" not in err, err
