"""`fourmill scenes` from the command line, and that its shards are what `init` takes."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest
import yaml
from fourmill_tests import runs
from fourmill_tests.tiny import landscape

from fourmill import recipe


def test_its_shards_make_a_recipe_with_its_last_line(tmp_path: Path) -> None:
    out = tmp_path / "s"
    arguments = ["--count=12", "--val=4", "--size=32", "--shard-size=10", "--workers=1", f"--out={out}"]
    status, said, progress = runs.command("scenes", *arguments)
    assert status == 0 and "16/16 images" in progress
    assert f"12 training and 4 validation images of 32 px in {out}" in said
    words = shlex.split(said.splitlines()[-1])
    status, text, _ = runs.command(*words[1 : words.index(">")])
    made = recipe.parse(yaml.safe_load(text))
    assert status == 0 and "caption" in made.modalities and "10 samples" in text
    again, said, _ = runs.command("scenes", *arguments)
    assert again == 0 and "3 " in said


@pytest.mark.parametrize("parallel", [False, True])
def test_a_landscape_makes_a_recipe_of_sensors(tmp_path: Path, parallel: bool) -> None:
    out = tmp_path / "s"
    arguments = ["--sensors", "--count=5", "--val=2", "--size=32", "--workers=1", f"--out={out}"]
    arguments += ["--parallel"] if parallel else []
    status, said, progress = runs.command("scenes", *arguments)
    assert status == 0 and "7/7 tiles" in progress
    assert "rasters explain at most" in said and "5 training and 2 validation tiles of 32 px" in said
    words = shlex.split(said.splitlines()[-1])
    with landscape.forgotten():
        status, text, err = runs.command(*words[1 : words.index(">")])
        assert status == 0, err
        made = recipe.parse(yaml.safe_load(text))
        assert ({"s2", "dem"} <= set(made.sensors) and len(made.samples.val) == 1) or parallel
        assert "rgb" not in made.modalities


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--count=0"], "--count: got 0, expected at least 1"),
        (["--count=1", "--val=-1"], "--val: got -1, expected at least 0"),
        (["--count=1", "--seed=-3"], "--seed: got -3, expected at least 0"),
        (["--count=1", "--size=8"], "--size: got 8, expected at least 16"),
        (["--count=1", "--workers=0"], "--workers: got 0, expected at least 1"),
        (["--count=1", "--shard-size=0"], "--shard-size: got 0, expected at least 1"),
        (["--count=1", "--parallel"], "--parallel: it goes with --sensors"),
        (["--count=1", "--sensors", "--clutter=plain"], "--clutter: a landscape has none"),
        (["--count=1", "--clutter=many"], "clutter: got 'many', expected plain, simple, medium, cluttered, or"),
    ],
)
def test_a_mistake_is_one_sentence(tmp_path: Path, arguments: list[str], expected: str) -> None:
    status, _, err = runs.command("scenes", *arguments, f"--out={tmp_path / 's'}")
    assert status == 2 and err.startswith("fourmill scenes: ") and expected in err and len(err.splitlines()) == 1
    assert not (tmp_path / "s").exists()


def test_a_file_as_out_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    status, _, err = runs.command("scenes", "--count=1", f"--out={tmp_path / 'file'}")
    assert status == 2 and f"--out: {tmp_path / 'file'} is a file, expected a folder" in err
