"""A shard worker that dies leaves chunks; with them the shard is made as if nothing had happened."""

from __future__ import annotations

import itertools
import shutil
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fourmill_tests import data
from fourmill_tests.engine import Dead, inline
from fourmill_tests.small import SmallRoot
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fourmill.infra import ledger, removals, storage, versions
from fourmill.infra.ledger import Record
from fourmill.pipelines import chunk_files, source
from fourmill.pipelines.borders import photo
from fourmill.pipelines.engine.job import HandedBack, Hints, PlaceError
from fourmill.pipelines.outputs import Output
from fourmill.pipelines.plan import ShardTask
from fourmill.pipelines.specialists.base import Item
from fourmill.pipelines.specialists.classical.canny import Canny
from fourmill.pipelines.worker import chunks
from fourmill.pipelines.worker.chunks import Chunks, Part
from fourmill.pipelines.worker.job import Job
from fourmill.pipelines.worker.reject_run import RejectRun
from fourmill.pipelines.worker.sample import LabelledSample
from fourmill.pipelines.worker.shard_worker import ShardWorker
from fourmill.project import Project
from fourmill.recipe import Recipe
from fourmill.tokenize import store
from fourmill.verbs.make import label

ROOTS = itertools.count()
NAMES = {"labels/depth": "depth", "tokens/tok_depth": "depth", "labels/rgb": "rgb"}


SEEN: Counter[str] = Counter()  # keys that the specialist of edges was asked for


@pytest.fixture(autouse=True)
def noted(monkeypatch: pytest.MonkeyPatch) -> None:
    call = Canny.__call__

    def noted_call(specialist: Canny, items: Sequence[Item]) -> list[Any]:
        SEEN.update(item.key for item in items)
        return call(specialist, items)

    monkeypatch.setattr(Canny, "__call__", noted_call)


OUTPUTS = ("samples", "labels/canny_edge", "labels/caption", "tokens/rgb", "tokens/caption", "tokens/tok_canny_edge")


class Shard:
    """The shard of bad samples, to be made in roots of its own. columns, records: of one that was made at once."""

    def __init__(self, small: SmallRoot, folder: Path) -> None:
        self.small, self.folder = small, folder
        self.recipe = data.recipe(folder / "plain", [small.recipe.samples.train[1]])
        self._tokenizers(folder / "plain")
        project = Project(self.recipe)
        outputs = project.label_outputs | project.token_outputs
        self.outputs = {name: outputs[name] for name in OUTPUTS}
        self.job = project.shard_job(project.specialists, self.outputs)
        (self.task,) = project.plan(self.outputs).missing
        self.records = {record.output: record for record in self.worker(self.job).run(self.task)}
        self.columns = data.columns(folder / "plain")

    def _tokenizers(self, root: Path) -> None:
        for name in ("tokenizers", "ledger/tokenizers"):
            shutil.copytree(self.small.root / name, root / name)

    def worker(self, job: Job) -> ShardWorker:
        worker = ShardWorker(job)
        worker.setup("cpu")
        return worker

    def another(self, seconds: float = 0.0, **engine: Any) -> Job:
        """A job in a new root, which keeps a chunk after so many seconds."""
        root = self.folder / f"root-{next(ROOTS)}"
        self._tokenizers(root)
        options = self.job.engine.model_copy(update={"chunk_seconds": seconds, **engine})
        return replace(self.job, root=str(root), engine=options)

    def same(self, job: Job, records: list[Record]) -> bool:
        """Whether a job made what was made at once, with the same rejects, and left nothing else."""
        rejects = {record.output: record.rejects for record in records}
        assert rejects == {name: record.rejects for name, record in self.records.items()}
        assert not Path(job.root, "chunks").exists() or not list(Path(job.root, "chunks").iterdir())
        return data.columns(job.root) == self.columns


@pytest.fixture(scope="module")
def shard(small_root: SmallRoot, tmp_path_factory: pytest.TempPathFactory) -> Shard:
    return Shard(small_root, tmp_path_factory.mktemp("chunks"))


def chunks_of(job: Job) -> list[chunk_files.Place]:
    return chunk_files.of_shard(job.root, "bad")


