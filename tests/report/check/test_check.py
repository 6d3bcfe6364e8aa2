"""`fourmill check`: every damage of a root is found, and `--repair` removes what is broken and only that."""

from __future__ import annotations

import json
import os
import random
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from fourmill_tests import data, first, runs, training
from fourmill_tests.s3 import S3
from fourmill_tests.small import SmallRoot

from fourmill import recipe as recipes
from fourmill.infra import ledger, storage
from fourmill.project import Project
from fourmill.recipe import Recipe
from fourmill.report.check import check, listing
from fourmill.report.doctor.licences import FILE as LICENCES
from fourmill.runs import licences
from fourmill.tokenize import codecs, store, table_file
from fourmill.tokenize.table_file import Origin
from fourmill.train import sharded
from fourmill.train.pretrain import weights

OLD = 4e8  # seconds: a time of change that is long ago


@pytest.fixture(scope="module")
def root(small_root: SmallRoot, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small root with a run beside its columns: two checkpoints and a model."""
    folder = tmp_path_factory.mktemp("checked")
    shutil.copytree(small_root.root, folder / "out")
    job = training.job(folder / "train", steps=4, checkpoint_every=2, warmup_steps=1)
    training.train(job)
    shutil.copytree(folder / "train" / "runs", folder / "out" / "runs", dirs_exist_ok=True)
    shutil.copytree(folder / "train" / "ledger" / "runs", folder / "out" / "ledger" / "runs")
    (run,) = (folder / "out" / "runs").glob("4m/*")
    for place in (run, run / "model"):
        licences.keep({"images": {}, "columns": {}, "began_with": None, "to_be_known": {}}, str(place))
    return folder / "out"


@pytest.fixture
def copy(root: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(root, tmp_path / "out"))


def broken(root: Path) -> list[str]:
    return [finding.what for finding in check.check(str(root)).broken]


def damageable(root: Path) -> list[Path]:
    """Columns, labels, records, tokenizers, checkpoints and models."""
    folders = ("tokens", "labels", "ledger", "tokenizers", "runs")
    files = [path for folder in folders for path in sorted((root / folder).rglob("*")) if path.is_file()]
    apart = ("metrics.jsonl", "recipe.yaml", "tokenizers.json")
    return [path for path in files if path.name not in apart and not path.name.startswith("events")]


def test_nothing_is_found_in_a_good_root(root: Path) -> None:
    checked = check.check(str(root))
    assert not checked.broken, checked.broken
    assert checked.counts["tokens"] and checked.counts["labels"] and checked.counts["samples"]


def test_random_damages_are_found(copy: Path) -> None:
    """One byte changed, or the file cut, in turn: of each file kind the check names the very place. See
    benchmarks/trials/damages.py for 200 of them."""
    rng, files = random.Random(0), damageable(copy)
    for number in range(24):
        path = files[rng.randrange(len(files))]
        whole = path.read_bytes()
        at = rng.randrange(len(whole))
        flipped = whole[:at] + bytes([whole[at] ^ (1 << rng.randrange(8))]) + whole[at + 1 :]
        path.write_bytes(flipped if number % 3 else whole[:at])
        assert broken(copy), f"{path}, byte {at}"
        path.write_bytes(whole)
    assert not broken(copy)


def test_a_swapped_column_is_found_and_made_again(copy: Path, small_root: SmallRoot) -> None:
    """Equal in size or not: a column of another shard or of another recipe, whole by itself."""
    recipe = _recipe(copy, small_root)
    column = copy / "tokens/caption/train-00000.parquet"
    whole = column.read_bytes()
    read = store.read(whole)
    rows = [read.sample(i) for i in range(len(read))]
    column.write_bytes(store.encode_column(read.spec, read.keys.to_pylist(), rows, Origin("bad", "another")))
    assert broken(copy) == ["tokens/caption/train-00000.parquet"]
    plan = Project(recipe).plan(Project(recipe).token_outputs, footers=True)
    assert [(task.shard, task.outputs) for task in plan.missing] == [("train-00000", ("tokens/caption",))]
    data.make(recipe, data.outputs(recipe))
    assert column.read_bytes() == whole and not broken(copy)


def _recipe(root: Path, small_root: SmallRoot) -> Recipe:
    settings = small_root.recipe.model_dump(mode="json") | {"root": str(root)}
    return recipes.parse(settings)


def test_repair_removes_what_is_broken_and_nothing_else(copy: Path, small_root: SmallRoot) -> None:
    recipe = _recipe(copy, small_root)
    before = data.columns(copy)
    damaged = [copy / "tokens/rgb/bad.parquet", copy / "ledger/labels/det/train-00000.json"]
    for path in damaged:
        path.write_bytes(path.read_bytes()[:-9])
    left = copy / "tokens/rgb/.tmp-1-a-bad.parquet"
    left.write_bytes(b"half")
    orphan = copy / "labels/det/nobody.parquet"
    orphan.write_bytes(b"whole")
    young = copy / "labels/det/just-now.parquet"
    young.write_bytes(b"of a commit that is going on")
    note = copy / "ledger/calls/0123.json"
    note.parent.mkdir()
    note.write_bytes(b"{}")
    for path in (left, orphan, note):
        os.utime(path, (OLD, OLD))
    status, out, err = runs.command("check", str(copy), "--json")
    assert status == 1 and not json.loads(out)["removed"], err
    status, out, err = runs.command("check", str(copy), "--repair")
    assert status == 0 and "tokens/rgb/bad.parquet" in out and "3 broken" not in out, out + err
    assert not any(path.exists() for path in (left, orphan, note, damaged[0])) and young.exists()
    young.unlink()
    made = data.make(recipe, data.outputs(recipe))
    assert sorted((record.output, record.shard) for record in made) == [
        ("labels/det", "train-00000"), ("tokens/rgb", "bad"),
    ]  # fmt: skip
    assert data.columns(copy) == before and not broken(copy)


def test_rows_out_of_place_are_found(copy: Path) -> None:
    """A column whose record and file agree, and whose rows are in another order than the shard's."""
    record = ledger.read(str(copy), "tokens/caption", "train-00000")
    assert record is not None
    read = store.read(str(copy / "tokens/caption/train-00000.parquet"))
    keys, rows = read.keys.to_pylist(), [read.sample(i) for i in range(len(read))]
    turned = store.encode_column(read.spec, keys[::-1], rows[::-1], Origin(record.shard, record.fingerprint))
    keys_sum, content = table_file.content(turned)
    ledger.commit(str(copy), replace(record, keys=keys_sum, content=content), turned)
    (finding,) = check.check(str(copy)).broken
    assert finding.what == "tokens/caption/train-00000.parquet" and "not those of the shard's other" in finding.why


@pytest.mark.parametrize(
    ("damage", "what"),
    [
        (lambda run: next(run.glob("checkpoints/step-00000004/*.safetensors")), "checkpoints/step-00000004"),
        (lambda run: run / "checkpoints/step-00000002/complete.json", "checkpoints/step-00000002"),
        (lambda run: run / "model/model.safetensors", "model"),
    ],
)
def test_damaged_runs_are_found(copy: Path, damage: Callable[[Path], Path], what: str) -> None:
    (run,) = (copy / "runs/4m").iterdir()
    path = damage(run)
    whole = bytearray(path.read_bytes())
    whole[len(whole) // 2] ^= 4
    path.write_bytes(bytes(whole))
    assert broken(copy) == [f"runs/4m/print/{what}"]
    assert runs.command("check", str(copy), "--repair")[0] == 0
    assert not path.exists() and not broken(copy)


def test_the_only_checkpoint_is_not_removed(copy: Path) -> None:
    (run,) = (copy / "runs/4m").iterdir()
    shutil.rmtree(run / "checkpoints/step-00000002")
    (path,) = (run / "checkpoints/step-00000004").glob("*.safetensors")
    path.write_bytes(path.read_bytes()[:-1])
    status, out, _ = runs.command("check", str(copy), "--repair", "--json")
    (finding,) = (one for one in json.loads(out)["findings"] if one["broken"])
    assert status == 1 and path.exists() and "it is the only one" in finding["why"]


def sum_of(model: torch.nn.Module) -> float:
    return float(sum(parameter.detach().double().abs().sum() for parameter in model.parameters()))


def test_readers_of_models_find_damage_themselves(copy: Path) -> None:
    """A byte of a checkpoint's tensors or of a fitted tokenizer: an error, or the very same weights."""
    (run,) = (copy / "runs/4m").iterdir()
    saved, record = sharded.Saver(str(run / "checkpoints"), 2).newest(), ledger.read(str(copy), "tokenizers", "tok_rgb")
    assert saved is not None and record is not None
    print_ = record.sha256
    for path, read in (
        (next((run / "checkpoints/step-00000004").glob("*.safetensors")), lambda: sum_of(weights.of_checkpoint(saved))),
        (copy / "tokenizers/text/tokenizer.json", lambda: codecs.load_text(str(copy)).fingerprint()),
        (
            copy / "tokenizers/tok_rgb/model.safetensors",
            lambda: sum_of(codecs.load_fitted(str(copy), "tok_rgb", expected=print_).model),
        ),
        (copy / "tokenizers/tok_rgb/config.json", lambda: sum_of(codecs.load_fitted(str(copy), "tok_rgb").model)),
    ):
        whole = path.read_bytes()
        good, found = read(), 0
        for at in range(3, len(whole), len(whole) // 7):
            path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
            try:
                assert read() == good  # a moment of the optimizer, which a model has not
            except ValueError as error:
                assert "fitted again" not in str(error)
                found += 1
        path.write_bytes(whole)
        assert found > 3


def test_a_root_of_the_first_release_is_whole(tmp_path: Path) -> None:
    assert not broken(first.copy(tmp_path) / "out")


def test_nothing_at_all_is_a_sentence(tmp_path: Path) -> None:
    status, _, err = runs.command("check", str(tmp_path / "nowhere"))
    assert status != 0 and "there is nothing" in err
    assert storage.list_names(str(tmp_path)) == []


def test_a_root_on_s3(root: Path, s3: S3, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same, with what only buckets have: parts of an upload that was never completed."""
    url = f"{s3.bucket('checked')}/out"
    for path in sorted(root.rglob("*")):
        if path.is_file() and path.relative_to(root).parts[0] in ("labels", "ledger", "tokenizers"):
            storage.put(storage.join(url, path.relative_to(root).as_posix()), path.read_bytes())
    for path in sorted((root / "tokens/caption").iterdir()):
        storage.put(f"{url}/tokens/caption/{path.name}", path.read_bytes())
    lacking = {one.what for one in check.check(url).broken}  # columns and a run that were not copied
    assert lacking and not any("caption" in what or what.startswith(("labels", "tokenizers")) for what in lacking)
    fs, place = storage.filesystem(f"{url}/tokens/rgb/bad.parquet")
    bucket, key = place.split("/", 1)
    fs.call_s3("create_multipart_upload", Bucket=bucket, Key=key)
    storage.put(f"{url}/labels/det/bad.parquet", b"PAR1")
    monkeypatch.setattr(listing, "YOUNG", -1e9)  # the server's clock is this one's
    checked = check.check(url)
    assert [upload.path for upload in checked.uploads] == ["tokens/rgb/bad.parquet"]
    assert "labels/det/bad.parquet" in {one.what for one in checked.broken}
    removed = check.repair(checked)
    assert {"tokens/rgb/bad.parquet", "labels/det/bad.parquet", "ledger/labels/det/bad.json"} <= set(removed)
    again = check.check(url)
    assert not again.broken and not again.uploads


def test_licences_are_those_that_were_written(copy: Path) -> None:
    (run,) = (copy / "runs").glob("4m/*")
    for path in (run / LICENCES, run / "model" / LICENCES):
        whole, what = path.read_bytes(), str(path.relative_to(copy))
        other = (run / "model" / "sums.json").read_bytes()
        for wrong in (whole.replace(b"images", b"imagez"), whole.replace(b"null", b"true"), whole[:-1], other, b"[]"):
            path.write_bytes(wrong)
            assert broken(copy) == [what], wrong
        said = json.loads(whole)
        path.write_text(json.dumps({name: value for name, value in said.items() if name != "sum"}, indent=1))
        assert broken(copy) == []  # as it was written at first
