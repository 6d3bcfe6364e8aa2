"""Training and generation without Ray: resumes are exact, bad losses are named, chains give what was asked for."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fourmill_tests import data, runs

from fourmill.infra import ledger
from fourmill.model.fourm import FourM
from fourmill.project import Project
from fourmill.recipe import Recipe, RecipeError, dump
from fourmill.tokenize import store
from fourmill.train import checkpoint, sharded
from fourmill.train.masking.masking import Keep
from fourmill.train.pretrain import pretrain
from fourmill.train.pretrain.job import masking_config
from fourmill.train.pretrain.pretrain import Trainer, TrainJob
from fourmill.train.pretrain.weights import Weights
from fourmill.verbs.look import status
from fourmill.verbs.make import generate
from fourmill.verbs.make import train as train_verb

OPTIONS: dict[str, Any] = {
    "modalities": ["rgb", "tok_canny_edge", "caption"],
    "labels__keep": [],
    "train__steps": 12,
    "train__validate_every": 4,
    "tokenizers__common__steps": 2,
    "tokenizers__common__warmup_steps": 1,
    "generate__chains": [
        {"inputs": ["rgb"], "to": [{"target": "tok_canny_edge", "steps": 3}, {"target": "caption", "max_tokens": 6}]},
    ],
}


@pytest.fixture(scope="module")
def tokenized(tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    """A root with fitted tokenizers and columns."""
    folder = tmp_path_factory.mktemp("pretrain")
    train = data.good_shards(folder / "s", 2, 8)
    val = data.good_shards(folder / "s", 1, 8, first=50, name="val")
    recipe = data.recipe(folder / "out", train, val, **OPTIONS)
    data.fit(recipe)
    data.make(recipe, data.outputs(recipe))
    return recipe


@pytest.fixture(scope="module")
def trained(tokenized: Recipe) -> tuple[Recipe, TrainJob]:
    job = job_of(tokenized)
    train(job)
    return tokenized, job


def job_of(recipe: Recipe) -> TrainJob:
    return Project(recipe).train_job


def train(job: TrainJob) -> Trainer:
    torch.manual_seed(job.seed)
    model = FourM(pretrain.model_config(job))
    trainer = Trainer(job, model)
    reporter: Any = data.Silent()
    trainer.run(reporter)
    return trainer


def copied(recipe: Recipe, root: Path, **changes: Any) -> Recipe:
    """The same columns in another root, with nothing trained."""
    shutil.copytree(recipe.root, root, ignore=lambda _, names: {"runs", "generated"} & set(names))
    return data.recipe(root, recipe.samples.train, recipe.samples.val, **(OPTIONS | changes))


def test_a_run_is_committed_with_what_came_of_it(trained: tuple[Recipe, TrainJob]) -> None:
    recipe, job = trained
    record = ledger.read(recipe.root, "runs/4m", job.fingerprint)
    assert record is not None and record.rows == 16 and record.identity["steps"] == 12
    metrics = record.identity["metrics"]
    assert {"loss", "loss/tok_canny_edge", "loss/caption", "val_loss", "lr", "gradient_norm"} <= set(metrics)
    assert all(np.isfinite(value) for value in metrics.values())
    summary = train_verb.make(Project(recipe))  # finds the record, so that no Ray is started
    assert summary.existed == 1 and summary.made == 0 and summary.complete


def test_the_loss_falls(trained: tuple[Recipe, TrainJob]) -> None:
    rows = [row for row in runs.losses(Path(trained[0].root)) if row["kind"] == "train"]
    assert rows[-1]["loss"] < rows[0]["loss"] - 0.1


class Died(BaseException):
    pass


@pytest.mark.parametrize("at", [3, 10])
def test_a_run_that_was_killed_goes_on_as_if_it_had_not(
    trained: tuple[Recipe, TrainJob], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: int
) -> None:
    """Checkpoints are every 4 steps: it starts again before the first one, and goes on from the newest later."""
    recipe, whole = trained
    job = job_of(copied(recipe, tmp_path / "out"))
    assert job.fingerprint == whole.fingerprint
    step = Trainer.train_step

    def dying(self: Trainer, *args: Any) -> Any:
        if self.step == at:
            raise Died
        return step(self, *args)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "train_step", dying)
        with pytest.raises(Died):
            train(job)
    assert ledger.read(job.root, "runs/4m", job.fingerprint) is None
    torch.manual_seed(99)  # whatever state the next process has
    assert train(job).step == 12
    assert runs.losses(Path(job.root)) == runs.losses(Path(recipe.root))
    actual, expected = (pretrain.load_model(j.folder).state_dict() for j in (job, whole))
    assert all(torch.equal(actual[name], expected[name]) for name in expected)


def test_a_loss_that_is_not_finite_is_named(trained: tuple[Recipe, TrainJob], tmp_path: Path) -> None:
    job = job_of(copied(trained[0], tmp_path / "out", train__base_lr=1e8, train__warmup_steps=0))
    with pytest.raises(FloatingPointError, match=r"at step \d+ \(modalities: .*; samples: 0000.*lower train.base_lr"):
        train(job)


def test_no_checkpoint_holds_what_is_not_finite(trained: tuple[Recipe, TrainJob], tmp_path: Path) -> None:
    """Lines are logged after the end, so that only the look before a save can find it."""
    options = {"train__base_lr": 1e8, "train__warmup_steps": 0, "train__log_every": 100, "train__validate_every": 100}
    job = job_of(copied(trained[0], tmp_path / "out", **options, train__checkpoint_every=3))
    with pytest.raises(FloatingPointError, match=r"is (nan|inf) at step [123] "):
        train(job)
    for saved in checkpoint.complete(str(Path(job.folder, "checkpoints"))):
        weights = Weights(FourM(pretrain.model_config(job)))
        sharded.load(saved, weights.tensors())
        assert all(torch.isfinite(tensor).all() for tensor in weights.tensors().values())


def test_a_gradient_that_is_not_finite_is_named(
    trained: tuple[Recipe, TrainJob], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = job_of(copied(trained[0], tmp_path / "out"))
    monkeypatch.setattr(Trainer, "_norm", lambda *_: torch.tensor(float("inf")))
    with pytest.raises(FloatingPointError, match=r"the norm of the gradient is inf at step 1 .*samples: 0000"):
        train(job)
    again = job_of(copied(trained[0], tmp_path / "again", train__nonfinite="skip"))
    assert again.fingerprint == job.fingerprint, "what is advised goes on with the same run"
    assert checkpoint.newest(str(Path(job.folder, "checkpoints"))) is None


def test_a_mistyped_init_is_told_before_anything_starts(trained: tuple[Recipe, TrainJob], tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"train.init: there is no model at /nowhere; expected the `model` or"):
        job_of(copied(trained[0], tmp_path / "out", train__init="/nowhere"))


def test_a_run_killed_before_its_commit_has_the_same_record(
    trained: tuple[Recipe, TrainJob], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last checkpoint is there, so that no step is done again: its numbers come from the log."""
    recipe, whole = trained
    job = job_of(copied(recipe, tmp_path / "out"))

    def dying(*_: Any) -> None:
        raise Died

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_commit", dying)
        with pytest.raises(Died):
            train(job)
    train(job)
    actual, expected = (ledger.read(j.root, "runs/4m", j.fingerprint) for j in (job, whole))
    assert actual is not None and expected is not None
    clock = ("tokens_per_second", "data_wait_share")
    numbers = [{n: v for n, v in r.identity["metrics"].items() if n not in clock} for r in (actual, expected)]
    assert numbers[0] == numbers[1] and {"loss", "val_loss"} <= set(numbers[0])


