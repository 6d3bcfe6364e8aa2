"""Shards that change, move or get company: what is recorded belongs to the bytes that are there."""

from __future__ import annotations

import functools
import http.server
import os
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from fourmill_tests import data
from fourmill_tests.cases import require

from fourmill.tokenize import labels as label_files

TEXT_ONLY = {"modalities": ["rgb", "caption"], "labels__keep": ["caption"], "generate__chains": []}


@pytest.fixture
def web(tmp_path: Path) -> Iterator[tuple[Path, str]]:
    """A folder and its URL on a server without ETags, as `python -m http.server` is one."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    (tmp_path / "web").mkdir()
    handler = functools.partial(Quiet, directory=str(tmp_path / "web"))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield tmp_path / "web", f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_shard_replaced_on_a_web_server_is_made_again(tmp_path: Path, web: tuple[Path, str]) -> None:
    """Another content of the same size, a later Last-Modified: docs say that its outputs are made again."""
    folder, url = web
    (shard,) = data.good_shards(folder, 1, 3)
    old = Path(shard).read_bytes()
    recipe = data.recipe(tmp_path / "out", f"{url}/train-00000.tar", **TEXT_ONLY)
    data.make(recipe, data.outputs(recipe, tokens=False))
    Path(shard).write_bytes(old.replace(b"It was cut out for a test.", b"It was put in for a trick."))
    os.utime(shard, (2_000_000_000, 2_000_000_000))
    _, tasks = data.worker_of(recipe, data.outputs(recipe, tokens=False))
    require(bool(tasks), "the shard has other captions now, and all its outputs count as up to date")


def test_a_second_download_costs_its_own_labels_only(tmp_path: Path) -> None:
    """Every download of img2dataset numbers its shards from 00000 (img2dataset#6), wherever its folder sorts."""
    data.good_shards(tmp_path / "data" / "cc12m", 2, 1)
    recipe = data.recipe(tmp_path / "out", f"{tmp_path}/data/*/*.tar", **TEXT_ONLY)
    outputs = data.outputs(recipe, tokens=False)
    data.make(recipe, outputs)
    data.good_shards(tmp_path / "data" / "aesthetic", 2, 1, first=10)
    _, tasks = data.worker_of(recipe, outputs)
    again = [task.url for task in tasks if "/cc12m/" in task.url]
    require(not again, f"2 shards were added, {len(tasks)} are made; made before: {again}")


def test_shard_overwritten_while_it_is_read_is_made_again(tmp_path: Path) -> None:
    """`cp` or `rsync --inplace` on a shard that is being read: the record must not hold the hash of the new bytes
    for rows of the old ones."""
    (shard,) = data.good_shards(tmp_path / "s", 1, 8)
    old = Path(shard).read_bytes()
    new = old.replace(b"It was cut out for a test.", b"It was put in for a trick.")
    (tmp_path / "new.tar").write_bytes(new)
    overwriting = {
        "specialist": "fourmill_tests.specialists:Overwriting", "key": "000007", "shard": shard,
        "content": str(tmp_path / "new.tar"),
    }  # fmt: skip
    recipe = data.recipe(
        tmp_path / "out", [shard], modalities=["tok_canny_edge", "caption"], labels__keep=["caption", "canny_edge"],
        labels__specialists={"canny_edge": overwriting}, generate__chains=[], engine__batch_size=2,
    )  # fmt: skip
    data.make(recipe, data.outputs(recipe, tokens=False))
    if Path(shard).read_bytes() != new:
        raise RuntimeError("the shard was not overwritten")
    data.make(recipe, data.outputs(recipe, tokens=False))
    _, captions = label_files.read_labels(str(tmp_path / "out/labels/caption/train-00000.parquet"))
    require("for a trick" in captions[0], f"the shard says 'for a trick', the label that counts: {captions[0]!r}")


def test_shard_replaced_after_the_plan_is_made_again(tmp_path: Path) -> None:
    """Planned, and replaced before its turn: labels of the old shard beside pixels of the new one."""
    (shard,) = data.good_shards(tmp_path / "s", 1, 4)
    stored = ["color_palette", "caption"]
    chosen = TEXT_ONLY | {"modalities": ["rgb", *stored], "labels__keep": stored}
    recipe = data.recipe(tmp_path / "out", [shard], **chosen)
    data.fit(recipe)
    data.make(recipe, data.outputs(recipe, tokens=False))
    worker, tasks = data.worker_of(recipe, data.outputs(recipe), stored)
    entries = [(f"{int(name[:6]) - 100:06d}{name[6:]}", content) for name, content in data.good_entries(100, 4)]
    Path(shard).with_suffix(".new").write_bytes(data.tar(entries))
    Path(shard).with_suffix(".new").rename(shard)
    for task in tasks:
        worker.run(task)
    data.make(recipe, data.outputs(recipe), stored)
    clean = data.recipe(tmp_path / "clean", [shard], **chosen)
    for folder in ("tokenizers", "ledger/tokenizers"):
        shutil.copytree(tmp_path / "out" / folder, tmp_path / "clean" / folder)
    data.make(clean, data.outputs(clean))
    ours, right = data.columns(tmp_path / "out"), data.columns(tmp_path / "clean")
    wrong = [name for name in right if ours.get(name) != right[name]]
    require(not wrong, f"not those of a clean run on the new shard, and recorded as right: {wrong}")
