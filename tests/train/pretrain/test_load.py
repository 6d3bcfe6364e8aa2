"""Models are loaded from wherever they lie; what holds none is refused with the reason."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from fourmill_tests import training

from fourmill.model import checkpoint as model_files
from fourmill.model.fourm import FourM
from fourmill.model.published import ml4m
from fourmill.train import checkpoint
from fourmill.train.pretrain.load import load_model
from fourmill.train.pretrain.weights import MODEL, save_model


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that has two checkpoints and no finished model yet."""
    job = training.job(tmp_path_factory.mktemp("load"), steps=4, validate_every=4)
    training.train(job)
    return Path(job.folder)


def equal(one: FourM, other: FourM) -> bool:
    assert not one.training and one.config == other.config
    return all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))


def test_a_run_gives_its_newest_checkpoint(run: Path) -> None:
    loaded = load_model(run)
    assert equal(loaded, load_model(run.parent)) and equal(
        loaded, load_model(str(run / "checkpoints" / "step-00000004"))
    )
    assert not equal(loaded, load_model(run / "checkpoints" / "step-00000002"))


def test_a_finished_model_counts_before_checkpoints(run: Path, tmp_path: Path) -> None:
    shutil.copytree(run, tmp_path / "run")
    finished = load_model(run / "checkpoints" / "step-00000002")
    save_model(finished, str(tmp_path / "run" / MODEL), write=True)
    assert equal(load_model(tmp_path / "run"), finished) and equal(load_model(tmp_path / "run" / MODEL), finished)


def test_folders_of_weights_are_loaded(run: Path, tmp_path: Path) -> None:
    model = load_model(run)
    model_files.save(model, tmp_path / "ours")
    ml4m.save(model, tmp_path / "published")
    assert equal(load_model(tmp_path / "ours"), model)
    again = load_model(tmp_path / "published")
    assert torch.equal(again.head("caption"), model.head("caption"))


def test_several_runs_must_be_named(run: Path, tmp_path: Path) -> None:
    for name in ("one", "two"):
        shutil.copytree(run, tmp_path / "runs" / name)
    with pytest.raises(ValueError, match="there are several runs, name one of one, two"):
        load_model(tmp_path / "runs")


def test_a_root_with_one_run_names_it(run: Path, tmp_path: Path) -> None:
    shutil.copytree(run, tmp_path / "runs" / "4m" / "print")
    shutil.copytree(run, tmp_path / "runs" / "fit-tok_rgb" / "print")
    assert equal(load_model(tmp_path), load_model(run)) and equal(load_model(tmp_path / "runs"), load_model(run))
    shutil.copytree(run, tmp_path / "runs" / "4m21" / "other")
    with pytest.raises(ValueError, match="runs: there are several runs, name one of 4m/print, 4m21/other"):
        load_model(tmp_path)


def test_a_fit_of_a_tokenizer_is_no_model(tmp_path: Path) -> None:
    checkpoint.save(str(tmp_path / "fit-tok_rgb" / "print" / "checkpoints"), 3, {"state.pt": b"0"}, keep=1)
    with pytest.raises(ValueError, match=r"step-00000003 is no checkpoint of a 4M model; those of tokenizers"):
        load_model(tmp_path / "fit-tok_rgb")


def test_where_nothing_is_the_place_is_named(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "begun" / "checkpoints").mkdir(parents=True)
    with pytest.raises(ValueError, match="empty"):
        load_model(tmp_path / "empty")
    with pytest.raises(FileNotFoundError, match="begun; run `fourmill train` first"):
        load_model(tmp_path / "begun")