def test_a_checkpoint_of_another_model_is_refused(trained: tuple[Recipe, TrainJob], tmp_path: Path) -> None:
    """Modalities in another order fit by their sizes."""
    recipe, whole = trained
    job = job_of(copied(recipe, tmp_path / "out"))
    shutil.copytree(whole.folder, job.folder)
    shutil.rmtree(Path(job.folder, "model"))
    other = replace(job, specs=job.specs[::-1])
    model = FourM(pretrain.model_config(other))
    with pytest.raises(ValueError, match=r"checkpoints/step-00000012: .* other modalities, .*order"):
        Trainer(other, model)


def test_what_is_watched_does_not_make_another_run(tokenized: Recipe) -> None:
    def changed(**changes: Any) -> str:
        return job_of(data.recipe(tokenized.root, tokenized.samples.train, tokenized.samples.val,
                                  **(OPTIONS | changes))).fingerprint  # fmt: skip

    before = changed()
    assert changed(train__log_every=5, train__checkpoint_every=3, train__validate_every=2, train__workers=2) == before
    assert changed(engine__batch_size=1) == before
    others = {
        changed(train__steps=13),
        changed(train__base_lr=0.1),
        changed(train__model__dim=64),
        changed(train__repeat=2),
    }
    assert len(others | {before}) == 5


