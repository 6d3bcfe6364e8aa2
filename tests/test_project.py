"""A project looks at each thing once; versions of code stand beside fingerprints and remake nothing by themselves."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
from fourmill_tests import data

from fourmill.infra import ledger, storage
from fourmill.infra.fields import Section
from fourmill.infra.fingerprint import hashed
from fourmill.pipelines import plan as plans
from fourmill.pipelines import source
from fourmill.pipelines.specialists import registry
from fourmill.pipelines.specialists.classical.canny import Canny
from fourmill.pipelines.specialists.text.captions import Captions
from fourmill.project import Project
from fourmill.recipe import Recipe, RecipeError

PLAIN: dict[str, Any] = {"modalities": ["rgb"], "labels__keep": ["caption"], "generate__chains": []}


@pytest.fixture
def recipe(tmp_path: Path) -> Recipe:
    return data.recipe(tmp_path / "out", data.good_shards(tmp_path / "s", 2, 2), **PLAIN)


def everything(project: Project) -> dict[str, Any]:
    return {**project.label_outputs, **project.token_outputs}


def test_each_thing_is_looked_at_once(recipe: Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    data.make(recipe, data.outputs(recipe))
    calls: Counter[str] = Counter()

    def counted(module: Any, name: str) -> None:
        function = getattr(module, name)

        def counting(*args: Any, **options: Any) -> Any:
            calls[name] += 1
            return function(*args, **options)

        monkeypatch.setattr(module, name, counting)

    counted(source, "expand")
    counted(registry, "build")
    counted(ledger, "parse")
    counted(storage, "stat")
    project = Project(recipe)
    for _ in range(3):
        assert not project.plan(everything(project), project.stored_labels).missing
        assert project.columns.shards["train"]
    outputs = len(everything(project))
    assert calls == {"expand": 1, "build": 1, "parse": 2 * outputs, "stat": 2}


def test_refresh_sees_a_shard_that_changed(recipe: Recipe) -> None:
    data.make(recipe, data.outputs(recipe))
    project = Project(recipe)
    assert not project.plan(everything(project)).missing
    shard = Path(recipe.samples.train[0])
    shard.write_bytes(shard.read_bytes() + bytes(512))
    assert not project.plan(everything(project)).missing
    project.refresh()
    assert [task.shard for task in project.plan(everything(project)).missing] == ["train-00000"]


def test_refresh_reads_no_record_again(recipe: Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    project = Project(recipe)
    assert len(project.plan(everything(project)).missing) == 2
    records = data.make(recipe, data.outputs(recipe))
    monkeypatch.setattr(ledger, "parse", lambda *_: pytest.fail("a record was read again"))
    project.refresh(map(ledger.entry, records))
    assert not project.plan(everything(project)).missing


def correct(monkeypatch: pytest.MonkeyPatch, version: int = 2) -> None:
    monkeypatch.setattr(Captions, "version", version)
    monkeypatch.setattr(Captions, "changes", {2: "line breaks are kept"})


def test_a_corrected_label_is_out_of_date_and_not_remade(recipe: Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    data.make(recipe, data.outputs(recipe))
    before = {name: output.fingerprint for name, output in everything(Project(recipe)).items()}
    correct(monkeypatch)
    project = Project(recipe)
    assert {name: output.fingerprint for name, output in everything(project).items()} == before
    plan = project.plan(everything(project))
    assert not plan.missing
    assert {output for output, _ in plan.outdated} == {"labels/caption"}  # its own version only
    (why,) = plan.outdated["labels/caption", "train-00000"]
    assert why == "made by version 1 of labels/caption, asked for is 2: line breaks are kept"


def test_update_makes_what_is_out_of_date_again(recipe: Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    data.make(recipe, data.outputs(recipe))
    correct(monkeypatch)
    project = Project(recipe, update=True)
    tasks = project.plan(everything(project)).missing
    assert {task.outputs for task in tasks} == {("labels/caption",)}
    worker = data.ShardWorker(project.shard_job(project.specialists, project.label_outputs))
    worker.setup("cpu")
    project.refresh([ledger.entry(record) for task in tasks for record in worker.run(task)])
    plan = project.plan(everything(project))
    assert not plan.missing and not plan.outdated
    record = ledger.read(recipe.root, "labels/caption", "train-00000")
    assert record is not None and record.identity["versions"] == {"labels/caption": 2}


def test_a_pinned_version_counts_as_up_to_date(recipe: Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    data.make(recipe, data.outputs(recipe))
    correct(monkeypatch)
    pinned = recipe.model_copy(update={"versions": {"labels/caption": 1}})
    project = Project(pinned, update=True)
    plan = project.plan(everything(project))
    assert not plan.missing and not plan.outdated
    storage.delete(ledger.record_url(recipe.root, "labels/caption", "train-00000"))
    again = Project(pinned)
    with pytest.raises(RecipeError, match="labels/caption is pinned at 1, and this fourmill makes version 2"):
        again.shard_job(again.specialists, again.label_outputs)


@pytest.mark.parametrize("pins", [{"labels/captions": 1}, {"labels/caption": 9}])
def test_pins_that_cannot_be_are_refused(recipe: Recipe, pins: dict[str, int]) -> None:
    with pytest.raises(RecipeError, match=r"^versions: "):
        Project(recipe.model_copy(update={"versions": pins}))


def test_tokens_of_a_stored_label_keep_its_version(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shards = data.good_shards(tmp_path / "s", 1, 2)
    recipe = data.recipe(tmp_path / "out", shards, modalities=["caption"], labels__keep=["caption"],
                         generate__chains=[])  # fmt: skip
    data.fit(recipe)
    data.make(recipe, data.outputs(recipe, tokens=False))
    correct(monkeypatch)
    data.make(recipe, data.outputs(recipe, labels=False), stored=["caption"])
    record = ledger.read(recipe.root, "tokens/caption", "train-00000")
    assert record is not None and "versions" not in record.identity
    project = Project(recipe)
    assert {output for output, _ in project.plan(everything(project)).outdated} == {"labels/caption", "tokens/caption"}


def test_columns_that_were_remade_are_another_training(recipe: Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    data.make(recipe, data.outputs(recipe))
    before = Project(recipe).columns.identity()
    correct(monkeypatch)
    assert Project(recipe).columns.identity() == before  # only the code changed, and no column
    for shard in ("train-00000", "train-00001"):
        record = ledger.read(recipe.root, "tokens/rgb", shard)
        assert record is not None
        changed = ledger.Record(**{**vars(record), "identity": record.identity | {"versions": {"codecs/patches": 3}}})
        storage.put(ledger.record_url(recipe.root, "tokens/rgb", shard), ledger.dumps(changed))
    assert Project(recipe).columns.identity() != before


class Inner(Section):
    width: int = 3
    gamma: float = 1.0
    later: ClassVar[dict[str, Any]] = {"gamma": 1.0}


class Outer(Section):
    inner: Inner = Inner()
    several: list[Inner] = [Inner()]
    depth: int = 2
    name: str = "x"
    later: ClassVar[dict[str, Any]] = {"depth": 1}


def test_a_new_option_at_its_default_is_not_hashed() -> None:
    assert hashed(Inner()) == {"width": 3}
    assert hashed(Inner(gamma=2.0)) == {"width": 3, "gamma": 2.0}
    assert hashed(Outer(), {"name"}) == {"inner": {"width": 3}, "several": [{"width": 3}], "depth": 2}
    # The default at the time when it came in is frozen: a default that changed since is hashed.
    assert "depth" not in hashed(Outer(depth=1))


@pytest.mark.parametrize("name", ["fourmill_tests.specialists:Slow"])
def test_a_users_specialist_of_a_later_version_is_known(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """The first release hashed the version of every specialist; users' own had whatever number they gave."""
    from fourmill_tests.specialists import Slow

    monkeypatch.setattr(Slow, "version", 3)
    shards = data.good_shards(tmp_path / "s", 1, 1)
    options = {"modalities": ["rgb"], "labels__keep": ["canny_edge"], "generate__chains": []}
    recipe = data.recipe(tmp_path / "out", shards, **options, labels__specialists={"canny_edge": {"specialist": name}})
    output = Project(recipe).label_outputs["labels/canny_edge"]
    assert output.former != output.fingerprint and output.is_asked_for(output.former)


