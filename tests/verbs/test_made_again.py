"""What was deleted under its record is missing, and its stage makes it again."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from fourmill_tests import data, runs, training
from fourmill_tests.small import SmallRoot, copied

import fourmill
from fourmill import recipe as recipes
from fourmill.infra import ledger, storage
from fourmill.pipelines import plan as plans
from fourmill.project import Project
from fourmill.recipe import RecipeError
from fourmill.train import checkpoint
from fourmill.train.pretrain.load import at_step
from fourmill.verbs import stage
from fourmill.verbs.look import status
from fourmill.verbs.make import generate, train


@pytest.fixture(scope="module")
def trained(small_root: SmallRoot, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The recipe of a copy of the small root, with a trained run and a generation, and without its shards."""
    folder = tmp_path_factory.mktemp("again")
    recipe = copied(small_root, folder, checkpoint_every=4)
    training.train(Project(recipes.load(recipe)).train_job)
    for shard in (folder / "small/s").iterdir():
        shard.unlink()
    assert generate.make(Project(recipes.load(recipe))).made == 1
    return recipe


def missing(recipe: Path) -> dict[str, str]:
    found: dict[str, str] = status.describe(Project(recipes.load(recipe)))["missing"]
    return found


def test_nothing_is_missing_without_the_shards(trained: Path) -> None:
    assert not missing(trained)


@pytest.mark.parametrize("what", ["model.safetensors", "config.json"])
def test_a_deleted_model_is_missing_and_made_again(trained: Path, what: str) -> None:
    project = Project(recipes.load(trained))
    Path(project.train_job.folder, "model", what).unlink()
    assert "deleted" in missing(trained)["runs/4m"]
    assert Project(recipes.load(trained)).run_record() is None
    training.train(project.train_job)
    assert not missing(trained)


def test_a_deleted_generation_is_missing_and_made_again(trained: Path) -> None:
    shutil.rmtree(Path(Project(recipes.load(trained)).generate_job.folder, "chain-0"))
    assert list(missing(trained)) == ["generated/4m"]
    assert generate.make(Project(recipes.load(trained))).made == 1
    assert not missing(trained)


@pytest.mark.parametrize("name, file", [("tok_rgb", "model.safetensors"), ("text", "tokenizer.json")])
def test_a_deleted_tokenizer_is_missing(trained: Path, name: str, file: str) -> None:
    path = Path(recipes.load(trained).root, "tokenizers", name, file)
    kept = path.read_bytes()
    path.unlink()
    assert f"tokenizers/{name}" in missing(trained) and Project(recipes.load(trained)).unfitted == [name]
    path.write_bytes(kept)
    assert not missing(trained)


def test_any_checkpoint_of_a_run_in_progress_can_be_used(trained: Path) -> None:
    recipe = recipes.load(trained, ["train.steps=9", "train.checkpoint_every=3"])
    run = Project(recipe).train_job
    training.train_until(run, 8)
    assert "step 6 of 9" in status.describe(Project(recipe))["missing"]["runs/4m"]
    made = {}
    for asked in (None, 6, 3):
        project = Project(recipe, checkpoint=asked)
        generate.make(project)
        record = project.generated_record()
        assert record is not None
        made[asked] = project.generate_job.folder, record.identity["step"]
        assert project.generate_job.title.endswith(f", step {record.identity['step']}")
    assert made[None] == made[6] and made[3][1] == 3 and made[3][0] != made[6][0]
    with pytest.raises(ValueError, match="no complete checkpoint of step 4, but of the steps 3, 6"):
        generate.make(Project(recipe, checkpoint=4))
    opened = [fourmill.open_run(at_step(run.folder, step)) for step in (3, 6)]
    newest = fourmill.load_model(run.folder).state_dict()
    for one, same in zip(opened, (False, True), strict=True):
        assert all(torch.equal(value, newest[name]) for name, value in one.model.state_dict().items()) is same
    given = str(trained.parent / "given")
    status_, _, said = runs.command("convert", run.folder, given, "--to", "fourmill", "--checkpoint", "3")
    assert status_ == 0, said
    third = opened[0].model.state_dict()
    assert all(torch.equal(v, third[name]) for name, v in fourmill.load_model(given).state_dict().items())
    assert runs.command("convert", run.folder, given, "--checkpoint", "4")[0] == 2
    with pytest.raises(ValueError, match="is no run"):
        at_step(f"{run.folder}/checkpoints/step-00000003", 3)

    assert train._gone_back(run, 3, finished=False) == ["went on from step 3; later checkpoints were deleted: 6"]
    assert checkpoint.newest(run.checkpoints) == checkpoint.at_step(run.checkpoints, 3)
    training.train(run)
    assert Project(recipe).generate_job.step is None and Project(recipe, checkpoint=9).generate_job.step == 9
    assert status.describe(Project(recipe))["missing"] == {"generated/4m": "not generated as the recipe asks"}
    with pytest.raises(ValueError, match=r"the run is finished; train.init=.*step-00000009 begins another one"):
        train.make(Project(recipe), checkpoint=9)


