"""A sample that was taken down is nowhere in its root, everything else is as before, and it does not come back."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from fourmill_tests import data, runs
from fourmill_tests.s3 import S3

from fourmill import recipe as recipes
from fourmill.infra import ledger, removals, storage
from fourmill.infra.index import index
from fourmill.modalities import Kind
from fourmill.pipelines import source
from fourmill.pipelines.removal import outputs, removal, seen, tars
from fourmill.pipelines.worker import rows as worker_rows
from fourmill.project import Project
from fourmill.recipe import Recipe
from fourmill.tokenize import store, table_file
from fourmill.train.data.cache import CacheOptions, ColumnCache
from fourmill.verbs.manage import remove

OUTPUTS = ("labels/canny_edge", "labels/caption", "tokens/rgb", "tokens/caption")
PLAIN: dict[str, Any] = {
    "modalities": ["rgb", "caption"],
    "labels__keep": ["canny_edge", "caption"],
    "generate__chains": [],
}


def entries(first: int) -> list[tuple[str, bytes]]:
    """Four samples with a JSON that names their URL and licence."""
    listed = []
    for name, content in data.good_entries(first, 4):
        listed.append((name, content))
        if name.endswith(".txt"):
            key = name.removesuffix(".txt")
            info = {"url": f"https://example.org/{key}.jpg?sig=1", "license": "CC BY 4.0"}
            listed.append((f"{key}.json", json.dumps(info).encode()))
    return listed


def build(root: str, folder: Path) -> Recipe:
    """A root with one shard that lies in it and one elsewhere, labelled and tokenized."""
    (folder / "s").mkdir(exist_ok=True)
    storage.put(storage.join(root, "shards", "inside.tar"), data.tar(entries(0)))
    (folder / "s" / "outside.tar").write_bytes(data.tar(entries(4)))
    urls = [storage.join(root, "shards", "inside.tar"), str(folder / "s" / "outside.tar")]
    recipe = data.recipe(root, urls, **PLAIN)
    data.make(recipe, data.outputs(recipe, tokens=False))
    data.fit(recipe)
    data.make(recipe, data.outputs(recipe, labels=False), stored=["canny_edge", "caption"])
    storage.put(storage.join(root, "recipe.yaml"), recipes.dump(recipe).encode())
    return recipe


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Recipe]:
    folder = tmp_path_factory.mktemp("removal")
    return folder, build(str(folder / "out"), folder)


@pytest.fixture
def root(made: tuple[Path, Recipe], tmp_path: Path) -> str:
    """A copy of the root; its recipe names the copy."""
    copy(str(made[0] / "out"), str(tmp_path / "out"))
    text = (tmp_path / "out" / "recipe.yaml").read_text().replace(f"{made[0]}/out", f"{tmp_path}/out")
    (tmp_path / "out" / "recipe.yaml").write_text(text)
    return str(tmp_path / "out")


def copy(here: str, there: str) -> None:
    for url in storage.list_below(here):
        storage.put(storage.join(there, url[len(here) + 1 :]), storage.read_bytes(url))


def state(root: str) -> dict[str, tuple[list[Any], ...]]:
    """The rows of every output."""
    found = {}
    for output, shard in outputs.places(root):
        if output != ledger.SAMPLES:
            file = table_file.read_footer(ledger.output_url(root, output, shard))
            table: pa.Table = file.read(range(file.parquet.num_row_groups), file.fields)
            found[f"{output}/{shard}"] = tuple(column.to_pylist() for column in table.columns)
    return found


def check(root: str, before: dict[str, tuple[list[Any], ...]], keys: set[str]) -> None:
    """Of these keys there is nothing, all else is as before, and records stand over it."""
    after = state(root)
    assert after.keys() == before.keys()
    for name, (listed, *fields) in after.items():
        old_keys, *old_fields = before[name]
        assert listed == old_keys
        for field, old in zip(fields, old_fields, strict=True):
            assert field == [None if key in keys else value for key, value in zip(listed, old, strict=True)], name
    records = index.read_many(root, [*OUTPUTS, ledger.SAMPLES], ["inside", "outside"], footers=True).entries
    assert len(records) == 10
    for output, shard in records:
        record = ledger.read(root, output, shard)
        assert record is not None
        gone = [one["key"] for one in record.rejects if one["reason"] == "removed"]
        there = {f"{n:06d}" for n in (range(4) if shard == "inside" else range(4, 8))}
        assert set(gone) == keys & there and (output == ledger.SAMPLES or record.nulls == len(gone))
        if output != ledger.SAMPLES:
            assert table_file.content(ledger.read_data(root, record)) == (record.keys, record.content)
    project = Project(recipes.parse(json.loads(json.dumps(_settings(root)))))
    asked = {**project.label_outputs, **project.token_outputs}
    assert project.plan(asked, project.stored_labels).missing == []
    with source.open_shard(storage.join(root, "shards", "inside.tar"), "/tmp") as shard:
        assert [sample.key for sample in shard.samples] == [f"{n:06d}" for n in range(4)]
        for sample in shard.samples:
            sizes = {member.size for member in sample.members.values()}
            assert sizes == {0} if sample.key in keys else 0 not in sizes


def _settings(root: str) -> Any:
    from fourmill.infra import configuration

    return configuration.parse_yaml(storage.read_bytes(storage.join(root, "recipe.yaml")))


def lines(path: Path, *listed: str) -> str:
    path.write_text("\n".join(listed) + "\n")
    return str(path)


def test_keys_and_urls_are_gone_and_the_rest_is_as_before(root: str, tmp_path: Path) -> None:
    before = state(root)
    keys = lines(tmp_path / "keys.txt", "000001", "000006", "no such key")
    urls = lines(tmp_path / "urls.txt", "https://example.org/000002.jpg?sig=1", "https://example.org/nothing.jpg")
    status, out, err = runs.command("remove", root, "--keys", keys, "--urls", urls)
    assert status == 0, err
    check(root, before, {"000001", "000002", "000006"})
    assert "3 samples of 2 shards" in out and "no such key" in out and "outside.tar" in out and "tokenizers/text" in out
    listed = b"".join(storage.read_bytes(url) for url in storage.list_below(storage.join(root, "removed")))
    assert b"example.org" not in listed  # what was to be forgotten is no reminder of itself
    again = {url: storage.read_bytes(url) for url in storage.list_below(root)}
    assert runs.command("remove", root)[0] == 0
    assert {url: storage.read_bytes(url) for url in storage.list_below(root)} == again
    status, out, _ = runs.command("status", root)
    assert "removed for good: 3 keys and 2 URLs (1 samples" in " ".join(out.split())
    status, out, _ = runs.command("check", root)
    assert status == 0, out


def test_a_sample_is_followed_to_its_origin(root: str) -> None:
    status, out, err = runs.command("inspect", root, "--key", "000001", "--json")
    assert status == 0, err
    (place,) = json.loads(out)["provenance"]
    assert (place["shard"], place["row"], place["source"]) == ("inside", 1, f"{root}/shards/inside.tar")
    assert place["url"] == "https://example.org/000001.jpg?sig=1" and place["license"] == "CC BY 4.0"
    assert "000001.jpg (" in place["members"] and len(place["source_sha256"]) == 64
    assert runs.command("inspect", root, "--key", "000001")[0] == 0
    removal.run(root, ["000001"], [], {}, "/tmp")
    shown = json.loads(runs.command("inspect", root, "--key", "000001", "--json")[1])["provenance"][0]
    assert shown["note"] == "it was removed" and "url" not in shown
    status, _, err = runs.command("inspect", root, "--key", "nobody")
    assert status == 2 and "no column and no label of it has the key 'nobody'" in err


def test_a_key_of_two_shards_is_said_to_be_so(root: str) -> None:
    for name in ("labels/caption", "ledger/labels/caption"):
        suffix = "json" if name.startswith("ledger") else "parquet"
        content = storage.read_bytes(storage.join(root, name, f"inside.{suffix}"))
        storage.put(storage.join(root, name, f"again.{suffix}"), content)
    facts = json.loads(runs.command("inspect", root, "--key", "000001", "--json")[1])
    assert {place["shard"] for place in facts["provenance"]} == {"inside", "again"}
    assert facts["notes"][0].startswith("2 shards have this key")


def test_on_s3(made: tuple[Path, Recipe], s3: Any, tmp_path: Path) -> None:
    url = storage.join(s3.bucket("removal"), "out")
    copy(str(made[0] / "out"), url)
    text = storage.read_bytes(storage.join(url, "recipe.yaml")).decode().replace(f"{made[0]}/out", url)
    storage.put(storage.join(url, "recipe.yaml"), text.encode())
    before = state(url)
    fs, _ = storage.filesystem(url)
    fs.call_s3("put_bucket_versioning", Bucket="removal", VersioningConfiguration={"Status": "Enabled"})
    urls = lines(tmp_path / "urls.txt", "https://example.org/000003.jpg?sig=1", "https://example.org/000004.jpg?sig=1")
    status, out, err = runs.command("remove", url, "--urls", urls)
    assert status == 0, err
    assert "the bucket keeps older versions" in out
    check(url, before, {"000003", "000004"})


def test_a_removal_that_is_killed_anywhere_goes_on(root: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """At every write and every deletion, one after the other; then the command without keys."""
    before, first = state(root), {url: storage.read_bytes(url) for url in storage.list_below(root)}
    put, delete = storage.put, storage.delete
    left = 0

    class Killed(BaseException):
        pass

    def counted(call: Any) -> Any:
        def counting(*args: Any, **options: Any) -> Any:
            nonlocal left
            left -= 1
            if left < 0:
                raise Killed
            return call(*args, **options)

        return counting

    shards = {"inside": storage.join(root, "shards", "inside.tar")}
    for kill_at in (0, 1, 2, 3, 4, 5, 8, 12, 100):
        for url in set(storage.list_below(root)) - first.keys():
            delete(url)
        for url, content in first.items():
            put(url, content)
        left = kill_at
        with monkeypatch.context() as patch:
            patch.setattr(storage, "put", counted(put))
            patch.setattr(storage, "delete", counted(delete))
            patch.setattr(outputs, "THREADS", 1)
            try:
                removal.run(root, ["000001", "000005"], [], shards, "/tmp")
            except Killed:
                pass
        if kill_at:  # the list stands after the first write
            removal.run(root, [], [], shards, "/tmp")
        else:
            assert state(root) == before
            continue
        for name, (listed, *fields) in state(root).items():
            for field, old in zip(fields, before[name][1:], strict=True):
                gone = ("000001", "000005")
                assert field == [None if k in gone else v for k, v in zip(listed, old, strict=True)], (kill_at, name)
        assert not _holds(root, "inside", "000001")


def _holds(root: str, shard: str, key: str) -> bool:
    with source.open_shard(storage.join(root, "shards", f"{shard}.tar"), "/tmp") as opened:
        return any(m.size for one in opened.samples if one.key == key for m in one.members.values())


def test_it_does_not_come_back(root: str, made: tuple[Path, Recipe]) -> None:
    """The source elsewhere holds the sample still; everything is made again."""
    removal.run(root, ["000005"], ["https://example.org/000006.jpg?sig=1"], {}, "/tmp")  # no shard was looked at
    recipe = made[1].model_copy(update={"root": root})
    for family in ledger.FAMILIES:
        for url in storage.list_below(storage.join(root, "ledger", family)):
            storage.delete(url)
    records = data.make(recipe, data.outputs(recipe, tokens=False))
    records += data.make(recipe, data.outputs(recipe, labels=False))
    of_shard = [record for record in records if record.shard == "outside"]
    assert len(of_shard) == 4
    for record in of_shard:
        shown = {one["key"]: one["reason"] for one in record.rejects}
        assert shown == {"000005": "removed", "000006": "removed"}
    listed, edges = state(root)["labels/canny_edge/outside"]
    assert [edge is None for edge in edges] == [False, True, True, False] and listed[1] == "000005"


def test_what_is_made_meanwhile_is_made_again(
    root: str, made: tuple[Path, Recipe], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker has read the list; then a removal goes through the root; then the worker commits."""
    commit = worker_rows.commit
    calls = []

    def removing(*args: Any) -> ledger.Record:
        if not calls:
            removals.add(root, ["000004"])
        calls.append(args[2].name)
        return commit(*args)

    monkeypatch.setattr("fourmill.pipelines.worker.shard_worker.commit", removing)
    recipe = made[1].model_copy(update={"root": root})
    storage.delete(ledger.record_url(root, "labels/caption", "outside"))
    asked = {"labels/caption": data.outputs(recipe, tokens=False)["labels/caption"]}
    records = {record.shard: record for record in data.make(recipe, asked)}
    assert records["outside"].rejects == [{"key": "000004", "reason": "removed"}]
    assert state(root)["labels/caption/outside"][1][0] is None


