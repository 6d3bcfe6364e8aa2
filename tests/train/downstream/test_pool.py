"""A trained model at work on a cluster: parts that actors make are those that the command makes by itself."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from fourmill_tests.tiny import truth

from fourmill.infra import storage
from fourmill.model.fourm import FourM
from fourmill.pipelines.engine.job import NO_HINTS
from fourmill.pipelines.engine.settings import Engine
from fourmill.project import Project
from fourmill.recipe import Recipe
from fourmill.train.downstream import generation
from fourmill.train.downstream.evaluation import evaluate, made, pooled, table, table_files
from fourmill.train.downstream.evaluation.evaluate import Evaluation
from fourmill.train.downstream.evaluation.job import EvaluateJob
from fourmill.train.downstream.evaluation.table_files import Table
from fourmill.train.downstream.pool import HERE, ModelJob, Where
from fourmill.train.pretrain.weights import load_model

Known = tuple[Path, Recipe]
CHAINS = [
    {"inputs": ["rgb"], "to": [{"target": "tok_depth", "steps": 2}, {"target": "tok_semseg", "steps": 2}]},
    {"inputs": ["tok_depth"], "to": [{"target": "tok_normal", "steps": 2}]},
]


def evaluation(known_root: Known, folder: Path) -> EvaluateJob:
    return Project(truth.copy(known_root, folder, evaluate__ensemble=2)).evaluate_job


def written(of: Table) -> str:
    """The table as its JSON has it."""
    return table_files.files(of)["evaluation.json"].decode()


def no_model(*arguments: object) -> FourM:
    raise AssertionError("all of its answers are there")


def test_answers_of_actors_are_those_of_the_command(
    known_root: Known, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first of two actors is killed after some of its chunks."""
    monkeypatch.setattr(made, "CHUNK", 3)
    alone = evaluation(known_root, tmp_path / "alone")
    expected = written(Evaluation(alone).table())
    job = evaluation(known_root, tmp_path / "pool")
    samples = table.samples_of(job)
    chunks = pooled.missing(job, samples)
    assert len(chunks) > 20 and {one.member for one in chunks.values()} == {0, 1}
    assert {one.start for one in chunks.values()} >= {0, 3, 6}
    for count in (7, len(chunks)):
        worker = pooled.Answers(ModelJob(job, job.generation.run, HERE))
        worker.setup("cpu")
        left = list(pooled.missing(job, samples).values())[:count]
        assert sum(worker.run(one, NO_HINTS) for one in left) == worker.status().samples > 0
    assert pooled.missing(job, samples) == {}
    boxes = {name for name in storage.list_names(storage.join(job.generation.run, "evaluation")) if "boxes" in name}
    assert {name.partition("-")[0] for name in boxes} == {"step", "another", "chain"}, "masks of instances as well"
    monkeypatch.setattr(evaluate, "load_model", no_model)
    found = written(Evaluation(job).table())
    assert re.sub(str(tmp_path / "pool"), str(tmp_path / "alone"), found) == expected


def test_a_chain_of_an_actor_is_that_of_the_command(known_root: Known, tmp_path: Path) -> None:
    jobs = [
        Project(truth.copy(known_root, tmp_path / name, generate__chains=CHAINS, generate__samples=3)).generate_job
        for name in ("alone", "pool")
    ]
    generation.run(jobs[0], load_model)
    worker = generation.Chains(ModelJob(jobs[1], jobs[1].run, HERE))
    worker.setup("cpu")
    assert [worker.run(number, NO_HINTS) for number in (1, 0)] == [3, 3]
    files = [
        {url[len(job.folder) :]: storage.read_bytes(url) for url in storage.list_below(job.folder)} for job in jobs
    ]
    assert files[0] == files[1] and len(files[0]) > 6


def test_without_a_cluster_the_command_works_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    assert not Where().is_cluster and Where(Engine(address="auto")).is_cluster
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:6379")
    assert Where().is_cluster


def test_an_actor_asks_for_room_for_its_model(known_root: Known) -> None:
    job = Project(known_root[1]).generate_job
    asked = ModelJob(job, job.run, HERE).demand(gpu_there=True)
    size = sum(path.stat().st_size for path in Path(job.run, "model").iterdir())
    assert (asked.cpus, asked.gpus, asked.memory) == (1.0, 1.0, 2 * size + 2 * 2**30)
    assert ModelJob(job, job.run, Where(Engine(gpus=0.25))).demand(True).gpus == 0.25
    assert ModelJob(job, job.run, HERE).demand(False).gpus == 0


@pytest.mark.timeout(600)
def test_a_cluster_answers_and_generates(ray_cluster: str, known_root: Known, tmp_path: Path) -> None:
    where = Where(Engine(address=ray_cluster, actors=1))
    job = evaluation(known_root, tmp_path / "pool")
    samples = table.samples_of(job)
    pooled.answer(job, samples, where)
    assert pooled.missing(job, samples) == {}
    recipe = truth.copy(known_root, tmp_path / "out", generate__chains=CHAINS, generate__samples=3)
    project = Project(recipe)
    generation.run(project.generate_job, no_model, where)
    assert project.generated_record() is not None
    assert sorted(storage.list_names(project.generate_job.folder)) == ["chain-0", "chain-1"]
