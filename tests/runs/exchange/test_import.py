"""Token folders of apple/ml-4m become columns of a root, which train, look and check as any others, and come out again
as they were."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from fourmill_tests import data, runs, training
from fourmill_tests.engine import inline
from fourmill_tests.s3 import S3
from fourmill_tests.tiny.exchange import bring, members, npy, write

import fourmill
from fourmill.infra import ledger, storage
from fourmill.tokenize import labels
from fourmill.tokenize.text.wordpiece import WordPiece

CROPS, TOKENS = 3, 4


def keys(shard: int, count: int = 5) -> list[str]:
    # Not sorted, and with a folder: the order is the tar's.
    return [f"{shard:02d}/{i * 37 % 100:06d}" for i in range(count)]


def tokens(rng: np.random.Generator, vocab: int = 16_384, dtype: Any = np.int16, length: int = TOKENS) -> bytes:
    return npy(rng.integers(0, vocab, (CROPS, length)).astype(dtype))


def settings(rng: np.random.Generator) -> bytes:
    return npy(
        np.column_stack([rng.integers(0, 20, (CROPS, 2)), rng.integers(40, 60, (CROPS, 2)), rng.integers(0, 2, CROPS)])
    )


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """Two splits, of two shards and one, as save_vq_tokens.py names and types what it saves."""
    rng = np.random.default_rng(0)
    for split, shards in (("train", 2), ("val", 1)):
        for shard in range(shards):
            of = keys(shard + 10 * (split == "val"))
            folder, name = tmp_path / "ml4m" / split, f"shard-{shard:05d}"
            write(folder, "tok_rgb@224", name, {f"{key}.npy": tokens(rng) for key in of})
            write(folder, "tok_depth@224", name, {f"{key}.npy": tokens(rng, 8192, np.int32) for key in of})
            write(folder, "tok_dinov2_global", name, {f"{key}.npy": tokens(rng, 8192, length=16) for key in of})
            write(folder, "crop_settings", name, {f"{key}.npy": settings(rng) for key in of})
    return tmp_path / "ml4m"


def test_tokens_round_trip_byte_by_byte(place: Path, tmp_path: Path) -> None:
    root = tmp_path / "out"
    bring(place, root)
    code, out, err = runs.command("export", str(root), "--to", "ml4m", "--out", str(tmp_path / "back"))
    assert code == 0, out + err
    before = sorted(path.relative_to(place) for path in place.rglob("*.tar"))
    assert before == sorted(path.relative_to(tmp_path / "back") for path in (tmp_path / "back").rglob("*.tar"))
    for path in before:
        assert members(place / path) == members(tmp_path / "back" / path)


def test_what_was_imported_is_looked_at_and_checked(place: Path, tmp_path: Path) -> None:
    root = tmp_path / "out"
    bring(place, root)
    store = fourmill.open_store(str(root))
    assert set(store.modalities) == {"tok_rgb", "tok_depth", "tok_dinov2_global"}
    assert store.shards() == ("shard-00000", "shard-00001", "val-shard-00000")
    shard = store.shards()[0]
    column = store.column("tok_rgb", shard)
    assert column.values.shape == (5, CROPS, TOKENS) and column.keys.to_pylist() == keys(0)
    record = ledger.read(str(root), "tokens/tok_rgb", shard)
    assert record is not None
    assert record.identity["imported"]["folder"] == "tok_rgb@224" and record.identity["imported"]["dtype"] == "<i2"
    _, crops = labels.read_labels(str(root / f"labels/crop_settings/{shard}.parquet"))
    assert np.array(crops).shape == (5, CROPS, 5)
    for command, what in (("check", root), ("inspect", root), ("inspect", root / f"tokens/tok_rgb/{shard}.parquet")):
        code, out, err = runs.command(command, str(what))
        assert code == 0, out + err
    assert "imported from" in out and "int16" in out, out
    code, out, err = runs.command("status", str(root / "recipe.yaml"), "--json")
    state = json.loads(out)
    assert {row["output"]: row["done"] for row in state["outputs"]} == dict.fromkeys(
        ("samples", "labels/crop_settings", "tokens/tok_rgb", "tokens/tok_depth", "tokens/tok_dinov2_global"), 3
    )
    assert set(state["missing"]) == {"runs/4m"}
    _, out, err = runs.command("doctor", str(root / "recipe.yaml"))  # of the samples nothing is read
    assert "samples.train" not in out and "specialists" not in out, out + err
    code, out, err = runs.command("prune", str(root), "--json")
    assert code == 0 and json.loads(out)["unasked"] == [], out + err


def test_signs_of_patterns_in_the_names_are_names(place: Path, tmp_path: Path) -> None:
    """Before and after the folder is gone, and when the import is repeated."""
    odd, root = tmp_path / "run[1]" / "x{0..3},{a,b}*", tmp_path / "out"
    odd.parent.mkdir()
    place.rename(odd)
    assert re.search(r"import \S 12 \S 0 ", bring(odd, root))
    assert re.search(r"import \S 0 \S 12 ", bring(odd, root))
    odd.rename(tmp_path / "elsewhere")
    _, out, err = runs.command("status", str(root / "recipe.yaml"), "--json")
    assert {row["done"] for row in json.loads(out)["outputs"]} == {3}, out + err  # no run is trained, hence the status


def test_training_needs_no_tars_and_run_makes_nothing_again(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import shutil

    from fourmill import recipe as recipes
    from fourmill.project import Project
    from fourmill.verbs.make import run

    root = tmp_path / "out"
    bring(place, root)
    shutil.rmtree(place)
    before = {
        path: path.stat().st_mtime_ns for path in root.rglob("*") if path.is_file() and path.name != "recipe.yaml"
    }
    inline(monkeypatch)
    options = ["train.steps=2", "train.warmup_steps=0"]
    project = Project(recipes.load(root / "recipe.yaml", options))
    stages = [run.label.make(project), run.fit.make(project), run.tokenize.make(project)]
    assert all(one.complete and not one.made for one in stages), [one.missing for one in stages]
    assert before == {path: path.stat().st_mtime_ns for path in before}
    values = yaml.safe_load((root / "recipe.yaml").read_text())
    values["train"] = training.TINY | {
        "steps": 3,
        "warmup_steps": 1,
        "validate_every": 3,
        "validation_samples": 4,
        "batch_size": 4,
    }
    job = Project(recipes.parse(values)).train_job
    assert [spec.name for spec in job.specs] == ["tok_rgb", "tok_depth", "tok_dinov2_global"]
    assert sum(shard.rows for shard in job.shards) == 10 and sum(shard.rows for shard in job.val_shards) == 5
    assert job.fingerprint == Project(recipes.parse(values)).train_job.fingerprint
    assert training.train(job).step == 3


def test_other_contents_are_another_run(place: Path, tmp_path: Path) -> None:
    from fourmill import recipe as recipes
    from fourmill.project import Project

    root = tmp_path / "out"
    bring(place, root)
    first = Project(recipes.load(root / "recipe.yaml")).train_job.fingerprint
    write(
        place / "train",
        "tok_depth@224",
        "shard-00001",
        {f"{k}.npy": npy(np.ones((CROPS, TOKENS), np.int32)) for k in keys(1)},
    )
    assert "1" in bring(place, root)
    assert Project(recipes.load(root / "recipe.yaml")).train_job.fingerprint != first


def test_an_import_goes_on_where_it_was_killed(place: Path, tmp_path: Path) -> None:
    root = tmp_path / "out"
    bring(place, root)
    whole = data.rows(root)
    gone = sorted((root / "ledger/tokens/tok_rgb").glob("*.json"))[0]
    gone.unlink()
    (root / "tokens/tok_depth" / f"{gone.stem}.parquet").write_bytes(b"half")
    times = {path: path.stat().st_mtime_ns for path in root.rglob("*.parquet")}
    bring(place, root)
    again = {path.relative_to(root).as_posix() for path, time in times.items() if path.stat().st_mtime_ns != time}
    assert again == {f"tokens/tok_rgb/{gone.stem}.parquet", f"tokens/tok_depth/{gone.stem}.parquet"}
    assert data.rows(root) == whole


def test_bad_members_are_null_and_bad_tars_no_columns(place: Path, tmp_path: Path) -> None:
    of = keys(0)
    rng = np.random.default_rng(1)
    bad = {
        of[0]: npy(np.zeros((CROPS, TOKENS), np.int16))[:-3],
        of[1]: npy(np.array([{"a": 1}], object)),
        of[2]: npy(np.full((CROPS, TOKENS), 16_384, np.int32)),
        of[3]: npy(np.zeros((CROPS, 9), np.int16)),
    }
    write(
        place / "train",
        "tok_rgb@224",
        "shard-00000",
        {f"{key}.npy": value for key, value in bad.items()} | {"x.npy": tokens(rng)},
    )
    write(place / "train", "tok_depth@224", "shard-00000", {f"{key}.npy": tokens(rng, 8192) for key in of})
    tar = place / "train/tok_depth@224/shard-00001.tar"
    tar.write_bytes(tar.read_bytes()[:1500])
    said = bring(place, tmp_path / "out", "--modalities", "tok_depth", status=1)
    assert "copy it again" in said and "shard-00001" in said
    # The first array that can be read says the sizes; of this shard none is whole.
    said = bring(place, tmp_path / "out2", "--modalities", "tok_rgb", status=1)
    assert "no sample can be read" in said and "cut off or damaged" in said
    write(
        place / "train",
        "tok_rgb@224",
        "shard-00000",
        {f"{k}.npy": v for k, v in bad.items()} | {f"{of[4]}.npy": tokens(rng)},
    )
    said = bring(place, tmp_path / "out3", "--modalities", "tok_rgb")
    root = tmp_path / "out3"
    shard = fourmill.open_store(str(root)).shards()[0]
    record = ledger.read(str(root), "tokens/tok_rgb", shard)
    assert record is not None and record.nulls == 4
    reasons = {one["key"]: one["reason"] for one in record.rejects}
    expected = {
        of[0]: "cut off",
        of[1]: "is a pickle and is not read",
        of[2]: "codebook_size=N",
        of[3]: "9 tokens, expected 3 of 4",
    }
    assert all(text in reasons[key] for key, text in expected.items()), reasons


def test_captions_and_pictures_come_along(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place, rng = tmp_path / "ml4m", np.random.default_rng(2)
    of = [f"{i:04d}" for i in range(4)]
    write(place, "rgb", "00000", {f"{key}.jpg": data.encode(data.picture(i)) for i, key in enumerate(of)})
    write(place, "tok_rgb@224", "00000", {f"{key}.npy": tokens(rng) for key in of})
    write(place, "crop_settings", "00000", {f"{key}.npy": settings(rng) for key in of})
    captions = [b'["a dog", "two dogs", "a cat"]', b'{"caption": "a cat"}', b'"a sofa"', b"{}"]
    write(place, "caption", "00000", {f"{key}.json": text for key, text in zip(of, captions, strict=True)})
    write(place, "sam_instance", "00000", {f"{key}.npy": npy(np.array([{"a": 1}], object)) for key in of})
    box = {"boxes": [0.0, 0.0, 1.0, 1.0], "class_name": "dog", "score": 0.9}
    write(place, "det", "00000", {f"{key}.json": json.dumps({"instances": [box]}).encode() for key in of})
    write(place, "metadata", "00000", {f"{key}.json": b'{"brightness": 255, "n_humans": 2}' for key in of})
    write(place, "color_palette", "00000", {f"{key}.json": b'[{"1": [[1, 2, 3]]}]' for key in of})
    assert "tokenizers.text.weights=FILE" in bring(place, tmp_path / "out", status=2)
    words = WordPiece.fit(["a dog on a sofa, two cats"] * 4, vocab_size=4500)
    (tmp_path / "text.json").write_text(words.to_json())
    said = bring(place, tmp_path / "out", "--set", f"tokenizers.text.weights={tmp_path / 'text.json'}")
    assert "left out: sam_instance: its arrays are pickles" in said
    store = fourmill.open_store(str(tmp_path / "out"))
    column = store.column("caption", store.shards()[0])
    assert [words.decode(column.crop(0, c)) for c in range(3)] == ["a dog", "two dogs", "a cat"]
    assert words.decode(column.crop(2, 1)) == "a sofa" and column.valid.tolist() == [True, True, True, False]
    sentences = {name: store.column(name, store.shards()[0]) for name in ("det", "metadata", "color_palette")}
    said = {name: words.decode(one.crop(0, one.spec.crops - 1)) for name, one in sentences.items()}
    assert said["det"] == "v0=0 v1=0 v2=999 v3=999 dog" and sentences["det"].spec.crops == CROPS
    assert said["metadata"] in ("v1=10 v0=49 v1=5 v0=2", "v1=5 v0=2 v1=10 v0=49")
    assert said["color_palette"] == "v1=1 v0=1 v0=2 v0=3"
    pictures = store.column("rgb", store.shards()[0])
    assert (
        pictures.spec.crops == CROPS and pictures.spec.length == 32 and pictures.crop(0, 2)[:2].tolist() == [0xFF, 0xD8]
    )
    record = ledger.read(str(tmp_path / "out"), "tokens/caption", store.shards()[0])
    assert record is not None and record.identity["tokenizers"] == {"text": words.fingerprint()}


def test_folders_of_files_are_shards(tmp_path: Path) -> None:
    rng, place = np.random.default_rng(3), tmp_path / "train"
    for name in ("tok_rgb_dvae", "crop_settings"):
        for folder in ("a", "b"):
            (place / name / folder).mkdir(parents=True)
            for i in range(3):
                content = settings(rng) if name == "crop_settings" else tokens(rng)
                (place / name / folder / f"{i}.npy").write_bytes(content)
    assert "tok_rgb_dvae: no modality is called so" in bring(place, tmp_path / "out", status=2)
    bring(place, tmp_path / "out", "--map", "tok_rgb_dvae=tok_rgb")
    assert fourmill.open_store(str(tmp_path / "out")).column("tok_rgb", "a").keys.to_pylist() == ["a/0", "a/1", "a/2"]
    for _ in range(2):
        assert runs.command("export", str(tmp_path / "out"), "--to", "ml4m", "--out", str(tmp_path / "back"))[0] == 0
        there = {path.relative_to(tmp_path / "back") for path in (tmp_path / "back").rglob("*.npy")}
        assert there == {path.relative_to(place) for path in place.rglob("*.npy")}
        (tmp_path / "back/tok_rgb_dvae/a/9.npy").write_bytes(b"of a sample that is exported no more")
    for path in place.rglob("*.npy"):
        assert (tmp_path / "back" / path.relative_to(place)).read_bytes() == path.read_bytes()


WRONG: dict[str, tuple[Callable[[Path], object], Sequence[str], str]] = {
    "nothing": (lambda place: None, (), "there is no such folder"),
    "tars": (lambda place: write(place, ".", "0", {"a.tok_rgb.npy": b""}), (), "folders by modality"),
    "unknown": (lambda place: write(place, "depth_x", "0", {"a.npy": b""}), (), "--map FOLDER=MODALITY"),
    "map": (lambda place: write(place, "x", "0", {"a.npy": b""}), ("--map", "x=tok_rg"), "did you mean 'tok_rgb'"),
    "several": (
        lambda place: write(place, "tok_rgb", "0", {"a.npy": npy(np.zeros((1, 4), np.int16)), "a.txt": b""}),
        (),
        "expected one member of each key",
    ),
    "shape": (
        lambda place: write(place, "tok_rgb", "0", {"a.npy": npy(np.zeros((1, 5), np.int16))}),
        (),
        "no square grid",
    ),
    "modalities": (
        lambda place: write(place, "tok_rgb", "0", {"a.npy": b""}),
        ("--modalities", "tok_depth"),
        "there is no folder of tok_depth",
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", sorted(WRONG))
def test_wrong_places_are_said(kind: str, tmp_path: Path) -> None:
    make, options, expected = WRONG[kind]
    make(tmp_path / "place")
    assert expected in bring(tmp_path / "place", tmp_path / "out", *options, status=2)
    assert not (tmp_path / "out").exists()


def test_pictures_of_unknown_crops_and_other_sizes_are_left_out(place: Path, tmp_path: Path) -> None:
    bring(place, tmp_path / "out", "--modalities", "tok_rgb")
    of, rng = keys(0), np.random.default_rng(4)
    other = tmp_path / "other"
    write(other, "tok_depth", "0", {f"{key}.npy": tokens(rng, 8192) for key in of})
    write(other, "rgb", "0", {f"{key}.jpg": data.encode(data.picture(i)) for i, key in enumerate(of)})
    assert "left out: rgb: there is no crop_settings" in bring(other, tmp_path / "out2")
    write(other, "tok_depth", "0", {f"{key}.npy": npy(np.zeros((1, TOKENS), np.int16)) for key in of})
    said = bring(other, tmp_path / "out", status=2)
    assert "images.crops: the columns of" in said and "have 3, these tokens 1; import them into another root" in said


def test_what_was_removed_does_not_come_back(place: Path, tmp_path: Path) -> None:
    root = tmp_path / "out"
    bring(place, root)
    gone = keys(0)[1]
    (tmp_path / "keys.txt").write_text(f"{gone}\n")
    code, out, err = runs.command("remove", str(root), "--keys", str(tmp_path / "keys.txt"))
    assert code == 0, out + err
    for path in (root / "ledger/tokens/tok_rgb").glob("*.json"):
        path.unlink()
    bring(place, root)
    column = fourmill.open_store(str(root)).column("tok_rgb", "shard-00000")
    assert column.valid.tolist() == [key != gone for key in keys(0)]
    assert runs.command("check", str(root))[0] == 0
    runs.command("export", str(root), "--to", "ml4m", "--out", str(tmp_path / "back"))
    names = [name for name, _ in members(tmp_path / "back/train/tok_rgb@224/shard-00000.tar")]
    assert names == [f"{key}.npy" for key in keys(0) if key != gone]


def test_buckets_hold_both_ends(place: Path, s3: S3, tmp_path: Path) -> None:
    bucket = s3.bucket("exchange")
    for path in place.rglob("*.tar"):
        storage.put(f"{bucket}/ml4m/{path.relative_to(place).as_posix()}", path.read_bytes())
    code, out, err = runs.command("import", f"{bucket}/ml4m", "--from", "ml4m", "--root", f"{bucket}/out")
    assert code == 0, out + err
    code, out, err = runs.command("export", f"{bucket}/out", "--to", "ml4m", "--out", f"{bucket}/back")
    assert code == 0, out + err
    (tmp_path / "one.tar").write_bytes(storage.read_bytes(f"{bucket}/back/train/tok_depth@224/shard-00001.tar"))
    assert members(tmp_path / "one.tar") == members(place / "train/tok_depth@224/shard-00001.tar")


def test_a_root_with_a_recipe_of_its_own_is_left_alone(place: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out/recipe.yaml").write_text("root: out\nsamples: a.tar\n")
    assert "import into a root of its own" in bring(place, tmp_path / "out", status=2)