def test_pages_and_generations_that_show_it_are_deleted(root: str) -> None:
    run = storage.join(root, "runs", "4m", "0123")
    for print_, key in (("aa", "000001"), ("bb", "000003")):
        samples = {"samples": [{"shard": "inside", "key": key, "row": 1}]}
        folder = storage.join(run, "generated", print_)
        storage.put(storage.join(folder, "chain-0", "samples.json"), json.dumps(samples).encode())
        storage.put(storage.join(folder, "chain-0", "tok_rgb", "0000.png"), b"picture")
        storage.put(ledger.record_url(root, "generated/4m", print_), b"{}")
    spec = store.ColumnSpec("caption", Kind.SEQUENCE, 1, 8, 100)
    for chunk, keys in enumerate((["inside/000001", "inside/000002/1"], ["inside/000002", "outside/000001"])):
        content = store.encode_column(spec, keys, [None, None])
        storage.put(storage.join(run, "evaluation", "q-1", "caption", f"0-{chunk}.parquet"), content)
    storage.put(storage.join(root, "gallery.html"), b"<p>000001")
    storage.put(storage.join(root, "reports", "evaluation.json"), b'{"worst": ["000001"]}')
    storage.put(storage.join(root, "reports", "likelihoods.json"), b'{"worst": ["000003"]}')
    storage.put(storage.join(root, "shards", "inside_stats.json"), b'{"failed": "000001"}')
    outcome = removal.run(root, ["000001"], [], {}, "/tmp")
    left = {url[len(root) + 1 :] for url in storage.list_below(root)}
    assert "gallery.html" not in left and "reports/evaluation.json" not in left and "reports/likelihoods.json" in left
    answers = {name for name in left if "/evaluation/" in name}
    assert answers == {"runs/4m/0123/evaluation/q-1/caption/0-1.parquet"}
    assert not any("/aa/" in name or name.endswith("/aa.json") for name in left)
    assert {"runs/4m/0123/generated/bb/chain-0/tok_rgb/0000.png", "ledger/generated/4m/bb.json"} <= left
    assert outcome.naming == [storage.join(root, "shards", "inside_stats.json")]
    assert outcome.models == seen.Models(["tokenizers/text"], ["runs/4m/0123"])