def test_shards_without_a_column_are_left_out(tokenized: Recipe, tmp_path: Path) -> None:
    recipe = copied(tokenized, tmp_path / "out")
    (tmp_path / "out/ledger/tokens/caption/train-00000.json").unlink()
    assert [shard.name for shard in job_of(recipe).shards] == ["train-00001"]
    (tmp_path / "out/ledger/tokens/rgb/train-00001.json").unlink()
    with pytest.raises(RecipeError, match="no training shard has all of its columns"):
        job_of(recipe)
    assert "no training shard" in status.describe(Project(recipe))["missing"]["runs/4m"]


def test_other_roots_are_trained_on_too(tokenized: Recipe, tmp_path: Path) -> None:
    """The same tokenizers; the other one has no RGB. Each is read from its own root."""
    names = ["tok_canny_edge", "caption"]
    other = copied(tokenized, tmp_path / "other", modalities=names, generate__chains=[])
    (tmp_path / "other" / "recipe.yaml").write_text(dump(other))
    texts = [{"input_alpha": {"caption": 1}, "target_alpha": {"caption": 1}, "weight": 2}]
    shares = [{"weight": 3.0}, {"root": str(tmp_path / "other"), "weight": 1.0, "mixtures": texts, "repeat": 3}]
    recipe = copied(tokenized, tmp_path / "out", train__datasets=shares)
    job = job_of(recipe)
    own, other = job.datasets
    assert (own.url, other.url) == (f"{recipe.root}/tokens", f"{tmp_path}/other/tokens")
    assert (own.weight, other.weight) == (3.0, 1.0) and (own.repeat, other.repeat) == (1, 3)
    count = len(recipe.train.mixtures)
    assert (own.mixtures, other.mixtures) == (range(count), range(count, count + 1))
    assert [m.weight for m in masking_config(job, job.datasets).mixtures[count:]] == [2.0]
    assert len(masking_config(job).mixtures) == count
    assert own.modalities == ("rgb", *names) and other.modalities == tuple(names)
    assert own.shards == other.shards == job.shards and job.rows == 32
    seen: set[str] = set()
    options = {"train__datasets": shares, "train__base_lr": 1e-3}
    assert job_of(copied(tokenized, tmp_path / "b", **options)).fingerprint != job.fingerprint
    trainer = train(job)
    assert trainer.step == 12
    for share in ([{"weight": 2.0}, shares[1]], shares[1:], [shares[0], shares[1] | {"repeat": 2}], []):
        changed = job_of(data.recipe(recipe.root, recipe.samples.train, recipe.samples.val,
                                     **(OPTIONS | {"train__datasets": share})))  # fmt: skip
        seen.add(changed.fingerprint)
    assert len(seen | {job.fingerprint}) == 5


def test_a_root_that_no_mixture_serves_is_a_sentence(tokenized: Recipe, tmp_path: Path) -> None:
    other = copied(tokenized, tmp_path / "other", modalities=["caption"], generate__chains=[])
    (tmp_path / "other" / "recipe.yaml").write_text(dump(other))
    mixtures = [{"input_alpha": {"rgb": 1}, "target_alpha": 1.0}]
    shares = [{"weight": 1.0}, {"root": str(tmp_path / "other")}]
    recipe = copied(tokenized, tmp_path / "out", train__datasets=shares, train__mixtures=mixtures)
    with pytest.raises(RecipeError, match=r"no mixture shows and asks for any of caption, which .*other has; give it"):
        job_of(recipe)


