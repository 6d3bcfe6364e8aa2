"""Exit status and sentences: 0 for all there, 1 for something missing, 2 for a mistake in asking."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from fourmill_tests import data, runs

from fourmill import cli, stages, summaries
from fourmill.modalities import Kind, ModalitySpec
from fourmill.model import checkpoint
from fourmill.model.config import FourMConfig
from fourmill.model.fourm import FourM
from fourmill.pipelines.engine import driver as engine
from fourmill.stages import Summary
from fourmill.train import workers


@pytest.fixture(autouse=True)
def no_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("Ray was started")

    for module in (engine, workers):
        monkeypatch.setattr(module, "cluster", refuse)


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "recipe.yaml"
    shards = data.good_shards(tmp_path / "s", 1, 1)
    path.write_text(yaml.safe_dump(data.settings(tmp_path / "out", shards)))
    return path


VERBS = (
    "demo", "init", "plan", "label", "fit", "evaluate", "tokenize", "train", "generate", "retrieve", "transfer",
    "run", "status", "inspect", "view", "report",
)  # fmt: skip


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help_with_examples(verb: str) -> None:
    status, out, _ = runs.command(verb, "--help")
    assert status == 0 and f"fourmill {verb}" in out.split("examples:")[1]


def test_help_lists_every_verb() -> None:
    status, out, _ = runs.command("--help")
    assert status == 0 and all(verb in out for verb in VERBS)
    assert set(VERBS) == set(cli._VERBS)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ("train.stepz=5", "train.stepz: no such field; did you mean 'steps'"),
        ("modalities=[tok_rbg]", "there is no 'tok_rbg'; did you mean 'tok_rgb'"),
        ("images.size=big", "images.size"),
        ("images.size", "expected a.b=value"),
        ("modules=[no_such_module]", "cannot import 'no_such_module'"),
        ("samples.train=nowhere-*.tar", "nothing found"),
    ],
)
@pytest.mark.parametrize("verb", ["run", "label", "status"])
def test_a_mistake_is_a_sentence_and_exit_2(recipe: Path, verb: str, change: str, expected: str) -> None:
    changes = [change]
    if change.startswith("modalities"):
        changes.append("generate.chains=[]")
    status, out, err = runs.command(verb, str(recipe), *(part for one in changes for part in ("--set", one)))
    assert status == 2 and expected in err and err.startswith(f"fourmill {verb}: ")
    assert "Traceback" not in err and not out


def test_a_missing_recipe(tmp_path: Path) -> None:
    status, _, err = runs.command("run", str(tmp_path / "no.yaml"))
    assert status == 2 and "fourmill init" in err


def test_an_unwritable_root(recipe: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    status, _, err = runs.command("label", str(recipe), "--set", f"root={tmp_path}/file/out")
    assert status == 2 and "root: cannot write below" in err


def test_status_tells_what_is_missing_and_exits_1(recipe: Path) -> None:
    status, out, _ = runs.command("status", str(recipe))
    assert status == 1 and "tokens/tok_rgb" in out and "not fitted as the recipe asks" in out


@pytest.mark.parametrize("arguments", [["walk"], ["run"], ["run", "a", "b"], ["init", "--root", "x"], []])
def test_wrong_usage_exits_2(arguments: list[str]) -> None:
    assert runs.command(*arguments)[0] == 2


def test_an_interrupt_says_how_to_go_on(recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(stages, "label", interrupt)
    status, _, err = runs.command("label", str(recipe))
    assert status == 130 and "same command again" in err


def test_our_own_bugs_keep_their_traceback(recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def bug(_: object) -> None:
        raise TypeError("ours")

    monkeypatch.setattr(stages, "label", bug)
    with pytest.raises(TypeError, match="ours"):
        runs.command("label", str(recipe))


def test_a_folder_that_cannot_be_written_is_a_sentence(recipe: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    status, _, err = runs.command("demo", "--out", str(tmp_path / "file" / "out"))
    assert status == 2 and err.startswith("fourmill demo: ") and str(tmp_path / "file") in err


# transfer


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


def transfer(pets: Path) -> tuple[int, str, str]:
    options = ["--epochs", "1", "--batch-size", "2", "--image-size", "16"]
    places = ["--train", str(pets / "train-*.tar"), "--val", str(pets / "val.csv"), "--out", str(pets / "out")]
    return runs.command("transfer", str(pets / "model"), *places, *options)


def test_the_first_example_of_transfer(pets: Path) -> None:
    status, out, err = transfer(pets)
    assert status == 0 and f"classifier: {pets / 'out'}" in out, err


@pytest.mark.parametrize("damaged", ["model/model.safetensors", "train-0.tar", "val.csv"])
def test_damaged_files_are_sentences(pets: Path, damaged: str) -> None:
    content = (pets / damaged).read_bytes()
    (pets / damaged).write_bytes(content[: len(content) // 3] if damaged != "val.csv" else b"\xff" + content)
    status, _, err = transfer(pets)
    assert status == 2 and err.startswith(f"fourmill transfer: {pets / damaged}: "), err


# closing tables


def test_the_closing_table_says_what_is_missing_and_why(capsys: pytest.CaptureFixture[str]) -> None:
    bad = Summary("label", made=3, missing={"shard 00007": "there is no shard at s/00007.tar"})
    bad.rejects = Counter({"labels/det: image: N bytes": 2})
    assert summaries.show([Summary("fit"), bad]) == 1
    out = capsys.readouterr().out
    for text in ("label: shard 00007", "there is no shard at s/00007.tar", "labels/det: image: N bytes"):
        assert text in out
    assert summaries.show([Summary("fit", made=1)]) == 0


def test_text_from_the_data_cannot_move_the_cursor_or_be_markup(capsys: pytest.CaptureFixture[str]) -> None:
    bad = Summary("label", missing={"shard \x1b[2J": "[bold]not markup[/bold] \x1b]0;owned\x07"})
    summaries.show([bad])
    out = capsys.readouterr().out
    assert "[bold]not markup[/bold]" in out and "\x1b[2J" not in out and "\x07" not in out