def test_models_are_named_by_the_shards_that_they_have_seen(root: str) -> None:
    said = {"4m/ab": ["inside"], "4m/cd": ["outside"], "other/ef": ["outside"], "fit-tok_rgb/ab": ["inside", "outside"]}
    for run, shards in said.items():
        seen.note(storage.join(root, "runs", run), shards)
    text = ledger.read(root, "tokenizers", "text")
    assert text is not None and text.identity["shards"] == ["inside", "outside"]
    # Of a release that did not write it down; of one whose tokens are of a tokenizer that has seen the shard.
    storage.put(storage.join(root, "runs", "4m", "old", "recipe.yaml"), b"{}")
    storage.put(
        storage.join(root, "runs", "other", "ef", "tokenizers.json"), json.dumps({"text": text.sha256}).encode()
    )
    outcome = removal.run(root, ["000001"], [], {}, "/tmp")
    runs_ = ["runs/4m/ab", "runs/fit-tok_rgb/ab", "runs/other/ef (by the tokens of text)"]
    assert outcome.models == seen.Models(["tokenizers/text", *runs_], ["runs/4m/old"])
    lines = "\n".join(remove.said(root, outcome))
    assert "have seen their shards, and keep what they learned: fit and train again without them: tokenizers/t" in lines
    assert "did not write down what they read, and keep what they learned: fit and train again without them" in lines


