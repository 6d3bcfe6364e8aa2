"""Exit status and sentences: 0 for all there, 1 for something missing, 2 for a mistake in asking."""

from __future__ import annotations

from pathlib import Path

import aiohttp
import pytest
import yaml
from fourmill_tests import data, runs

from fourmill import cli
from fourmill.infra import remote
from fourmill.pipelines.engine import driver as engine
from fourmill.train import workers
from fourmill.verbs.make import label


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
    "demo", "scenes", "shards", "download", "pack", "init", "plan", "label", "fit", "evaluate", "tokenize", "train",
    "generate", "retrieve", "transfer", "remove", "duplicates", "prune", "run", "submit", "convert", "import",
    "export", "status", "jobs", "check", "doctor", "stats", "inspect", "view", "report",
)  # fmt: skip


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help_with_examples(verb: str) -> None:
    status, out, _ = runs.command(verb, "--help")
    assert status == 0 and f"fourmill {verb}" in out.split("examples:")[1]


def test_help_lists_every_verb() -> None:
    status, out, _ = runs.command("--help")
    assert status == 0 and all(f"\n  {verb} " in out for verb in VERBS)
    groups = [out.index(f"\n{group}:") for group in ("prepare", "make", "look", "manage")]
    assert groups == sorted(groups)
    assert set(VERBS) == set(cli.verbs())


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


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (None, "a recipe is a YAML text file, and this is a folder"),
        (b"", "a recipe is a mapping with `root` and `samples`, got nothing"),
        (b"\xff\xfe", "a recipe is a YAML text file, and byte 0 is not UTF-8"),
        (b"root: out\nsamples: [a\n", "this is no YAML: line 3, column 1: expected ',' or ']', but got '<stream end>'"),
        (b"root: out\nsamples: 5\n", "samples: expected fields with values (a mapping), got 5"),
        (b"root: out\nsamples: a.tar\ntrain: 5\n", "train: expected fields with values (a mapping), got 5"),
    ],
)
def test_what_is_no_recipe_is_one_line(tmp_path: Path, content: bytes | None, expected: str) -> None:
    path = tmp_path / "r.yaml"
    path.mkdir() if content is None else path.write_bytes(content)
    status, _, err = runs.command("status", str(path))
    assert status == 2 and err.startswith(f"fourmill status: {path}: ")
    assert expected in err and len(err.splitlines()) == 1


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["status", "RECIPE", "--set", "root=FILE"], "root: FILE is a file, expected a folder"),
        (["demo", "--out", "FILE"], "--out: FILE is a file, expected a folder"),
        (["status", "RECIPE", "--log-file", "FOLDER"], "log file FOLDER: cannot be opened: Is a directory"),
    ],
)
def test_a_file_for_a_folder_and_a_folder_for_a_file(
    recipe: Path, tmp_path: Path, arguments: list[str], expected: str
) -> None:
    places = {"RECIPE": str(recipe), "FILE": str(tmp_path / "file"), "FOLDER": str(tmp_path)}
    (tmp_path / "file").touch()
    for name, place in places.items():
        arguments = [argument.replace(name, place) for argument in arguments]
        expected = expected.replace(name, place)
    status, _, err = runs.command(*arguments)
    assert status == 2 and expected in err and len(err.splitlines()) == 1


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

    monkeypatch.setattr(label, "make", interrupt)
    status, _, err = runs.command("label", str(recipe))
    assert status == 130 and "the same command" in err


def test_our_own_bugs_keep_their_traceback(recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def bug(_: object) -> None:
        raise TypeError("ours")

    monkeypatch.setattr(label, "make", bug)
    with pytest.raises(TypeError, match="ours"):
        runs.command("label", str(recipe))


def test_a_folder_that_cannot_be_written_is_a_sentence(recipe: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    status, _, err = runs.command("demo", "--out", str(tmp_path / "file" / "out"))
    assert status == 2 and err.startswith("fourmill demo: ") and str(tmp_path / "file") in err


def test_a_refused_connection_is_no_missing_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "FIRST_SECONDS", 0.1)
    status, _, err = runs.command("init", "--samples", "http://127.0.0.1:9/x.tar", "--root", str(tmp_path))
    assert status == 2 and "cannot be reached" in err and "no such file" not in err


def test_an_error_of_a_network_library_is_a_sentence(recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise aiohttp.ClientConnectionError("no route")

    monkeypatch.setattr(label, "make", refuse)
    status, _, err = runs.command("label", str(recipe))
    assert status == 2 and err.startswith(
        "fourmill label: the storage or the network cannot be reached: no route; look at"
    )


def test_the_verb_is_said_once(recipe: Path) -> None:
    for verb in ("train", "generate", "fit"):
        options = ["--set", "samples.train=/nowhere/a.tar"]
        status, _, err = runs.command(verb, str(recipe), *options)
        assert status == 2 and err.startswith(f"fourmill {verb}: ") and not err.startswith(f"fourmill {verb}: {verb}:")


def test_patterns_that_the_shell_expanded_get_a_hint(tmp_path: Path) -> None:
    status, _, err = runs.command("transfer", "m", "--train", "a", "b", "--val", "c", "--out", str(tmp_path))
    assert status == 2 and "unrecognized arguments: b; quote patterns" in err
