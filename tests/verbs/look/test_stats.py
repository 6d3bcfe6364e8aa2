"""`stats`: the worst findings are its first lines, nothing is read twice, and others say what it has found."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from fourmill_tests import runs, small
from fourmill_tests.tables import measured

from fourmill import cli
from fourmill.infra import storage
from fourmill.pipelines.removal import beside
from fourmill.report.stats import collect, stats
from fourmill.report.stats.collect import StatsJob

if TYPE_CHECKING:
    from fourmill_tests.small import SmallRoot

SHARDS, SAMPLES = 8, 24
CODES = np.random.default_rng(0).permutation(measured.VOCABULARY).astype(np.uint16)


def other_codes(rng: np.random.Generator, value: Any) -> Any:
    return CODES[value]


def dead(rng: np.random.Generator, value: Any) -> Any:
    return np.zeros_like(value)


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("sound") / "out"
    measured.write(root, SHARDS, SAMPLES)
    return root


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("planted") / "out"
    faults = {("labels/depth", 3): dead} | {("tokens/tok_depth", shard): other_codes for shard in (6, 7)}
    measured.write(root, SHARDS, SAMPLES, faults)
    return root


def printed(root: Path, *more: str) -> dict[str, Any]:
    status, out, err = runs.command("stats", str(root), "--json", *more)
    made: dict[str, Any] = json.loads(out)
    assert status == any(one["alarm"] for one in made["findings"]), err
    return made


def findings(root: Path) -> list[tuple[str, str, list[str]]]:
    return [(one["kind"], one["output"], one["shards"]) for one in printed(root)["findings"]]


def test_a_dead_label_and_a_drift_are_the_first_lines(planted: Path) -> None:
    status, out, _ = runs.command("stats", str(planted))
    lines = out.splitlines()
    assert status == 1
    assert lines[0].startswith("labels/depth is constant in 00003: 0 everywhere")
    assert lines[1].startswith("tokens/tok_depth drifts from 00006: which codes occur (Jensen-Shannon divergence 0.")
    assert lines[2].strip() == str(planted)


def test_others_say_what_is_known(planted: Path) -> None:
    runs.command("stats", str(planted))
    _, out, _ = runs.command("status", str(planted), "--json")
    said = json.loads(out)["alarms"]
    assert list(said) == ["labels/depth", "tokens/tok_depth"] and said["labels/depth"].startswith(
        "is constant in 00003"
    )
    _, out, _ = runs.command("check", str(planted), "--json")
    assert sum("to look at" in one["what"] for one in json.loads(out)["findings"]) == 2
    assert "constant in 00003" in (planted / "stats.html").read_text()


def test_a_sound_root_has_no_findings(sound: Path) -> None:
    made = printed(sound)
    assert made["findings"] == [] and len(made["outputs"]) == 11
    status, out, _ = runs.command("stats", str(sound))
    assert status == 0 and out.startswith("nothing is null, constant, saturated or out of range")


def test_the_numbers_are_those_of_the_files(sound: Path) -> None:
    made = printed(sound)["outputs"]
    rows: list[dict[str, Any]] = []
    for shard in range(SHARDS):
        rng = np.random.default_rng(shard)
        rows += [measured.sample(rng) for _ in range(SAMPLES)]
    depth = np.concatenate([row["labels/depth"].reshape(-1) for row in rows]).astype(np.float64)
    channel = made["labels/depth"]["channels"][0]
    assert channel["mean"] == pytest.approx(depth.mean(), rel=1e-5) and channel["max"] == depth.max()
    assert channel["p98"] == pytest.approx(np.quantile(depth, 0.98), rel=0.02) and channel["valid"] == 1
    assert sum(channel["counts"]) == pytest.approx(depth.size, rel=1e-3)
    boxes = [box["label"] for row in rows for box in row["labels/det"]]
    assert made["labels/det"]["counts"]["person"] == boxes.count("person")
    assert made["labels/det"]["samples"]["items"]["mean"] == pytest.approx(len(boxes) / len(rows))
    assert made["labels/semseg"]["counts"]["person"] == sum(int((row["labels/semseg"] == 0).sum()) for row in rows)
    ids = np.concatenate([row["tokens/tok_rgb"].reshape(-1) for row in rows])
    codes = made["tokens/tok_rgb"]["codes"]
    share = np.bincount(ids)[np.bincount(ids) > 0] / ids.size
    assert codes["used"] == len(share) and codes["dead"] == measured.VOCABULARY - len(share)
    assert codes["entropy_bits"] == pytest.approx(-(share * np.log2(share)).sum())
    assert made["tokens/rgb"]["channels"][2]["channel"] == "2"  # pictures are decoded


def test_a_second_call_reads_no_column(sound: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = printed(sound)
    read: list[str] = []

    def refuse(output: str, shard: str, *more: Any) -> Any:
        read.append(f"{output}/{shard}")
        return measure(output, shard, *more)

    measure = collect.measure
    monkeypatch.setattr(collect, "measure", refuse)
    again = printed(sound)
    assert read == [] and again["outputs"] == first["outputs"]
    copied = tmp_path / "out"
    copied.mkdir()
    for path in sound.rglob("*.*"):
        if path.is_file():
            (target := copied / path.relative_to(sound)).parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(path.read_bytes())
    measured.write(copied, 1, SAMPLES, first=SHARDS)
    assert printed(copied)["outputs"]["labels/depth"]["shards"] == SHARDS + 1
    assert {one.rpartition("/")[2] for one in read} == {f"{SHARDS:05d}"} and len(read) == 11


def nan(rng: np.random.Generator, value: Any) -> Any:
    return np.full_like(value, np.nan)


@pytest.mark.parametrize(
    ("output", "change", "kind"),
    [
        ("labels/depth", lambda rng, value: None, "null"),
        ("labels/depth", lambda rng, value: value * 20, "range"),
        ("labels/depth", nan, "missing"),
        ("labels/depth", lambda rng, value: np.minimum(value, np.float16(0.06)), "saturated"),
        ("labels/depth", lambda rng, value: np.full_like(value, rng.uniform(0.1, 0.3)), "flat"),
        ("labels/depth", lambda rng, value: None if rng.random() < 0.6 else value, "nulls"),
        ("labels/normal", lambda rng, value: value * np.array([1, 0, 1], value.dtype), "constant"),
        ("labels/det", lambda rng, value: [], "constant"),
        ("labels/caption", lambda rng, value: "a photo", "constant"),
        ("labels/semseg", lambda rng, value: dead(rng, value), "constant"),
        ("tokens/tok_rgb", lambda rng, value: value * 0 + 5, "constant"),
        ("tokens/caption", lambda rng, value: [np.array([3], np.uint16)], "constant"),
        ("tokens/tok_rgb", other_codes, "drift"),
        ("labels/metadata", lambda rng, value: value | {"brightness": value["brightness"] + 0.5}, "drift"),
    ],
)
def test_what_is_wrong_in_one_shard_is_found_first(
    tmp_path: Path, output: str, change: Callable[..., Any], kind: str
) -> None:
    root = tmp_path / "out"
    for shard in range(5):
        rng = np.random.default_rng(shard)
        values = [measured.sample(rng)[output] for _ in range(40)]
        values = [change(rng, value) for value in values] if shard == 2 else values
        measured.commit(root, output, f"{shard:05d}", values)
    assert findings(root)[0] == (kind, output, ["00002"])


def test_what_is_wrong_in_all_shards_is_found(tmp_path: Path) -> None:
    faults = {("labels/depth", shard): dead for shard in range(3)}
    faults |= {("labels/det", shard): lambda rng, value: [] for shard in range(3)}
    measured.write(tmp_path / "out", 3, 12, faults)
    found = findings(tmp_path / "out")
    assert found[0] == ("constant", "labels/depth", ["00000", "00001", "00002"])
    assert found[-1][:2] == ("everywhere", "labels/det")  # nothing may be there to be found


def test_a_damaged_file_is_named_and_the_others_are_measured(tmp_path: Path) -> None:
    root = tmp_path / "out"
    measured.write(root, 2, 10)
    path = root / "labels/depth/00001.parquet"
    data = bytearray(path.read_bytes())
    data[len(data) // 3] ^= 0xFF
    path.write_bytes(data)
    made = printed(root)
    assert made["findings"][0]["said"].startswith("labels/depth cannot be read in 00001: ")
    assert made["outputs"]["labels/depth"]["shards"] == 1


def test_a_column_that_is_made_again_is_read_again(tmp_path: Path) -> None:
    root = tmp_path / "out"
    measured.write(root, 3, 12, {("labels/depth", 1): dead})
    assert findings(root)[0][0] == "constant"
    measured.write(root, 1, 12, first=1)
    recorded = stats.alarms(str(root), stats.records_of(str(root)))
    assert "files have changed since" in recorded["labels/depth"]
    assert findings(root) == []
    bundles = [path for path in (root / "stats/labels/depth").iterdir()]
    marks = {shard for path in bundles for shard, _ in collect.shards_of(path.read_bytes())}
    assert marks == {"00000", "00001", "00002"} and stats.alarms(str(root), {}) == {}


def test_summaries_name_no_sample_and_pages_go_with_a_removal(tmp_path: Path) -> None:
    root = tmp_path / "out"
    measured.write(root, 2, 10)
    printed(root)
    kept = [path for path in (root / "stats").rglob("*") if path.is_file()]
    assert kept and not any(b"00000-0003" in path.read_bytes() for path in kept)
    beside.clear(str(root), {"00000": ["00000-0003"]})
    assert not (root / "stats.html").exists() and not (root / stats.FILE).exists()


def test_an_outlier_is_shown(tmp_path: Path) -> None:
    root = tmp_path / "out"
    measured.write(root, 2, 40, {("labels/caption", 0): lambda rng, value: value})
    values = [f"{row} words" for row in range(39)] + ["word " * 4_000]
    measured.commit(root, "labels/caption", "00001", values)
    found = printed(root)["outliers"]
    assert ("00001", 39) in {(one["shard"], one["row"]) for one in found if one["output"] == "labels/caption"}
    assert "00001-0039" in (root / "stats.html").read_text()


def test_a_recipe_is_asked_what_it_asks_for(small_root: SmallRoot, tmp_path: Path) -> None:
    recipe = small.copied(small_root, tmp_path, 4)  # what is measured is kept in the root
    status, out, err = runs.command("stats", str(recipe), "--out", str(tmp_path / "a.html"))
    assert status in (0, 1) and "tokens/tok_rgb" in out and (tmp_path / "a.html").exists(), err


def test_a_mistake_is_a_sentence(tmp_path: Path, sound: Path) -> None:
    for arguments, expected in (
        ([str(tmp_path)], "a recipe is a YAML text file"),
        ([str(sound), "--outputs", "labels/dept"], "there is no labels/dept; there are labels/canny_edge"),
        ([str(sound), "--out", str(tmp_path)], "is a folder"),
    ):
        status, _, err = runs.command("stats", *arguments)
        assert status == 2 and "Traceback" not in err and expected in err, err


@pytest.mark.slow
def test_actors_make_what_this_process_makes(ray_cluster: str, tmp_path: Path) -> None:
    roots = [tmp_path / "here", tmp_path / "there"]
    for root in roots:
        measured.write(root, 3, 10)
    engine = StatsJob("").engine.model_copy(update={"address": ray_cluster})
    made = [
        stats.make(StatsJob(str(root), **more), stats.records_of(str(root)))
        for root, more in zip(roots, ({}, {"engine": engine}), strict=True)
    ]
    assert made[0].outputs == made[1].outputs and made[1].files == 33
    assert storage.list_names(str(roots[1] / "stats/labels/depth"))


def test_the_verb_is_known() -> None:
    assert "stats" in cli.groups()["look"]