def test_a_damaged_note_of_what_a_run_saw_says_nothing(root: str) -> None:
    storage.put(storage.join(root, "runs", "4m", "ab", seen.FILE), b'{"shards": "outside"')
    assert "runs/4m/ab" in removal.run(root, ["000001"], [], {}, "/tmp").models.may_have_seen


def test_machines_forget_the_columns_of_the_root(s3: S3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = f"{s3.bucket('removal-cache')}/out"
    storage.put(f"{root}/recipe.yaml", json.dumps({"train": {"cache": {"folder": str(tmp_path)}}}).encode())
    kept, other = (ColumnCache(f"{one}/tokens", CacheOptions(str(tmp_path))) for one in (root, f"{root}2"))
    for one in (kept, other):
        one.put("a", b"a")
    (tmp_path / "keys").write_text("000001\n")
    status, out, err = runs.command("remove", root, "--keys", str(tmp_path / "keys"))
    assert status == 0, err
    assert kept.get("a") is None and other.get("a") == b"a"
    assert f"deleted, kept on this machine for training: {tmp_path}/fourmill-columns/removal-cache-out-tokens-" in out
    assert "other machines that trained on it may keep its columns" in out


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_tars_keep_every_other_byte(form: int) -> None:
    long = "f" * 120 if form != tarfile.USTAR_FORMAT else "f" * 90
    names = [
        f"{long}.jpg",
        f"{long}.txt",
        "a.jpg",
        "a.txt",
        "a.jpg",
        "a2.b.jpg",
        "a2.b.txt",
        "c.jpg",
        "./d/e.depth.npy",
        "d/e.jpg",
    ]
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=form) as archive:
        for number, name in enumerate(names):
            info = tarfile.TarInfo(name)
            info.size, info.mtime = 700 + number, 12345 + number
            archive.addfile(info, io.BytesIO(bytes([number + 1]) * info.size))
    shown, has_some = tars.without(buffer.getvalue(), {"a", "a2", long, "d/e"})
    with tarfile.open(fileobj=io.BytesIO(shown)) as archive:
        listed = [(info.name, archive.extractfile(info).read()) for info in archive]  # type: ignore[union-attr]
    assert has_some and [name for name, _ in listed] == names
    for number, (name, content) in enumerate(listed):
        assert content == (bytes([number + 1]) * (700 + number) if name in ("a2.b.jpg", "a2.b.txt", "c.jpg") else b"")
    assert tars.without(shown, {"a", "a2", long, "d/e"}) == (shown, True)
    assert tars.without(shown, {"z"}) == (shown, False)


def test_a_damaged_list_is_not_taken_for_an_empty_one(root: str) -> None:
    storage.put(storage.join(root, "removed", "x.json"), b'{"keys": [')
    with pytest.raises(ValueError, match=r"x\.json is damaged"):
        removals.read(root)


def test_files_of_the_first_release_are_reached() -> None:
    known = Path(__file__).parents[1] / "roots" / "e78cebb" / "out"
    for path in sorted(known.glob("*/*/train-00000.parquet")):
        content = path.read_bytes()
        same, lost = table_file.nulled(content, ())
        file, first = table_file.read_footer(content), table_file.read_footer(same)
        groups = range(file.parquet.num_row_groups)
        assert lost == 0 and first.read(groups, file.fields).equals(file.read(groups, file.fields))
        key = file.read(groups, ["key"]).column("key")[0].as_py()
        table = table_file.read_footer(table_file.nulled(content, {key})[0]).read(groups, file.fields)
        assert [table.column(name)[0].as_py() for name in file.fields if name != "key"] == [None] * (
            len(file.fields) - 1
        )
        assert table.slice(1).equals(file.read(groups, file.fields).slice(1))
