"""Labels, tokens and a training on S3 behind a proxy that refuses, cuts, forgets and answers late, at random by seed.

benchmarks/trials/chaos.py is the large form, with Ray, fits and kills.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from fourmill_tests import data, runs, training
from fourmill_tests.engine import inline
from fourmill_tests.s3 import S3

from fourmill import recipe as recipes
from fourmill.infra import remote, storage
from fourmill.project import Project
from fourmill.recipe import Recipe
from fourmill.verbs.make import label, tokenize

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))

from servers import proxy

RATE = 0.07
MADE = ("labels", "tokens", "tokenizers", "ledger/labels", "ledger/tokens")


@pytest.fixture(scope="module", autouse=True)
def quick() -> Iterator[None]:
    """A store that answers late does so soon, and pauses are short."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(proxy, "SLOW_SECONDS", 0.2)
        patch.setattr(remote, "LONGEST_WAIT", 0.2)
        inline(patch)
        yield


@contextmanager
def disturbed(seed: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[proxy.Faults]:
    """Until the end of the block, this process reaches S3 through the proxy."""
    direct, faults = os.environ["AWS_ENDPOINT_URL"], proxy.Faults(seed, RATE, endless=0)
    server = proxy.serve(int(direct.rpartition(":")[2]), faults)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.server_port}")
    storage.reconnect()
    try:
        yield faults
    finally:
        monkeypatch.setenv("AWS_ENDPOINT_URL", direct)
        storage.reconnect()
        server.shutdown()
        server.server_close()
        thread.join()


def made(root: str) -> dict[str, bytes]:
    """Labels, tokens, vocabulary and trained model of a root by name; of records the names alone."""
    fs, path = storage.filesystem(root)
    names = [name for folder in MADE for name in fs.find(f"{path}/{folder}")]
    names += [name for name in fs.find(f"{path}/runs/4m") if name.endswith("/model/model.safetensors")]
    return {name.removeprefix(f"{path}/"): b"" if name.endswith(".json") else fs.cat_file(name) for name in names}


def settings(bucket: str, root: str) -> dict[str, Any]:
    """The recipe of three shards in a bucket, one of them with bad samples."""
    shards = [f"{bucket}/s/{name}" for name in ("train-00000.tar", "train-00001.tar", "bad.tar")]
    return data.settings(
        root, shards, modalities=["rgb", "color_palette"], labels__keep=["canny_edge", "color_palette", "caption"],
        generate__chains=[], train__steps=6, train__warmup_steps=1, train__checkpoint_every=2,
        train__validate_every=6,
    )  # fmt: skip


def make(recipe: Recipe) -> None:
    """Labels, the vocabulary, tokens, a model; in this process."""
    assert label.make(Project(recipe)).complete
    data.fit(recipe)
    assert tokenize.make(Project(recipe)).complete
    training.train(Project(recipe).train_job)


@pytest.fixture(scope="module")
def undisturbed(s3: S3, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The bucket with the shards, and a root that is made without the proxy."""
    bucket = s3.bucket("bad-days")
    paths = [Path(path) for path in data.good_shards(tmp_path_factory.mktemp("shards"), 2, 4)]
    contents = {path.name: path.read_bytes() for path in paths} | {"bad.tar": data.tar(data.bad_entries())}
    for name, content in contents.items():
        storage.put(f"{bucket}/s/{name}", content)
    make(recipes.parse(settings(bucket, f"{bucket}/undisturbed")))
    return bucket


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_bad_day_changes_nothing(undisturbed: str, seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    bad = recipes.parse(settings(undisturbed, f"{undisturbed}/bad-{seed}"))
    with disturbed(seed, monkeypatch) as faults:
        make(bad)
    happened = {kind: faults.count[kind] for kind in proxy.KINDS if faults.count[kind]}
    assert len(happened) > 2, happened
    expected = made(f"{undisturbed}/undisturbed")
    assert any(name.startswith("runs/4m/") for name in expected) and made(bad.root) == expected
    status, out, err = runs.command("check", bad.root)
    assert status == 0, out + err