class Deaths:
    """Counts what is done, and dies at one count: of specialists before they begin, of writes before or after."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.count, self.dies = 0, -1
        put, call = storage.put, Canny.__call__

        def dying_put(url: str, content: bytes, *, if_absent: bool = False) -> storage.Stat | None:
            self._step()
            done = put(url, content, if_absent=if_absent)
            self._step()
            return done

        def dying_call(specialist: Canny, items: Sequence[Item]) -> list[Any]:
            self._step()
            return call(specialist, items)

        monkeypatch.setattr(storage, "put", dying_put)
        monkeypatch.setattr(Canny, "__call__", dying_call)

    def _step(self) -> None:
        self.count += 1
        if self.count == self.dies:
            raise Dead


def until_done(shard: Shard, job: Job, deaths: Deaths, steps: Sequence[int]) -> list[Record]:
    """Workers that die after so many steps each, and a last one that does not."""
    for step in (*steps, -1):
        deaths.count, deaths.dies = 0, step
        try:
            records = shard.worker(job).run(shard.task)
        except Dead:
            continue
        return records
    raise AssertionError


@settings(max_examples=6, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=st.lists(st.integers(1, 40), min_size=1, max_size=3), window=st.sampled_from([1, 2]))
def test_what_was_killed_is_made_as_if_it_had_not_been(
    monkeypatch: pytest.MonkeyPatch, shard: Shard, steps: list[int], window: int
) -> None:
    with monkeypatch.context() as patch:
        job, deaths = shard.another(window=window), Deaths(patch)
        records = until_done(shard, job, deaths, steps)
    made = {record.output for record in records}
    there = [ledger.read(job.root, name, "bad") for name in OUTPUTS if name not in made]
    assert shard.same(job, records + [record for record in there if record is not None])


def test_samples_of_chunks_are_not_looked_at_again(monkeypatch: pytest.MonkeyPatch, shard: Shard) -> None:
    job, decode, decoded = shard.another(), photo.decode, Counter[bytes]()

    def counted(encoded: bytes, *rest: Any) -> Any:
        decoded[encoded] += 1
        return decode(encoded, *rest)

    monkeypatch.setattr(photo, "decode", counted)
    with monkeypatch.context() as patch:
        deaths = Deaths(patch)
        deaths.dies = 16
        with pytest.raises(Dead):
            shard.worker(job).run(shard.task)
    kept = chunk_files.rows_of(chunks_of(job))
    assert 4 <= kept < 24 and kept % 4 == 0
    seen, before = Counter(SEEN), Counter(decoded)
    assert shard.same(job, shard.worker(job).run(shard.task))
    assert not (SEEN - seen).keys() & set(data.BAD_KEYS[:kept])
    assert sum((decoded - before).values()) <= 24 - kept


def test_a_worker_whose_node_leaves_hands_its_shard_back(monkeypatch: pytest.MonkeyPatch, shard: Shard) -> None:
    job, call = shard.another(120.0), Canny.__call__
    worker, another = shard.worker(job), shard.worker(job)

    def noticed(specialist: Canny, items: Sequence[Item]) -> list[Any]:
        worker.hand_back()
        return call(specialist, items)

    with monkeypatch.context() as patch:
        patch.setattr(Canny, "__call__", noticed)
        with pytest.raises(HandedBack):
            worker.run(shard.task)
    kept = chunk_files.rows_of(chunks_of(job))
    assert 0 < kept < 24  # though the next chunk was two minutes away
    with pytest.raises(HandedBack):  # nothing more is begun there
        worker.run(shard.task)
    assert chunk_files.rows_of(chunks_of(job)) == kept
    assert shard.same(job, another.run(shard.task))


def test_quick_shards_write_nothing_but_their_outputs(monkeypatch: pytest.MonkeyPatch, shard: Shard) -> None:
    job, written, put = shard.another(120.0), list[str](), storage.put

    def noted(url: str, content: bytes, *, if_absent: bool = False) -> storage.Stat | None:
        written.append(url)
        return put(url, content, if_absent=if_absent)

    monkeypatch.setattr(storage, "put", noted)
    assert shard.same(job, shard.worker(job).run(shard.task))
    assert len(written) == 2 * len(OUTPUTS) - 1  # a file and a record of each, of samples a record


def killed(monkeypatch: pytest.MonkeyPatch, shard: Shard, job: Job, dies: int = 30) -> None:
    """Leave chunks."""
    with monkeypatch.context() as patch:
        deaths = Deaths(patch)
        deaths.dies = dies
        with pytest.raises(Dead):
            shard.worker(job).run(shard.task)
    assert chunks_of(job)


def is_taken(shard: Shard, job: Job, task: ShardTask | None = None) -> bool:
    """Whether the first samples come out of chunks."""
    before = Counter(SEEN)
    shard.worker(job).run(task or shard.task)
    return not (SEEN - before)["good"]


def engine(job: Job, **options: Any) -> Job:
    return replace(job, engine=job.engine.model_copy(update=options))


def outputs(job: Job, change: Callable[[Output], Output]) -> Job:
    return replace(job, outputs={name: change(output) for name, output in job.outputs.items()})


def newer(part: versions.Part) -> versions.Part:
    return replace(part, version=part.version + 1)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda job: job, True),
        (lambda job: engine(job, decode_threads=5, chunk_seconds=9.0), True),
        (lambda job: engine(job, batch_size=8), False),
        (lambda job: engine(job, window=3), False),
        (lambda job: replace(job, doubted=frozenset({"depth"})), True),
        (lambda job: replace(job, doubted=frozenset({"canny_edge"})), False),  # its first rows have rejects
        (lambda job: outputs(job, lambda o: replace(o, fingerprint="0123")), False),
        (lambda job: outputs(job, lambda o: replace(o, parts=tuple(newer(p) for p in o.parts))), False),
    ],
)  # fmt: skip
def test_chunks_are_of_what_is_asked_for(
    monkeypatch: pytest.MonkeyPatch, shard: Shard, change: Callable[[Job], Job], expected: bool
) -> None:
    job = shard.another()
    killed(monkeypatch, shard, job)
    assert is_taken(shard, change(job)) == expected
    assert not chunks_of(job)  # nor those that nobody takes, once the shard is done


def test_chunks_of_more_outputs_serve_fewer(monkeypatch: pytest.MonkeyPatch, shard: Shard) -> None:
    """Another job has made some of them meanwhile."""
    job = shard.another()
    killed(monkeypatch, shard, job)
    fewer = replace(shard.task, outputs=("samples", "labels/canny_edge"))
    assert is_taken(shard, job, fewer)
    assert {name: shard.columns[name] for name in data.columns(job.root)} == data.columns(job.root)


def test_chunks_of_another_source_are_not_taken(monkeypatch: pytest.MonkeyPatch, shard: Shard, tmp_path: Path) -> None:
    """Its bytes count, not its place."""
    moved, whole = tmp_path / "bad.tar", Path(shard.task.url).read_bytes()
    for content, expected in ((whole, True), (whole + bytes(512), False)):
        job = shard.another()
        killed(monkeypatch, shard, job)
        moved.write_bytes(content)
        assert is_taken(shard, job, replace(shard.task, url=str(moved))) == expected


def test_what_was_removed_does_not_come_back_by_a_chunk(monkeypatch: pytest.MonkeyPatch, shard: Shard) -> None:
    job = shard.another()
    killed(monkeypatch, shard, job)
    removals.add(job.root, ["good"])
    records = {record.output: record for record in shard.worker(job).run(shard.task)}
    assert records["tokens/rgb"].rejects[0] == {"key": "good", "reason": "removed"}
    assert not store.read(f"{job.root}/tokens/rgb/bad.parquet").valid[0]


def test_rows_of_a_shard_that_changes_are_not_kept(
    monkeypatch: pytest.MonkeyPatch, shard: Shard, tmp_path: Path
) -> None:
    job, path = shard.another(), tmp_path / "bad.tar"
    path.write_bytes(Path(shard.task.url).read_bytes())
    keep = Chunks.keep

    def keep_later(self: Chunks, parts: Sequence[Part]) -> None:
        path.write_bytes(path.read_bytes() + bytes(512))
        keep(self, parts)

    monkeypatch.setattr(Chunks, "keep", keep_later)
    with pytest.raises(source.Changed):
        shard.worker(job).run(replace(shard.task, url=str(path)))
    assert not chunks_of(job)


@pytest.mark.parametrize("how", ["cut", "changed", "renamed", "another's"])
def test_a_damaged_chunk_is_made_again(monkeypatch: pytest.MonkeyPatch, shard: Shard, how: str) -> None:
    job = shard.another()
    killed(monkeypatch, shard, job)
    first, second = (Path(job.root, place.path) for place in chunks_of(job)[:2])
    content = first.read_bytes()
    match how:
        case "cut":
            first.write_bytes(content[: len(content) // 2])
        case "changed":
            first.write_bytes(content[:40] + bytes([content[40] ^ 4]) + content[41:])
        case "renamed":
            second.unlink()
            first.rename(first.with_name(second.name[:13] + first.name[13:]))
        case _:
            first.write_bytes(second.read_bytes())
    assert shard.same(job, shard.worker(job).run(shard.task))


def test_two_workers_at_one_shard_do_no_harm(monkeypatch: pytest.MonkeyPatch, shard: Shard) -> None:
    """One was thought dead: each writes chunks of other bounds, one finishes while the other one is at work."""
    job = shard.another()
    killed(monkeypatch, shard, job, 24)
    slow = replace(job, engine=job.engine.model_copy(update={"chunk_seconds": 1e-9}))
    make, other = ShardWorker._make, [shard.worker(job)]

    def made(self: ShardWorker, *arguments: Any) -> None:
        make(self, *arguments)
        if other:
            other.pop().run(shard.task)

    monkeypatch.setattr(ShardWorker, "_make", made)
    assert shard.same(job, shard.worker(slow).run(shard.task))


class Odd(Canny):
    """Fails at some samples for a reason that no table knows."""

    odd: tuple[str, ...] = ()

    def __call__(self, items: Sequence[Item]) -> list[Any]:
        if found := [item.key for item in items if item.key in self.odd]:
            raise RuntimeError(f"this sample only, {found[0]}")
        return super().__call__(items)


def of_odd(tmp_path: Path, odd: list[str], count: int = 24, **changes: Any) -> Recipe:
    options = {"labels__specialists": {"canny_edge": {"specialist": f"{__name__}:Odd", "odd": odd}}} | changes
    return data.recipe(
        tmp_path / "out", data.good_shards(tmp_path / "s", 1, count), modalities=["rgb"], labels__keep=["canny_edge"],
        generate__chains=[], engine__chunk_seconds=0.0, **options,
    )  # fmt: skip


@pytest.mark.parametrize("odd", [["000009"], ["000008", "000009", "000010", "000011"]])
def test_a_suspect_costs_the_next_actor_its_batch_alone(tmp_path: Path, odd: list[str]) -> None:
    recipe = of_odd(tmp_path, odd)
    worker, (task,) = data.worker_of(recipe, data.outputs(recipe))
    with pytest.raises(PlaceError) as raised:
        worker.run(task)
    assert chunk_files.rows_of(chunk_files.of_shard(recipe.root, "train-00000")) == 20
    before, (next_worker, _) = Counter(SEEN), data.worker_of(recipe, data.outputs(recipe))
    records = {r.output: r for r in next_worker.run(task, Hints(raised.value.suspects))}
    assert [reject["key"] for reject in records["labels/canny_edge"].rejects] == odd
    of_batch, others = ({f"{i:06d}" for i in range(start, start + 4)} for start in (8, 0))
    # Where all of the batch fail, others show that it is the samples.
    assert (SEEN - before).keys() <= of_batch | (others if len(odd) > 1 else set())


def test_rejects_that_stopped_a_job_are_looked_at_again(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Chunks hold some of them: once the cause is gone they are made again, as records are."""
    marker = tmp_path / "mended"
    refusing = {"specialist": "fourmill_tests.specialists:Refusing", "marker": str(marker)}
    recipe = of_odd(tmp_path, [], 12, labels__specialists={"canny_edge": refusing}, engine__max_reject_run=10)
    inline(monkeypatch)
    with pytest.raises(RejectRun):
        label.make(Project(recipe))
    assert chunk_files.of_shard(recipe.root, "train-00000")
    marker.touch()
    summary = label.make(Project(recipe))
    assert summary.complete and not summary.rejects


