"""The whole line from the command line on small shards, good and bad: init, run, status, inspect, view."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from fourmill_tests import data, runs
from fourmill_tests.runs import Run

from fourmill.pipelines.engine import driver as engine
from fourmill.tokenize import store
from fourmill.train import workers

pytestmark = pytest.mark.timeout(
    1200
)  # the first test waits for the whole run; Ray Train alone may take a minute to start
SHARDS = {"train-00000": 8, "train-00001": 8, "train-00002": len(data.BAD_KEYS), "val-00000": 8}
MODALITIES = ("rgb", "tok_rgb", "tok_canny_edge", "color_palette", "metadata", "caption", "det")
KEPT = ("caption", "det", "color_palette", "metadata")


def test_everything_asked_for_is_there(whole_run: Run) -> None:
    assert whole_run.status == 0, whole_run.said
    files = set(data.columns(whole_run.root))
    assert files == {
        f"{kind}/{name}/{shard}.parquet"
        for shard in SHARDS
        for kind, names in (("tokens", MODALITIES), ("labels", KEPT))
        for name in names
    }
    for name in ("tok_rgb", "tok_canny_edge", "text"):
        assert (whole_run.root / "tokenizers" / name / "config.json").exists()
    assert list(whole_run.root.glob("runs/4m/*/checkpoints/step-00000024/complete.json"))
    assert (whole_run.root / "recipe.yaml").exists()
    assert not list(whole_run.root.rglob(".tmp-*"))


def test_the_command_says_what_was_done_and_what_was_rejected(whole_run: Run) -> None:
    for word in ("label", "fit", "tokenize", "train", "generate", "rejects", "image: there is none"):
        assert word in whole_run.said, word


def test_rows_are_the_shards_samples_in_their_order(whole_run: Run) -> None:
    for name in MODALITIES:
        for shard, rows in SHARDS.items():
            column = store.read(str(whole_run.root / "tokens" / name / f"{shard}.parquet"))
            assert len(column.keys) == rows
            if shard == "train-00002":
                assert column.keys.to_pylist() == data.BAD_KEYS


def test_training_ran_and_validated(whole_run: Run) -> None:
    rows = runs.losses(whole_run.root)
    train = [row for row in rows if row["kind"] == "train"]
    assert [row["step"] for row in train] == list(range(2, 25, 2))
    assert [row["step"] for row in rows if row["kind"] == "val"] == [8, 16, 24]
    assert train[-1]["loss"] < train[0]["loss"]
    assert {name for row in train for name in row if name.startswith("loss/")} == {f"loss/{m}" for m in MODALITIES[1:]}


def test_every_chain_was_generated(whole_run: Run) -> None:
    first, second = sorted(whole_run.root.glob("runs/4m/*/generated/*/chain-*"))
    samples = json.loads((first / "samples.json").read_text())["samples"]
    assert [sample["key"] for sample in samples] == ["000100", "000101"]
    assert all(isinstance(sample["caption"], str) for sample in samples)
    assert sorted(path.name for path in (second / "tok_rgb").iterdir()) == ["0000.png", "0001.png"]


def test_a_second_run_does_nothing(whole_run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("Ray was started")

    # Neither Ray nor a write: everything is found in the ledger.
    for module in (engine, workers):
        monkeypatch.setattr(module, "cluster", refuse)
    before = {path: path.stat().st_mtime_ns for path in whole_run.root.rglob("*") if path.is_file()}
    status, out, err = runs.command("run", str(whole_run.recipe))
    assert status == 0, out + err
    after = {path: path.stat().st_mtime_ns for path in whole_run.root.rglob("*") if path.is_file()}
    pages = {path for path in after if path.suffix == ".html"}
    assert {p: t for p, t in after.items() if p not in pages} == {p: t for p, t in before.items() if p not in pages}


def test_status_says_that_all_is_there(whole_run: Run) -> None:
    status, out, _ = runs.command("status", str(whole_run.recipe), "--json")
    state = json.loads(out)
    assert status == 0 and state["missing"] == {} and state["shards"] == 4
    rows = {row["output"]: row for row in state["outputs"]}
    assert rows["tokens/rgb"]["rows"] == sum(SHARDS.values())
    assert rows["tokens/rgb"]["nulls"] == len(data.BAD_IMAGES)
    status, out, _ = runs.command("status", str(whole_run.recipe))
    assert status == 0 and "complete" in out


def test_status_of_another_recipe_says_what_is_missing(whole_run: Run) -> None:
    status, out, _ = runs.command("status", str(whole_run.recipe), "--set", "images.jpeg_quality=50", "--json")
    missing = json.loads(out)["missing"]
    assert status == 1
    assert {name: why for name, why in missing.items() if name.startswith("shard")} == {
        f"shard {shard}": "lacks tokens/rgb" for shard in SHARDS
    }


@pytest.mark.parametrize(
    "path",
    [
        "s/train-00002.tar", "out/tokens/tok_rgb/train-00002.parquet", "out/tokens/caption/train-00002.parquet",
        "out/labels/det/train-00002.parquet", "out/ledger/tokens/rgb/train-00002.json", "out/tokenizers/tok_rgb",
        "out/runs/4m", "out",
    ],
)  # fmt: skip
def test_inspect_shows_whatever_it_is_given(whole_run: Run, path: str) -> None:
    pytest.importorskip("fourmill.report.inspect.inspect")
    status, out, err = runs.command("inspect", str(whole_run.folder / path))
    assert status == 0, err
    assert out.strip() and "\x1b[2J" not in out  # what captions hold never reaches the terminal
    status, out, err = runs.command("inspect", str(whole_run.folder / path), "--json")
    assert status == 0 and isinstance(json.loads(out), dict), err


def test_view_writes_a_page_in_which_captions_are_text(whole_run: Run, tmp_path: Path) -> None:
    page = tmp_path / "gallery.html"
    status, out, err = runs.command("view", str(whole_run.recipe), "--samples", "60", "--out", str(page))
    assert status == 0, out + err
    html = page.read_text()
    assert "<script>document.title='owned'" not in html and "document.title=" in html
    for key in ("000000", "folder/with.dots", "000100"):
        assert key in html


# what is missing


def test_missing_shard_is_listed_and_the_rest_is_done(ray_cluster: str, whole_run: Run, tmp_path: Path) -> None:
    for folder in (
        "tokenizers",
        "ledger/tokenizers",
        "ledger/tokens",
        "ledger/labels",
        "ledger/samples",
        "tokens",
        "labels",
    ):
        shutil.copytree(whole_run.root / folder, tmp_path / "out" / folder)
    train = f"samples.train={whole_run.folder}/s/train-{{00000..00003}}.tar"
    arguments = [str(whole_run.recipe), "--set", train, "--set", f"root={tmp_path}/out"]
    status, out, _ = runs.command("tokenize", *arguments)
    assert status == 1
    assert "missing" in out and "train-00003" in out and "there is no shard at" in out
    status, out, _ = runs.command("status", *arguments, "--json")
    assert status == 1 and "shard train-00003" in json.loads(out)["missing"]
