"""What one actor takes of its node: the most demanding specialist's cores, and the memory of all."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
from fourmill_tests import data

from fourmill.infra import ledger
from fourmill.infra.ledger import Record, Source
from fourmill.pipelines.outputs import Output
from fourmill.pipelines.specialists.base import Specialist
from fourmill.pipelines.worker.job import Job


class Small(Specialist):
    label: ClassVar[str] = "det"
    memory_gb: ClassVar[float] = 0.5


class Large(Specialist):
    label: ClassVar[str] = "depth"
    cpus: ClassVar[float] = 3.0
    gpus: ClassVar[float] = 0.25
    memory_gb: ClassVar[float] = 2.0
    weights: str = "a"
    revision: str = "1"

    def setup_on_node(self) -> None:
        pass


@pytest.fixture
def plain(tmp_path: Path) -> Job:
    """A job without specialists and outputs."""
    job = data.job(data.recipe(tmp_path / "out", data.good_shards(tmp_path / "s", 1, 1)))
    return replace(job, specialists={}, outputs={})


def test_the_most_demanding_specialist_counts(plain: Job) -> None:
    job = replace(plain, specialists={"det": Small(), "depth": Large()})
    there, here = job.demand(True), job.demand(False)
    assert (there.cpus, there.gpus, here.cpus, here.gpus) == (3.0, 0.25, 3.0, 0.0)
    assert there.memory == here.memory == int(2.5 * 2**30)
    assert (plain.demand(True).cpus, plain.demand(True).gpus, plain.demand(True).memory) == (1.0, 0.0, 0)


def test_specialists_of_the_same_weights_share_them(plain: Job) -> None:
    def memory(**other: Any) -> int:
        return replace(plain, specialists={"depth": Large(), "normal": Large(**other)}).demand(True).memory

    assert memory() == 2 * 2**30
    assert memory(weights="b") == memory(revision="2") == 4 * 2**30


def test_tokenizers_take_a_gpu_and_their_files(plain: Job) -> None:
    record = Record("tokenizers", "tok_depth", "f", Source(0, "", ""), 0, 0, [], 1234, "", 0.0)
    ledger.commit(plain.root, record, None)
    texts, grids = (
        replace(plain, outputs={"x": Output("x", "", "f", tokenizers={name: "weights"})})
        for name in ("text", "tok_depth")
    )
    assert (texts.demand(True).gpus, texts.demand(True).memory, texts.uses_torch()) == (0.0, 0, False)
    assert (grids.demand(True).gpus, grids.demand(True).memory, grids.uses_torch()) == (1.0, 1234, True)
    assert grids.demand(False).gpus == 0.0


def test_networks_need_torch_and_what_fetches_is_set_up(plain: Job) -> None:
    job = replace(plain, specialists={"det": Small(), "depth": Large()})
    assert job.uses_torch() and job.node_setups() == [Large()]
    assert not replace(plain, specialists={"det": Small()}).uses_torch()
    assert "(depth 2.0 GiB, det 0.5 GiB)" in job.advice_if_too_large()
