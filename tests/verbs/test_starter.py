"""`init` looks into the first shard and writes a recipe that says what it found and can be run."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path

import pytest
import yaml
from fourmill_tests import data, runs

from fourmill import recipe as recipes
from fourmill.pipelines.scenes import shards as scenes
from fourmill.pipelines.scenes.kinds import CLASSES
from fourmill.pipelines.scenes.sample import Options
from fourmill.train.downstream.evaluation.columns import COLOURS
from fourmill.train.downstream.evaluation.judges import Captions
from fourmill.train.downstream.evaluation.truth import Frame
from fourmill.verbs import starter


def test_the_starter_recipe_is_a_recipe_of_the_right_things(tmp_path: Path) -> None:
    train = data.good_shards(tmp_path / "s", 3, 4)
    text = starter.recipe_text([f"{tmp_path}/s/train-{{00000..00002}}.tar"], [train[0]], "out dir: #1")
    recipe = recipes.parse(yaml.safe_load(text))
    assert recipe.root == "out dir: #1"
    assert recipe.samples.train == [f"{tmp_path}/s/train-{{00000..00002}}.tar"] and recipe.samples.val == [train[0]]
    assert "caption" in recipe.modalities and "caption" in recipe.labels.keep
    assert {step.target for chain in recipe.generate.chains for step in chain.to} >= {
        "tok_rgb",
        "caption",
        "tok_canny_edge",
    }
    for finding in (
        "3 training shards",
        "4 samples",
        "4 with .jpg, 4 with .txt; 4 with a caption",
        "px along the shorter side",
    ):
        assert finding in text


def test_without_captions_there_is_no_caption_modality(tmp_path: Path) -> None:
    entries = [entry for entry in data.good_entries(0, 3) if entry[0].endswith(".jpg")]
    (tmp_path / "a.tar").write_bytes(data.tar(entries))
    recipe = recipes.parse(yaml.safe_load(starter.recipe_text([str(tmp_path / "a.tar")], [], "out")))
    assert "caption" not in recipe.modalities + recipe.labels.keep and recipe.samples.val == []
    assert all("caption" not in chain.inputs for chain in recipe.generate.chains)


@pytest.mark.parametrize(
    "content", [data.tar(data.bad_entries()), data.tar([]), data.tar(data.good_entries(0, 3))[:-9000]]
)
def test_bad_shards_still_give_a_recipe(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.tar").write_bytes(content)
    text = starter.recipe_text([str(tmp_path / "a.tar")], [], "out")
    assert recipes.parse(yaml.safe_load(text)).root == "out"


def test_names_cannot_break_out_of_the_comment(tmp_path: Path) -> None:
    """Keys and paths come from elsewhere; a line break in one must not become a field."""
    folder = tmp_path / "a\nroot: owned"
    folder.mkdir()
    (folder / "a.tar").write_bytes(
        data.tar([*data.good_entries(0, 1), ("k\nseed: 666.jpg", b""), ("k\nseed: 666.jpg", b"")])
    )
    recipe = recipes.parse(yaml.safe_load(starter.recipe_text([str(folder / "a.tar")], [], "out")))
    assert (recipe.root, recipe.seed) == ("out", 0)


def test_init_says_what_it_cannot_read(tmp_path: Path) -> None:
    status, out, err = runs.command("init", "--samples", str(tmp_path / "none.tar"), "--root", "out")
    assert status == 2 and "none.tar" in err and not out
    (tmp_path / "x.tar").write_bytes(b"no tar")
    status, out, err = runs.command("init", "--samples", str(tmp_path / "x.tar"), "--root", "out")
    assert status == 2 and "not a tar archive" in err and not out


@pytest.mark.parametrize("wrong", ["none.tar", "none-*.tar", "none"])
def test_init_refuses_validation_shards_that_are_not_there(tmp_path: Path, wrong: str) -> None:
    train = data.good_shards(tmp_path, 1, 1)
    status, out, err = runs.command("init", "--samples", *train, "--val", str(tmp_path / wrong), "--root", "out")
    assert status == 2 and wrong in err and not out


def test_init_refuses_a_file_as_root(tmp_path: Path) -> None:
    train = data.good_shards(tmp_path, 1, 1)
    status, out, err = runs.command("init", "--samples", *train, "--root", train[0])
    assert status == 2 and f"root: {train[0]} is a file" in err and not out


def test_several_patterns_and_quotes(tmp_path: Path) -> None:
    train = data.good_shards(tmp_path / 'it"s', 2, 1)
    recipe = recipes.parse(yaml.safe_load(starter.recipe_text(train, [], 's3://b/"x"')))
    assert recipe.samples.train == train and recipe.root == 's3://b/"x"'
    assert json.dumps(train[0]) in starter.recipe_text(train, [], "out")


def test_patterns_that_the_shell_has_expanded(tmp_path: Path) -> None:
    train = data.good_shards(tmp_path / "s", 3, 2)
    status, out, err = runs.command("init", "--samples", *train[:2], "--val", train[2], "--root", str(tmp_path / "o"))
    assert status == 0, err
    recipe = recipes.parse(yaml.safe_load(out))
    assert recipe.samples.train == train[:2] and recipe.samples.val == train[2:]


@pytest.mark.parametrize("machine", ["cpux2", "t4x1", "h200x8"])
@pytest.mark.parametrize("shards", [1, 4_000])
def test_a_recipe_for_another_machine_loads(tmp_path: Path, machine: str, shards: int) -> None:
    data.good_shards(tmp_path / "s", 1, 4)
    pattern = str(tmp_path / "s" / f"train-{{00000..{shards - 1:05d}}}.tar")
    status, out, err = runs.command("init", "--samples", pattern, "--root", "out", "--for", machine)
    assert status == 0, err
    recipe = recipes.parse(yaml.safe_load(out))
    assert (recipe.train.gpus > 0) == (not machine.startswith("cpu")) and machine in out
    assert f"about {4 * shards:,} samples" in out


def test_an_unknown_machine_is_a_sentence(tmp_path: Path) -> None:
    train = data.good_shards(tmp_path / "s", 1, 1)
    status, out, err = runs.command("init", "--samples", *train, "--root", "out", "--for", "tpux4")
    assert status == 2 and not out and "fourmill init: --for: got 'tpux4', expected one of" in err


def test_shards_without_an_image_are_said(tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_bytes(data.tar([("a.json", b"{}"), ("b.json", b"{}")]))
    assert "none of these has an image" in starter.recipe_text([str(tmp_path / "a.tar")], [], "out")


def test_what_is_wrong_with_the_first_shard_is_said(tmp_path: Path) -> None:
    entries = [("0.image.jpg", b"no image"), ("0.caption.txt", b"\xe9"), ("1.image.jpg", data.encode(data.picture(0)))]
    (tmp_path / "a.tar").write_bytes(
        data.tar([*entries, ("1.image.jpg", b""), ("1.caption.txt", b"a"), ("1.xmp", b"0")])
    )
    findings = starter.look(str(tmp_path / "a.tar")).findings
    assert "named parts of one sample there: .image.jpg 2, .caption.txt 2" in findings
    assert "rejected there, 1 of them: caption: not UTF-8" in findings
    assert "rejected there, 1 of them: duplicate key: a second .image.jpg is ignored" in findings
    assert any("image: not a JPEG" in line for line in findings) and any("xmp 1" in line for line in findings)


def test_truth_of_rendered_scenes_is_named(tmp_path: Path) -> None:
    scenes.write(str(tmp_path), Options(0, 32, "plain"), {"train": 3, "val": 2}, 4, 1)
    train, val = (f"{tmp_path}/{split}-*.tar" for split in ("train", "val"))
    text = starter.recipe_text([train], [val], str(tmp_path / "out"))
    recipe = recipes.parse(yaml.safe_load(text))
    truth = recipe.evaluate.truth
    assert {label: one.member for label, one in truth.items()} == {
        "normal": "normal.npy", "depth": "depth.npy", "semseg": "semseg.png", "sam_instance": "instances.png",
        "det": "boxes.json", "caption": "scene.json",
    }  # fmt: skip
    assert truth["semseg"].classes == list(CLASSES)
    assert "ignored there: camera.json 3;" in text, "what the evaluation reads is not ignored"
    # What is written is what the truth of this caption needs: names and colours of the things of the scene.
    judge = Captions(truth["caption"], (), COLOURS)
    with tarfile.open(f"{tmp_path}/val-00000.tar") as tar:
        data = {name.partition(".")[2]: tar.extractfile(name) for name in tar.getnames()[: len(tar.getnames()) // 2]}
        scene, caption = data["scene.json"], data["txt"]
        assert scene is not None and caption is not None
        names, colours = judge.of_truth(scene.read(), Frame(32, 32))
        assert names and judge.of_label(caption.read().decode())[0] <= names
        assert all(one.split()[0] in COLOURS for one in colours)
    # The lists of classes are there to be taken: then every truth of the scenes can be read.
    listed = "\n".join(line[2:] for line in text[text.index("# classes:") :].splitlines())
    assert recipes.parse(yaml.safe_load(text + listed)).class_lists["semseg"] == CLASSES


def test_members_that_are_no_truth_are_not_named_as_such(tmp_path: Path) -> None:
    entries = data.good_entries(0, 2)
    key = entries[0][0].rpartition(".")[0]
    entries += [(f"{key}.boxes.json", b'{"boxes": []}'), (f"{key}.depth.npy", b"no array"), (f"{key}.cls", b"7")]
    (tmp_path / "a.tar").write_bytes(data.tar(entries))
    text = starter.recipe_text([str(tmp_path / "a.tar")], [], "out")
    assert set(recipes.parse(yaml.safe_load(text)).evaluate.truth) == {"classes"}
    for member in ("boxes.json", "depth.npy"):
        assert f"{member} of sample '{key}' is no truth that evaluate reads, and is left out" in text


def test_without_truth_there_is_no_evaluate_section(tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_bytes(data.tar(data.good_entries(0, 2)))
    assert "evaluate" not in yaml.safe_load(starter.recipe_text([str(tmp_path / "a.tar")], [], "out"))