def test_what_a_users_later_version_made_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tokenizers and columns of a root of the first release, whose fingerprints held that version."""
    from fourmill_tests.specialists import Slow

    monkeypatch.setattr(Slow, "version", 3)
    shards = data.good_shards(tmp_path / "s", 1, 2)
    slow = {"canny_edge": {"specialist": "fourmill_tests.specialists:Slow", "seconds": 0.0}}
    recipe = data.recipe(tmp_path / "out", shards, modalities=["tok_canny_edge"], labels__keep=[],
                         labels__specialists=slow, generate__chains=[])  # fmt: skip
    data.fit(recipe)
    project = Project(recipe)
    (tokenizer,), output = project.fitted, project.token_outputs["tokens/tok_canny_edge"]
    (former,) = project._fit_fingerprints(project.label_prints.former).values()
    assert former != project.fit_fingerprints[tokenizer]
    data.make(recipe, data.outputs(recipe))
    for made, shard, print_ in (("tokenizers", tokenizer, former), (output.name, "train-00000", output.former)):
        record = ledger.read(recipe.root, made, shard)
        assert record is not None
        identity = {name: value for name, value in record.identity.items() if name != "versions"}
        record = replace(record, fingerprint=print_, identity=identity)
        storage.put(ledger.record_url(recipe.root, made, shard), ledger.dumps(record))
    again = Project(recipe)
    assert again.unfitted == [] and not again.fitted[tokenizer].outdated
    assert again.columns.shards["train"] and again.columns.prints == {output.name: output.former}


def test_a_pin_lets_a_stored_label_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shards = data.good_shards(tmp_path / "s", 1, 2)
    recipe = data.recipe(tmp_path / "out", shards, modalities=["caption"], labels__keep=["caption"],
                         versions={"labels/caption": 1}, generate__chains=[])  # fmt: skip
    data.fit(recipe)
    data.make(recipe, data.outputs(recipe, tokens=False))
    correct(monkeypatch)
    project = Project(recipe)
    plan = project.plan(project.token_outputs, project.stored_labels)
    assert project.shard_job(*plans.working(project.specialists, plan.outputs, plan.missing)).outputs
    unstored = project.plan(project.token_outputs)
    with pytest.raises(RecipeError, match="labels/caption is pinned at 1"):
        project.shard_job(*plans.working(project.specialists, unstored.outputs, unstored.missing))


def test_what_a_users_identity_adds_is_hashed() -> None:
    class Table(Captions):
        table: str = "a"

        def identity(self) -> dict[str, Any]:
            return {**super().identity(), "rows": len(self.table)}

    parts = Table().fingerprint_parts()
    assert parts["rows"] == 1 and parts["options"] == {"table": "a"} | Captions().identity()["options"]


def test_a_fit_on_stored_labels_says_their_version(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shards = data.good_shards(tmp_path / "s", 1, 2)
    recipe = data.recipe(tmp_path / "out", shards, modalities=["tok_canny_edge"], labels__keep=["canny_edge"],
                         generate__chains=[])  # fmt: skip
    data.make(recipe, data.outputs(recipe, tokens=False))
    monkeypatch.setattr(Canny, "version", 2)
    (name,) = Project(recipe).unfitted
    assert Project(recipe).fit_job([name]).versions == {name: {}}
    assert Project(recipe, update=True).fit_job([name]).versions == {name: {"versions": {"labels/canny_edge": 2}}}


@pytest.mark.parametrize(
    ("depth", "stated", "inverse"),
    [
        ({}, None, True),  # Depth Anything
        ({"weights": "Intel/zoedepth-nyu-kitti"}, None, False),
        ({"weights": "Intel/zoedepth-nyu-kitti", "linear_in": "inverse_depth"}, True, True),
        ({"specialist": "member", "name": "d.npy", "holds": "inverse_depth"}, None, True),
        ({"specialist": "member", "name": "d.npy", "holds": "relative"}, True, True),  # nothing says
        ({"specialist": "member", "name": "d.npy", "holds": "relative"}, None, None),
        ({}, False, "evaluate.truth.depth.inverse is false.*linear in inverse depth.*inverse: true"),
        ({"weights": "Intel/zoedepth-nyu-kitti"}, True, "evaluate.truth.depth.inverse is true.*linear in depth"),
    ],
)
def test_truth_is_compared_on_the_scale_of_the_labels(
    tmp_path: Path, depth: dict[str, Any], stated: bool | None, inverse: bool | str | None
) -> None:
    truth = {"depth": {"member": "distance.npy"} | ({} if stated is None else {"inverse": stated})}
    asked = data.recipe(
        tmp_path / "out", data.good_shards(tmp_path / "s", 1, 1), modalities=["rgb"], labels__keep=["depth"],
        labels__specialists={"depth": depth}, evaluate__truth=truth, generate__chains=[],
    )  # fmt: skip
    if isinstance(inverse, str):
        with pytest.raises(RecipeError, match=inverse):
            Project(asked)
        return
    assert Project(asked).evaluation.truth["depth"].inverse is inverse
