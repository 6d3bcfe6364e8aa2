"""The law of batches: which samples a specialist or tokenizer sees together depends on the shard and the recipe alone,
and not on retries, on what is made already, or on what else is asked for."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from fourmill_tests import data
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fourmill.pipelines.engine.job import Hints, PlaceError
from fourmill.pipelines.plan import ShardTask
from fourmill.pipelines.specialists.base import Item
from fourmill.pipelines.specialists.classical.canny import Canny
from fourmill.pipelines.specialists.classical.palette import Palette
from fourmill.pipelines.worker import isolate
from fourmill.pipelines.worker.shard_worker import ShardWorker
from fourmill.project import Project
from fourmill.tokenize.codecs import Codec

ROOTS = itertools.count()
WHOLE: dict[str, list[tuple[str, ...]]] = {}  # undisturbed, all outputs
SEEN: dict[str, list[tuple[str, ...]]] = {}
OUTAGES: set[int] = set()  # calls of `note` that fail for a reason of the place


def note(name: str, keys: Sequence[str]) -> None:
    count = SEEN.setdefault("calls", [])
    count.append(())
    if len(count) in OUTAGES:
        raise ConnectionError("reset")
    SEEN.setdefault(name, []).append(tuple(keys))


class NotedCanny(Canny):
    batch_size = 3

    def __call__(self, items: Sequence[Item]) -> list[Any]:
        note("canny_edge", [item.key for item in items])
        return super().__call__(items)


class NotedPalette(Palette):
    batch_size = 5

    def __call__(self, items: Sequence[Item]) -> list[Any]:
        note("color_palette", [item.key for item in items])
        return super().__call__(items)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    folder = tmp_path_factory.mktemp("batches")
    (folder / "bad.tar").write_bytes(data.tar(data.bad_entries()))
    names = {"canny_edge": f"{__name__}:NotedCanny", "color_palette": f"{__name__}:NotedPalette"}
    return Project(
        data.recipe(
            folder / "out", [str(folder / "bad.tar")], modalities=["rgb"], generate__chains=[], engine__batch_size=8,
            labels__keep=["canny_edge", "color_palette", "caption"],
            labels__specialists={label: {"specialist": place} for label, place in names.items()},
        )
    )  # fmt: skip


@pytest.fixture(scope="module")
def task(project: Project) -> ShardTask:
    return project.plan({**project.label_outputs, **project.token_outputs}).missing[0]


def batches(project: Project, task: ShardTask, threads: int = 2) -> dict[str, list[tuple[str, ...]]]:
    """What each specialist and codec saw together, of the attempt that was kept."""
    job = project.shard_job(project.specialists, {**project.label_outputs, **project.token_outputs})
    engine = job.engine.model_copy(update={"decode_threads": threads})
    job = replace(job, engine=engine, root=f"{job.root}-{next(ROOTS)}")  # what is committed is not made again
    hints = Hints()
    while True:
        SEEN.update({name: [] for name in SEEN if name != "calls"})
        worker = ShardWorker(job)
        worker.setup("cpu")
        try:
            worker.run(task, hints)
            # Not in order: while a batch is tried again, the next one is with the specialist already.
            return {name: sorted(of) for name, of in SEEN.items() if name != "calls"}
        except PlaceError as error:
            hints = Hints(hints.suspects | error.suspects)


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data_=st.data(), outages=st.sets(st.integers(1, 12), max_size=5), threads=st.integers(1, 4))
def test_batches_depend_on_the_shard_and_the_recipe(
    monkeypatch: pytest.MonkeyPatch, project: Project, task: ShardTask, data_: st.DataObject, outages: set[int],
    threads: int,
) -> None:  # fmt: skip
    with monkeypatch.context() as patch:
        patch.setattr(isolate, "WAIT_SECONDS", 0.0)
        encode = Codec.encode

        def noted(codec: Codec, samples: Sequence[Any]) -> list[Any]:
            note(codec.spec.name, [sample.key for sample in samples])
            return encode(codec, samples)

        patch.setattr(Codec, "encode", noted)
        if not WHOLE:
            SEEN.clear()
            OUTAGES.clear()
            WHOLE.update(batches(project, task))
        whole = WHOLE
        assert {len(keys) for keys in whole["canny_edge"]} > {3} and len(whole["rgb"]) == 3
        asked = data_.draw(st.lists(st.sampled_from(task.outputs), min_size=1, unique=True))
        SEEN.clear()
        OUTAGES.update(outages)
        part = batches(project, replace(task, outputs=tuple(asked)), threads)
    assert part == {name: whole[name] for name in part}