def test_records_say_of_all_machines_and_seconds(monkeypatch: pytest.MonkeyPatch, shard: Shard) -> None:
    job = shard.another()
    with monkeypatch.context() as patch:
        deaths, worker = Deaths(patch), shard.worker(job)
        worker._by["host"] = "another machine"
        deaths.dies = 16
        with pytest.raises(Dead):
            worker.run(shard.task)
    for record in shard.worker(job).run(shard.task):
        assert record.made["host"].startswith("another machine; ") and record.seconds > 0


def test_values_of_sensors_are_looked_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many outputs come from them."""
    monkeypatch.setitem(chunks.SENSORS, "depth", None)
    looked: list[str] = []
    monkeypatch.setattr(chunks.Seen, "add", lambda seen, label, value, unit: looked.append(value))
    outputs = {name: Output(name, label, "print") for name, label in NAMES.items()}
    part = Part.begin(0, outputs)
    samples = [LabelledSample(Item(key, None, None, labels={"depth": key, "rgb": key})) for key in "ab"]
    part.look(outputs, [*samples, LabelledSample(Item("c", None, None))])
    assert looked == ["a", "b"]
    assert part.rows["labels/depth"].seen is part.rows["tokens/tok_depth"].seen is not part.rows["labels/rgb"].seen
