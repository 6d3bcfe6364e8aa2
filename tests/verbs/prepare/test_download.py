"""`download`, and `run` and `plan` of a recipe that begins with a table of URLs."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from fourmill_tests import data, engine, runs
from fourmill_tests.web import fetching, server
from fourmill_tests.web.server import Web

from fourmill.infra import ledger
from fourmill.recipe import load
from fourmill.verbs.make import label
from fourmill.verbs.make import run as run_verb


@pytest.fixture(scope="module")
def web() -> Iterator[Web]:
    with server.serve() as running:
        yield running


@pytest.fixture
def recipe(web: Web, tmp_path: Path) -> Path:
    table = fetching.write_tsv(
        tmp_path / "table.tsv", [web.url(path) for path in ("image/0", "status/404", "image/1", "lie/1")]
    )
    settings = data.settings(
        tmp_path / "out", str(tmp_path / "shards"),
        download={"table": str(table), "out": str(tmp_path / "shards"), "allow": ["127.0.0.1"], "shard_size": 2},
    )  # fmt: skip
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(settings))
    return path


def test_the_closing_table_counts_urls_by_class(recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine.inline(monkeypatch)
    status, out, err = runs.command("download", str(recipe))
    assert status == 0, err
    assert "2 of 4 URLs gave a sample (50.0%)" in out and "download.contact is not set" in out
    for row in ("success", "http-404", "not-an-image"):
        assert any(row in line and "%" in line for line in out.splitlines())
    status, out, _ = runs.command("download", str(recipe))
    assert status == 0 and "download.contact" not in out


def test_plan_says_what_is_missing_before_there_are_shards(recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    status, out, _ = runs.command("plan", str(recipe))
    assert status == 0 and "download: 1 files of" in out and "fourmill download" in out
    engine.inline(monkeypatch)
    assert runs.command("download", str(recipe))[0] == 0
    (recipe.parent / "shards" / "00001_stats.json").unlink()
    status, out, _ = runs.command("plan", str(recipe), "--json", "--measure", "0")
    described = json.loads(out)
    assert described["download"]["missing"] == 1 and described["download"]["missing_rows"] == 2
    assert described["shards"] == 2


def test_run_downloads_before_it_labels(recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the table to labelled shards; what comes after needs no network."""
    engine.inline(monkeypatch)
    monkeypatch.setattr(run_verb, "make", lambda project: [label.make(project)])
    monkeypatch.setattr(run_verb, "close", lambda _, summaries: len([s for s in summaries if not s.complete]))
    assert runs.command("run", str(recipe))[0] == 0
    for shard in ("00000", "00001"):
        record = ledger.read(str(recipe.parent / "out"), "samples", shard)
        assert record is not None and record.rows == 1


def test_what_is_missing_is_a_sentence_that_says_what_to_do(recipe: Path) -> None:
    status, _, err = runs.command("label", str(recipe))
    assert status == 2 and "`fourmill download` makes them" in err
    plain = yaml.safe_load(recipe.read_text())
    del plain["download"]
    recipe.write_text(yaml.safe_dump(plain))
    status, _, err = runs.command("download", str(recipe))
    assert status == 2 and "has no section download; it needs at least download.table" in err


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ("download.tabel=x", "did you mean 'table'"),
        ("download.retry=[timeuot]", "no class of failures 'timeuot'"),
        ("download.allow=[10.0.0.0/99]", "is no network"),
        ("download.per_host=0", "download.per_host"),
    ],
)
def test_mistakes_of_the_section_are_sentences(recipe: Path, change: str, expected: str) -> None:
    status, _, err = runs.command("download", str(recipe), "--set", change)
    assert status == 2 and expected in err


def test_an_old_recipe_has_no_download(tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text("root: out\nsamples: a.tar\n")
    assert load(tmp_path / "r.yaml").download is None


def test_texts_become_tokens_without_an_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From a table as C4's to columns of captions; nothing is fetched."""
    engine.inline(monkeypatch)
    url = "http://127.0.0.1:9/"
    rows = [{"text": f"Page {i} of boats" if i else "", "timestamp": "2019", "url": url} for i in range(9)]
    (tmp_path / "c4.json").write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings = data.settings(
        tmp_path / "out", str(tmp_path / "shards"), modalities=["caption"], labels__keep=["caption"],
        generate__chains=[],
        download={"table": str(tmp_path / "c4.json"), "out": str(tmp_path / "shards"), "shard_size": 5},
    )  # fmt: skip
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(settings))
    status, out, err = runs.command("download", str(tmp_path / "recipe.yaml"))
    assert status == 0 and "8 of 9 rows of texts (column text) gave a sample" in out and "contact" not in out, err
    assert any("empty" in line and "11.1%" in line for line in out.splitlines())
    recipe = load(tmp_path / "recipe.yaml")
    data.fit(recipe)
    made = data.make(recipe, data.outputs(recipe))
    tokens = [(one.shard, one.rows, one.nulls) for one in made if one.output == "tokens/caption"]
    assert tokens == [("00000-00000", 4, 0), ("00000-00001", 4, 0)]
    (tmp_path / "shards" / "00000_of_00002_stats.json").unlink()
    status, out, _ = runs.command("plan", str(tmp_path / "recipe.yaml"), "--measure", "0")
    assert status == 0 and "1 of 1 slices are missing (texts), of the column 'text'" in out