def test_roots_that_do_not_fit_are_sentences(tokenized: Recipe, tmp_path: Path) -> None:
    def asked(root: Path) -> TrainJob:
        shares = [{}, {"root": str(root)}]
        return job_of(data.recipe(tokenized.root, tokenized.samples.train, tokenized.samples.val,
                                  **(OPTIONS | {"train__datasets": shares})))  # fmt: skip

    with pytest.raises(RecipeError, match=r"train.datasets: .*nowhere is no root, there is no recipe.yaml"):
        asked(tmp_path / "nowhere")
    other = copied(tokenized, tmp_path / "other")
    (tmp_path / "other" / "recipe.yaml").write_text(dump(other))
    assert len(asked(tmp_path / "other").datasets) == 2
    record = tmp_path / "other/ledger/tokenizers/tok_canny_edge.json"
    record.write_bytes(ledger.dumps(replace(ledger.parse(record.read_bytes(), ""), sha256="another")))
    with pytest.raises(RecipeError, match="its tok_canny_edge was made by another tokenizer tok_canny_edge"):
        asked(tmp_path / "other")


def test_masking_and_model_follow_the_recipe(tokenized: Recipe) -> None:
    mixtures = [{"input_alpha": {"rgb": 5.0}, "target_alpha": 0.5, "keep": {"caption": "all"}, "weight": 2.0}]
    recipe = data.recipe(tokenized.root, tokenized.samples.train, tokenized.samples.val,
                         **(OPTIONS | {"train__mixtures": mixtures, "train__input_tokens": [8, 16]}))  # fmt: skip
    job = job_of(recipe)
    masking = pretrain.masking_config(job)
    assert masking.input_tokens == (8, 16) and masking.target_tokens == (32, 32)
    (mixture,) = masking.mixtures
    assert mixture.input_alphas == {"rgb": 5.0, "tok_canny_edge": 0.0, "caption": 0.0}
    assert mixture.target_alphas == {"tok_canny_edge": 0.5, "caption": 0.5}
    assert mixture.weight == 2.0 and mixture.keep == {"caption": Keep.ALL}
    config = pretrain.model_config(job)
    assert (config.dim, config.encoder_depth, config.outputs) == (32, 1, ("tok_canny_edge", "caption"))


def test_a_batch_must_divide_among_the_workers(tokenized: Recipe) -> None:
    job = job_of(tokenized)
    model = FourM(pretrain.model_config(job))
    with pytest.raises(ValueError, match="8 does not divide among 3 workers"):
        Trainer(job, model, 0, 3)


def test_no_checkpoint_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="run `fourmill train` first"):
        pretrain.load_model(str(tmp_path))


# generation


def test_generation_gives_what_was_asked_for(trained: tuple[Recipe, TrainJob]) -> None:
    recipe, job = trained
    summary = generate.make(Project(recipe))
    assert summary.made == 1 and summary.complete
    (folder,) = Path(job.folder).glob("generated/*/chain-0")
    content = json.loads((folder / "samples.json").read_text())
    assert [(s["shard"], s["key"], s["row"]) for s in content["samples"]] == [
        ("val-00000", "000050", 0),
        ("val-00000", "000051", 1),
    ]
    edges, captions = (store.read(str(folder / f"{name}.parquet")) for name in ("tok_canny_edge", "caption"))
    assert edges.keys.to_pylist() == captions.keys.to_pylist() == ["000050", "000051"]
    assert edges.crop(0, 0).shape == (16,) and int(edges.crop(0, 0).max()) < 64
    assert len(captions.crop(0, 0)) <= 6
    assert len(list((folder / "tok_canny_edge").glob("*.png"))) == 2
    again = generate.make(Project(recipe))
    assert (again.made, again.existed) == (0, 1)


def test_generation_needs_a_trained_model(tokenized: Recipe, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="run `fourmill train` first"):
        generate.make(Project(copied(tokenized, tmp_path / "out")))


def test_generation_is_the_same_for_the_same_seed(trained: tuple[Recipe, TrainJob], tmp_path: Path) -> None:
    from fourmill.train.downstream import generation

    recipe, job = trained
    one = Project(recipe).generate_job
    chain = recipe.generate.chains[0]
    model = pretrain.load_model(job.folder)
    first, second = (generation._generate_chain(one, model, chain) for _ in range(2))
    assert first == second
