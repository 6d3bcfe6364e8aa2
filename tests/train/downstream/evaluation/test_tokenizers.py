"""The reconstruction table of a root: every tokenizer with its rate, error, codebook and speed."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path
from typing import Any

import pytest
from fourmill_tests import data

from fourmill.infra import ledger
from fourmill.project import Project
from fourmill.recipe import Recipe
from fourmill.train.downstream.evaluation import tokenizers
from fourmill.verbs.make import evaluate as evaluate_verb
from fourmill.verbs.summary import show


@pytest.fixture(scope="module")
def fitted(tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    folder = tmp_path_factory.mktemp("evaluate")
    shards = data.good_shards(folder, 2, 6)
    recipe = data.recipe(folder / "out", shards[:1], shards[1:], modalities=["tok_rgb", "tok_canny_edge"],
                         labels__keep=[], generate__chains=[])  # fmt: skip
    data.fit(recipe)
    return recipe


def test_the_table_says_what_the_fit_measured_and_more(fitted: Recipe) -> None:
    summary = evaluate_verb.evaluate_tokenizers(Project(fitted))
    assert summary.complete and summary.made == 2 and summary.samples == 16
    rows = {row["tokenizer"]: row for row in json.loads(Path(fitted.root, "reports/tokenizers.json").read_text())}
    assert set(rows) == {"tok_rgb", "tok_canny_edge"}
    for name, row in rows.items():
        record = ledger.read(fitted.root, "tokenizers", name)
        assert record is not None
        quality = record.identity["quality"]
        assert row["measures"] == pytest.approx({key: quality[key] for key in row["measures"]}, rel=1e-4)
        assert row["codes_used"] == quality["codes_used"] and row["measured_on"] == "val" and row["samples"] == 8
        assert (row["tokens"], row["codebook_size"], row["bits"]) == (16, 64, 16 * math.log2(64))
        assert row["encode"] > 0 and row["decode"] > 0 and row["device"] == "CPU"
    markdown = Path(fitted.root, "reports/tokenizers.md").read_text().splitlines()
    assert len(markdown) == 4 and "psnr" in "".join(markdown) and "f1" in "".join(markdown)
    table = list(csv.DictReader(Path(fitted.root, "reports/tokenizers.csv").read_text().splitlines()))
    psnr = [float(line["value"]) for line in table if (line["tokenizer"], line["measure"]) == ("tok_rgb", "psnr")]
    assert psnr == [rows["tok_rgb"]["measures"]["psnr"]]


def test_what_is_not_fitted_is_missing(fitted: Recipe) -> None:
    other = fitted.tokenizers.model_copy(update={"each": {"tok_rgb": {"steps": 3}}})
    summary = evaluate_verb.evaluate_tokenizers(Project(fitted.model_copy(update={"tokenizers": other})))
    assert list(summary.missing) == ["tokenizers/tok_rgb"] and summary.made == 1
    rows = json.loads(Path(fitted.root, "reports/tokenizers.json").read_text())
    assert [row["tokenizer"] for row in rows] == ["tok_canny_edge"]


def test_one_failed_tokenizer_keeps_the_table(fitted: Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    fill = tokenizers.fill

    def without_rgb(*args: Any, **options: Any) -> Any:
        return {name: rows for name, rows in fill(*args, **options).items() if name != "tok_rgb"}

    monkeypatch.setattr(tokenizers, "fill", without_rgb)
    summary = evaluate_verb.evaluate_tokenizers(Project(fitted))
    assert summary.missing == {"tokenizers/tok_rgb": "no sample has the label rgb"} and summary.made == 1
    assert show([summary]) == 1
    rows = json.loads(Path(fitted.root, "reports/tokenizers.json").read_text())
    assert [row["tokenizer"] for row in rows] == ["tok_canny_edge"]
