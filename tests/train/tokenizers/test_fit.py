"""Fitting without Ray: which samples a step sees, and that a fit that was interrupted ends like one that was not."""

from __future__ import annotations

import contextlib
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fourmill_tests import data
from hypothesis import given, settings
from hypothesis import strategies as st

from fourmill.infra import ledger, storage
from fourmill.pipelines.removal import seen
from fourmill.project import Project
from fourmill.recipe import Recipe
from fourmill.tokenize import codecs
from fourmill.tokenize import settings as tokenizer_settings
from fourmill.tokenize.networks.vqvae import VQVAEConfig
from fourmill.train import board, checkpoint, metrics, requests
from fourmill.train.tokenizers import fit as fitting
from fourmill.train.tokenizers import quality
from fourmill.train.tokenizers.commits import commit
from fourmill.train.tokenizers.examples import batch_indices
from fourmill.train.tokenizers.job import FitJob
from fourmill.train.tokenizers.vq import VQTrainer
from fourmill.train.tokenizers.warm_start import cannot_warm_start
from fourmill.train.workers import Resources


@given(st.integers(0, 5), st.integers(1, 40), st.integers(1, 50))
@settings(max_examples=60, deadline=None)
def test_every_epoch_sees_every_sample_once(seed: int, batch: int, count: int) -> None:
    steps = -(-3 * count // batch)
    sequence = np.concatenate([batch_indices(seed, step, batch, count) for step in range(steps)])
    for epoch in range(3):
        assert sorted(sequence[epoch * count : (epoch + 1) * count]) == list(range(count))


def test_batches_are_a_function_of_seed_and_step() -> None:
    one = batch_indices(0, 7, 16, 1000)
    assert one.dtype == np.int64 and (one == batch_indices(0, 7, 16, 1000)).all()
    assert (one != batch_indices(1, 7, 16, 1000)).any()
    assert (one != batch_indices(0, 8, 16, 1000)).any()


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    return data.good_shards(tmp_path_factory.mktemp("fit"), 2, 6)


def recipe(root: Path, shards: list[str], **changes: Any) -> Recipe:
    options = {"modalities": ["tok_canny_edge", "caption"], "labels__keep": [], "generate__chains": []}
    return data.recipe(root, shards[:1], shards[1:], **(options | changes))


@pytest.fixture(scope="module")
def fitted(tmp_path_factory: pytest.TempPathFactory, shards: list[str]) -> Recipe:
    whole = recipe(tmp_path_factory.mktemp("whole"), shards)
    data.fit(whole)
    return whole


def test_fitted_tokenizer_is_committed_with_quality(fitted: Recipe) -> None:
    record = ledger.read(fitted.root, "tokenizers", "tok_canny_edge")
    assert record is not None
    assert record.identity["vocab_size"] == 64 and record.rows == 48
    assert record.identity["quality"] and all(np.isfinite(list(record.identity["quality"].values())))
    text = ledger.read(fitted.root, "tokenizers", "text")
    assert text is not None and text.identity["shards"] == ["train-00000"]
    assert record.identity["shards"] == ["train-00000", "train-00001"], "the second one is of validation"
    (noted,) = Path(fitted.root).glob("runs/fit-tok_canny_edge/*/shards.json")
    assert seen.read(str(noted.parent)) == ["train-00000", "train-00001"]
    there = Project(fitted).fitted
    assert set(there) == {"text", "tok_canny_edge"} and there["tok_canny_edge"].fingerprint == record.sha256
    vocabulary = codecs.load_text(fitted.root)
    assert vocabulary.vocab_size == there["text"].vocab_size


class Died(BaseException):
    pass


@pytest.mark.parametrize("at", [2, 7])
def test_a_fit_that_was_killed_ends_with_the_same_weights(
    fitted: Recipe, tmp_path: Path, shards: list[str], monkeypatch: pytest.MonkeyPatch, at: int
) -> None:
    """Checkpoints are every 3 steps; it dies in step `at` and is started again."""
    killed = recipe(tmp_path / "out", shards)
    step = VQTrainer.step

    def dying(self: VQTrainer, pixels: Any, weight: Any) -> Any:
        if self.steps_done == at:
            raise Died
        return step(self, pixels, weight)

    with monkeypatch.context() as patch:
        patch.setattr(VQTrainer, "step", dying)
        with pytest.raises(Died):
            data.fit(killed)
    assert ledger.read(killed.root, "tokenizers", "tok_canny_edge") is None
    checkpoints = Path(killed.root).glob("runs/fit-tok_canny_edge/*/checkpoints")
    assert [one.step for folder in checkpoints for one in checkpoint.complete(str(folder))] == [6] * (at > 6)
    data.fit(killed)
    for name in ("tokenizers/tok_canny_edge/model.safetensors", "tokenizers/text/tokenizer.json"):
        assert Path(killed.root, name).read_bytes() == Path(fitted.root, name).read_bytes()
    (resumed,), (whole,) = (list(Path(r.root).glob("runs/fit-*/*/metrics.jsonl")) for r in (killed, fitted))
    assert [
        (r["step"], r["loss"]) for r in map(json.loads, resumed.read_text().splitlines()) if r["kind"] == "train"
    ] == [(r["step"], r["loss"]) for r in map(json.loads, whole.read_text().splitlines()) if r["kind"] == "train"]


def test_a_fit_that_is_stopped_saves_its_step(
    fitted: Recipe, tmp_path: Path, shards: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """At a step that has no checkpoint of its own; the next start goes on from there."""
    stopped = recipe(tmp_path / "out", shards)

    class Asked(requests.Requests):
        steps = 0

        def take(self) -> requests.Asked:
            self.steps += 1
            return requests.Asked.STOP if self.steps == 5 else requests.Asked.NOTHING

    with monkeypatch.context() as patch:
        patch.setattr(fitting, "Requests", Asked)
        with pytest.raises(board.Stopped, match="fit tok_canny_edge: stopped at step 5, which is saved"):
            data.fit(stopped)
    assert fitting.saved_step(job_of(stopped), "tok_canny_edge") == 5
    data.fit(stopped)
    name = "tokenizers/tok_canny_edge/model.safetensors"
    assert Path(stopped.root, name).read_bytes() == Path(fitted.root, name).read_bytes()


def test_changed_settings_are_fitted_again(fitted: Recipe, tmp_path: Path, shards: list[str]) -> None:
    shutil.copytree(fitted.root, tmp_path / "out")
    same = recipe(tmp_path / "out", shards, engine__batch_size=1, tokenizers__common__checkpoint_every=1,
                  tokenizers__common__validation_samples=3, tokenizers__common__validation_steps=2)  # fmt: skip
    assert set(Project(same).fitted) == {"text", "tok_canny_edge"}
    other = recipe(tmp_path / "out", shards, tokenizers__common__steps=3)
    assert set(Project(other).fitted) == {"text"}
    (tmp_path / "out" / "tokenizers" / "text" / "config.json").unlink()
    assert set(Project(same).fitted) == {"tok_canny_edge"}


def test_a_later_version_begins_at_step_0(
    fitted: Recipe, tmp_path: Path, shards: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its fingerprint is the same, and the last checkpoint of the version before is still there."""
    shutil.copytree(fitted.root, tmp_path / "out")
    again = recipe(tmp_path / "out", shards)
    assert watched_fit(again) == []
    monkeypatch.setattr(tokenizer_settings, "FIT_VERSION", 3)
    assert watched_fit(again) == []
    assert len(watched_fit(again, update=True)) == 12
    record = ledger.read(again.root, "tokenizers", "tok_canny_edge")
    assert record is not None and record.identity["versions"] == {"tokenizers/tok_canny_edge": 3}


def test_shards_without_captions_still_give_a_vocabulary(tmp_path: Path) -> None:
    entries = [entry for entry in data.good_entries(0, 3) if entry[0].endswith(".jpg")]
    (tmp_path / "a.tar").write_bytes(data.tar(entries))
    bare = data.recipe(tmp_path / "out", str(tmp_path / "a.tar"), modalities=["color_palette"], labels__keep=[],
                       generate__chains=[])  # fmt: skip
    data.fit(bare)
    (record,) = (r for r in data.make(bare, data.outputs(bare)) if r.output == "tokens/color_palette")
    assert record.rows == 3 and record.nulls == 0


def test_no_sample_with_the_label_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_bytes(data.tar([("a.jpg", b"no image"), ("a.txt", b"text")]))
    bare = recipe(tmp_path / "out", [str(tmp_path / "a.tar")])
    with pytest.raises(ValueError, match="no training sample has the label canny_edge"):
        data.fit(bare)


def test_quality_says_what_it_was_measured_on(fitted: Recipe, tmp_path: Path, shards: list[str]) -> None:
    record = ledger.read(fitted.root, "tokenizers", "tok_canny_edge")
    assert record is not None and record.identity["measured_on"] == "val"
    bare = data.recipe(tmp_path / "out", shards[:1], modalities=["tok_canny_edge"], labels__keep=[],
                       generate__chains=[])  # fmt: skip
    data.fit(bare)
    record = ledger.read(bare.root, "tokenizers", "tok_canny_edge")
    assert record is not None and record.identity["measured_on"] == "train"
    (log,) = Path(bare.root).glob("runs/fit-tok_canny_edge/*")
    assert [row["kind"] for row in metrics.read(str(log)) if "f1" in row] == ["train"]


def job_of(recipe: Recipe) -> FitJob:
    project = Project(recipe)
    return project.fit_job(list(project.fit_fingerprints))


def test_more_workers_than_shards_cannot_share_batches(tmp_path: Path, shards: list[str]) -> None:
    job = job_of(recipe(tmp_path / "out", shards, fit__share="batches", fit__workers=2))
    with pytest.raises(ValueError, match="2 workers share batches, but there are only 1 training shards"):
        fitting.run(job, Resources(2), None)


def test_ranks_read_their_shards_and_rank_0_measures(tmp_path: Path, shards: list[str]) -> None:
    reporter: Any = data.Silent()
    val = data.good_shards(tmp_path / "s", 2, 6, first=50, name="val")
    both = data.recipe(tmp_path / "out", shards, val, modalities=["tok_canny_edge"], labels__keep=[],
                       generate__chains=[], tokenizers__common__validation_samples=10)  # fmt: skip
    job = job_of(both)
    caches = [fitting.fill(job, ["tok_canny_edge"], rank, 2, "cpu", reporter) for rank in range(2)]
    first, second = (cache["tok_canny_edge"] for cache in caches)
    alone = fitting.fill(job, ["tok_canny_edge"], 0, 1, "cpu", reporter)["tok_canny_edge"]
    assert [len(rows.train) for rows in (first, second)] == [24, 24]
    assert not np.array_equal(first.train, second.train)
    assert first.measured_on == "val" and len(alone.val) == 10
    # Ten crops come from the first validation shard; what the other rank has read counts as well.
    assert first.shards == ("train-00000", "train-00001", "val-00000")
    assert np.array_equal(first.val, alone.val)


@pytest.mark.parametrize("same", [True, False])
def test_record_matches_files_of_racing_fits(
    fitted: Recipe, tmp_path: Path, shards: list[str], monkeypatch: pytest.MonkeyPatch, same: bool
) -> None:
    """The other one's record appears between our files and our record."""
    job = job_of(recipe(tmp_path / "out", shards))
    put, lost = storage.put, []
    folder = Path(fitted.root, "tokenizers", "tok_canny_edge")
    record = ledger.read(fitted.root, "tokenizers", "tok_canny_edge")
    assert record is not None
    rival = replace(record, sha256=record.sha256 if same else "another")

    def racing(url: str, content: bytes, *, if_absent: bool = False) -> storage.Stat | None:
        if if_absent and not lost:
            lost.append(url)
            put(url, ledger.dumps(rival))
        return put(url, content, if_absent=if_absent)

    monkeypatch.setattr(storage, "put", racing)
    facts = {"sha256": record.sha256, "vocab_size": 64, "quality": {}, "ours": True}
    commit(job, "tok_canny_edge", str(folder), facts, 48, 0.0)
    committed = ledger.read(job.root, "tokenizers", "tok_canny_edge")
    assert committed is not None and committed.sha256 == record.sha256
    assert ("ours" in committed.identity) is not same
    files = Path(job.root, "tokenizers", "tok_canny_edge")
    assert {p.name: p.read_bytes() for p in files.iterdir()} == {p.name: p.read_bytes() for p in folder.iterdir()}


def watched_fit(recipe: Recipe, dies_at: int | None = None, update: bool = False) -> list[int]:
    """Fits, and gives the sizes of the pictures of each step until it dies."""
    step, sizes = VQTrainer.step, []

    def watched(self: VQTrainer, pixels: Any, weight: Any) -> Any:
        assert weight is None  # pictures are known everywhere
        sizes.append(pixels.shape[-1])
        if self.steps_done == dies_at:
            raise Died
        return step(self, pixels, weight)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(VQTrainer, "step", watched)
        with contextlib.suppress(Died):
            data.fit(recipe, update)
    return sizes


# 12 steps at 64 px, then 8 at 64 or 96 px; checkpoints are every 3 steps.
ADAPTED: dict[str, Any] = {
    "modalities": ["tok_rgb"],
    "tokenizers__common__resolutions": {"sizes": [64, 96], "steps": 8, "base_lr": 0.01},
}


@pytest.fixture(scope="module")
def adapted(tmp_path_factory: pytest.TempPathFactory, shards: list[str]) -> tuple[Recipe, list[int]]:
    whole = recipe(tmp_path_factory.mktemp("adapted"), shards, **ADAPTED)
    return whole, watched_fit(whole)


@pytest.mark.parametrize("at", [14, 18])
def test_an_adaptation_to_other_sizes_follows_and_resumes(
    adapted: tuple[Recipe, list[int]], tmp_path: Path, shards: list[str], at: int
) -> None:
    whole, sizes = adapted
    assert len(sizes) == 20 and set(sizes[:12]) == {64} and set(sizes[12:]) == {64, 96}
    killed = recipe(tmp_path / "out", shards, **ADAPTED)
    assert watched_fit(killed, dies_at=at) == sizes[: at + 1]
    assert watched_fit(killed) == sizes[at // 3 * 3 :]
    weights = "tokenizers/tok_rgb/model.safetensors"
    assert Path(killed.root, weights).read_bytes() == Path(whole.root, weights).read_bytes()


def test_tokenizer_without_examples_fails_alone(tmp_path: Path, shards: list[str]) -> None:
    """The detector finds nobody in these pictures, and no masks are made of nothing."""
    empty = {"specialist": "fourmill_tests.specialists:NoInstances"}
    bare = recipe(tmp_path / "out", shards, modalities=["sam_instance", "tok_canny_edge"],
                  labels__specialists={"sam_instance": empty})  # fmt: skip
    with pytest.raises(ValueError, match=r"^sam_mask: no training sample has the label sam_instance"):
        data.fit(bare)
    assert set(Project(bare).fitted) == {"text", "tok_canny_edge"}


def test_tokenizer_that_diverges_fails_alone(tmp_path: Path, shards: list[str]) -> None:
    wild = {"tok_rgb": {"base_lr": 1e30, "warmup_steps": 0, "clip_norm": 0}}
    bare = recipe(tmp_path / "out", shards, modalities=["tok_rgb", "tok_canny_edge"], tokenizers__each=wild)
    with pytest.raises(ValueError, match=r"^tok_rgb: tokenizer: .*lower base_lr") as failure:
        data.fit(bare)
    assert set(Project(bare).fitted) == {"tok_canny_edge"}
    assert set(fitting.reasons(str(failure.value), ["tok_canny_edge", "tok_rgb"])) == {"tok_rgb"}


def test_failure_reasons_are_split_by_name() -> None:
    one, two = "ValueError: tok_a: no label; see it", "ValueError: b: loss: nan; c: c: d; lower lr"
    assert fitting.reasons(f"{one}; {two}", ["c", "tok_a", "b"]) == {
        "tok_a": "no label; see it", "b": "loss: nan", "c": "c: d; lower lr",
    }  # fmt: skip
    assert fitting.reasons("the workers died", ["c"]) == {}


def test_a_failure_in_measuring_loses_no_step(
    fitted: Recipe, tmp_path: Path, shards: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*args: Any) -> Any:
        raise ValueError("no measure")

    again = recipe(tmp_path / "out", shards)
    with monkeypatch.context() as patch:
        patch.setattr(quality, "quality", broken)
        with pytest.raises(ValueError, match=r"^tok_canny_edge: no measure"):
            data.fit(again)
    monkeypatch.delattr(VQTrainer, "step")  # there is none left
    data.fit(again)
    weights = "tokenizers/tok_canny_edge/model.safetensors"
    assert Path(again.root, weights).read_bytes() == Path(fitted.root, weights).read_bytes()


def test_features_narrower_than_their_latents_cannot_start_warm() -> None:
    config = VQVAEConfig.small(16, 1, 2, n_channels=3, patch_proj=False, latent_dim=8, image_size=4, patch_size=1)
    assert "patches of 3 values" in cannot_warm_start(config)
    assert cannot_warm_start(config.model_copy(update={"n_channels": 8})) == ""