@pytest.mark.parametrize("pattern", ["", "*.tar", "train-0000[0-9].tar"])
def test_a_run_on_a_folder_is_the_same_without_its_shards(tmp_path: Path, pattern: str) -> None:
    """Of a folder or glob the root remembers which shards there were, as long as all is made of them; the braces and
    brackets of the folder itself are part of its name."""
    place = tmp_path / "x{1,2}[ab]"
    shards = data.good_shards(place / "s", 3, 2)
    options = {"modalities": ["caption"], "labels__keep": ["caption"], "generate__chains": []}
    recipe = data.recipe(place / "out", str(place / "s" / pattern), **options)
    data.make(recipe, data.outputs(recipe, tokens=False))
    data.fit(recipe)
    data.make(recipe, data.outputs(recipe, labels=False))
    stage.prepare_root(Project(recipe))
    run = Project(recipe).train_job
    assert [shard.name for shard in run.shards] == ["train-00000", "train-00001", "train-00002"]
    for shard in (shards[1], shards[0], shards[2]):
        Path(shard).unlink()
        assert Project(recipe).train_job == run
    with pytest.raises(RecipeError, match="nothing found"):
        plans.list_shards(recipe.samples)
    storage.delete(ledger.record_url(recipe.root, "tokens/caption", "train-00001"))
    project = Project(recipe)
    assert [shard.name for shard in project.train_job.shards] == ["train-00000", "train-00002"]
    assert list(status.describe(project)["missing"]) == ["runs/4m"], "what is gone and not whole is of no split"


def test_a_shard_that_was_moved_is_one_shard(tmp_path: Path) -> None:
    shards = data.good_shards(tmp_path / "s" / "a", 2, 2)
    recipe = data.recipe(
        tmp_path / "out", str(tmp_path / "s" / "*" / "*.tar"), modalities=["caption"], generate__chains=[]
    )
    data.make(recipe, data.outputs(recipe, tokens=False))
    stage.prepare_root(Project(recipe))
    before = Project(recipe).shards
    (tmp_path / "s" / "b").mkdir()
    Path(shards[1]).rename(tmp_path / "s" / "b" / "train-00001.tar")
    after = Project(recipe).shards
    assert list(after.urls) == list(before.urls) and not after.gone
    assert after.urls["train-00001"] == str(tmp_path / "s" / "b" / "train-00001.tar")


@pytest.mark.parametrize("out", ["", "notes.txt/page.html"])
@pytest.mark.parametrize("verb", ["view", "report"])
def test_a_page_that_cannot_be_written_is_said_first(trained: Path, tmp_path: Path, verb: str, out: str) -> None:
    (tmp_path / "notes.txt").write_text("notes")
    code, _, err = runs.command(verb, str(trained), "--out", str(tmp_path / out))
    assert code == 2 and f"--out {tmp_path / out}" in err and (tmp_path / "notes.txt").read_text() == "notes", err
