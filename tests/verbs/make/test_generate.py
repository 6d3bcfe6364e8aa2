"""`fourmill generate` from inputs of one's own: what it writes, what it says, what it refuses."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from fourmill_tests import runs
from fourmill_tests.tiny import every
from PIL import Image

FIRST = Path(__file__).parents[2] / "roots" / "e78cebb"


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    path = tmp_path / "photo.jpg"
    Image.fromarray(every.labels()["rgb"]).save(path, quality=95)
    return path


def test_the_command_writes_and_says_all(every_run: Path, photo: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    command = ["generate", str(every_run), "--input", f"rgb={photo}", "--input", "caption=a red boat, with = in it"]
    command += ["--to", "tok_depth:steps=2,det", "--to", "metadata", "--variations", "2", "--seed", "5", "--steps", "1"]
    status, said, err = runs.command(*command, "--out", str(out))
    assert status == 0, err
    lines = said.splitlines()
    assert lines[0] == "photo: rgb: 150 x 120 px; the model sees the centre square, without 15 px left and 15 px right"
    assert [line.split(":")[0] for line in lines[1:-1]] == [
        "0000 (photo) det", "0000 (photo) metadata", "0001 (photo) det", "0001 (photo) metadata",
    ]  # fmt: skip
    assert lines[-1] == str(out / "index.html")
    about = json.loads((out / "settings.json").read_text())
    assert about["seed"] == 5 and about["to"][0]["steps"] == 2 and about["variations"] == 2
    assert about["samples"][1] | {"notes": {}} == {
        "folder": "0001", "key": "photo", "variation": 1, "inputs": "inputs/0000",
        "given": {"rgb": str(photo), "caption": "a red boat, with = in it"}, "notes": {},
    }  # fmt: skip
    assert (out / "inputs" / "0000" / "caption.txt").read_text() == "a red boat , with = in it\n"
    assert json.loads((out / "0001" / "det.json").read_text()) == json.loads(lines[3].partition(": ")[2])
    assert {str(path.relative_to(out)) for path in out.rglob("*") if path.is_file()} == {
        *about["files"],
        "settings.json",
    }


def test_a_run_of_the_first_release_generates(photo: Path, tmp_path: Path) -> None:
    """Its folder has the recipe of its time, and no fingerprints of tokenizers."""
    shutil.copytree(FIRST / "out", tmp_path / "root")
    command = ["generate", str(tmp_path / "root" / "runs" / "4m"), "--input", f"rgb={photo}", "--to", "caption,rgb"]
    status, said, err = runs.command(*command, "--out", str(tmp_path / "out"))
    assert status == 0, err
    assert "0000 (photo) caption: " in said
    with Image.open(tmp_path / "out" / "0000" / "tok_rgb.png") as made:
        assert made.size == (64, 64)


def test_a_recipe_names_its_run(photo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(FIRST, tmp_path / "first")
    monkeypatch.chdir(tmp_path / "first")
    command = ["generate", "recipe.yaml", "--input", f"rgb={photo}", "--to", "caption:max_tokens=3", "--out", "boats"]
    status, said, err = runs.command(*command)
    assert status == 0, err
    assert said.splitlines()[-1] == str(tmp_path / "first" / "boats" / "index.html")
    status, _, err = runs.command(*command[:2], "--set", "train.steps=7", *command[2:])
    assert status == 2 and err.endswith("the model of this recipe is not trained; run `fourmill train` first\n")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "say what to generate, and from what: --to tok_depth,caption --input rgb=photo.jpg --out DIR"),
        (["--to", "depth"], "say where to write it: --out DIR, a new or an empty folder"),
        (["--input", "rgb=a.jpg", "--out", "OUT"], "there is no file a.jpg"),
        (["--input", "caption=a", "--out", "OUT"], "say what to generate: --to some of tok_rgb"),
        (["--input", "photo.jpg", "--to", "depth", "--out", "OUT"], "--input photo.jpg: expected a name and a value"),
        (["--to", "depth", "--variations", "0", "--out", "OUT"], "variations: got 0, expected 1 or more"),
        (["--to", "depth", "--out", "HELD"], "HELD holds files that `fourmill generate` has not written"),
        (["--to", "depth", "--set", "train.steps=3", "--out", "OUT"], "--set and --update change a recipe"),
        (["--to", "depth", "--root", "nowhere", "--out", "OUT"], "there is no tokenizers/ in nowhere"),
        (["--to", "depth", "--out", "/proc/out"], "--out /proc/out: cannot write in /proc: "),
        (["--to", "depth", "--steps", "0", "--out", "OUT"], "steps: Input should be greater than 0"),
    ],
)
def test_mistakes_are_one_sentence(
    every_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "HELD").mkdir()
    (tmp_path / "HELD" / "notes.txt").write_text("mine")
    status, _, err = runs.command("generate", str(every_run), *arguments)
    assert status == 2 and message in err and err.count("\n") == 1, err
    assert not (tmp_path / "OUT").exists() and (tmp_path / "HELD" / "notes.txt").read_text() == "mine"
