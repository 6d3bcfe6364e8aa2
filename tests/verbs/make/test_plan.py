"""`plan` says what will be done, how long each stage takes and in how much memory, and what cannot work."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from fourmill_tests import data, runs

from fourmill import recipe as recipes
from fourmill.model import checkpoint
from fourmill.model.fourm import FourM
from fourmill.project import Project
from fourmill.recipe import Recipe, RecipeError
from fourmill.tokenize import tokenizer
from fourmill.tokenize.networks.vqvae import VQVAE, VQVAEConfig
from fourmill.train.pretrain.job import configured
from fourmill.verbs import machines
from fourmill.verbs.make import plan

NAMES = ["rgb", "tok_rgb"]
STAGES = ["label", "fit", "tokenize", "train", "generate"]


def recipe(folder: Path, **changes: Any) -> Recipe:
    shards = data.good_shards(folder / "s", 1, 2)
    chains = [{"inputs": ["rgb"], "to": ["tok_rgb"]}]
    plain = {"modalities": NAMES, "labels__keep": [], "generate__chains": chains}
    return data.recipe(folder / "out", shards, **(plain | changes))


def stages(described: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {row["stage"]: row for row in described["stages"]}


def test_every_stage_has_time_memory_and_what_they_rest_on(tmp_path: Path) -> None:
    rows = stages(plan.describe(Project(recipe(tmp_path)), measure=2))
    assert list(rows) == STAGES
    for row in rows.values():
        assert row["seconds"] > 0 and 0.3 < row["memory_gb"] < 3 and row["workers"] == 1 and row["rests_on"]
    assert set(rows["fit"]["parts"]) == {"tok_rgb"}


def test_json_and_text_name_every_stage(tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    path.write_text(yaml.safe_dump(recipe(tmp_path).model_dump(mode="json")))
    status, out, err = runs.command("plan", str(path), "--measure", "0", "--json", "--for", "cpux4")
    assert status == 0, err
    assert [row["stage"] for row in json.loads(out)["stages"]] == STAGES
    status, out, err = runs.command("plan", str(path), "--measure", "1")
    assert status == 0 and all(f"{stage} " in out for stage in STAGES) and "in all about" in out, err


@pytest.mark.parametrize("measure", [0, 1])
def test_what_is_wrong_with_the_first_shard_is_said(tmp_path: Path, measure: int) -> None:
    odd = recipe(tmp_path)
    first = data.good_entries(0, 2)
    Path(odd.samples.train[0]).write_bytes(
        data.tar([*first, *first[:1], (f"{first[0][0].partition('.')[0]}.cls", b"1")])
    )
    problems = plan.describe(Project(odd), measure=measure)["problems"]
    assert problems == {"duplicate key: a second .jpg is ignored": 1, "members: no specialist reads .cls (N)": 1}


def test_a_broken_first_shard_costs_the_measuring_alone(tmp_path: Path) -> None:
    broken = recipe(tmp_path)
    Path(broken.samples.train[0]).write_bytes(b"")
    described = plan.describe(Project(broken))
    assert "not_measured" in described and list(stages(described)) == STAGES
    with pytest.raises(ValueError, match="train-00000"):
        plan.describe(Project(broken), measure=2)


def test_more_steps_take_longer(tmp_path: Path) -> None:
    machine = machines.named("cpux2")
    short, long = (
        stages(plan.describe(Project(recipe(tmp_path, train__steps=steps)), 0, machine))["train"]["seconds"]
        for steps in (100, 1_000_000)
    )
    assert long > 1_000 * (short - 15)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_gpus_that_are_not_here_need_a_named_machine(tmp_path: Path) -> None:
    project = Project(recipe(tmp_path, train__gpus=1))
    here = stages(plan.describe(project, 0))["train"]
    assert here["seconds"] is None and "--for h200x8" in here["rests_on"]
    there = stages(plan.describe(project, 0, machines.named("h200x8"), taken={"train": 3.5}))["train"]
    assert there["seconds"] > 0 and "of its GPUs" in there["rests_on"] and there["memory_gb"] == 3.5


def test_samples_that_are_all_rejected_are_said(tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_bytes(data.tar([(f"{i}.json", b"{}") for i in range(4)]))
    path = tmp_path / "r.yaml"
    settings = data.settings(tmp_path / "out", str(tmp_path / "a.tar"), modalities=NAMES, labels__keep=["caption"])
    path.write_text(yaml.safe_dump(settings | {"generate": {"chains": []}}))
    status, out, _ = runs.command("plan", str(path), "--measure", "4")
    assert status == 0 and "rejected, 4 of them: " in out and "every sample was rejected" in out


# What cannot work.


def model(folder: Path, names: list[str], size: int = 64, **sizes: int) -> str:
    settings = data.recipe(folder, "a.tar", modalities=names, images__size=size, generate__chains=[])
    wanted = settings.train.model.model_copy(update=sizes)
    checkpoint.save(FourM(configured(settings.specs(), wanted)), folder)
    return str(folder)


@pytest.mark.parametrize(
    ("built", "expected"),
    [
        ({"dim": 64}, "train.init: dim is 32 here, and 64 in"),
        ({"encoder_depth": 2}, "train.init: encoder_depth is 1 here, and 2 in"),
        ({"size": 128}, "train.init: .* has as many tokens: 16 here, and 64 in"),
        ({"names": ["tok_canny_edge"]}, "train.init: .* knows none of the modalities rgb, tok_rgb"),
    ],
)
def test_a_model_that_does_not_fit_is_refused(tmp_path: Path, built: dict[str, Any], expected: str) -> None:
    place = model(tmp_path / "model", **({"names": NAMES} | built))
    with pytest.raises(RecipeError, match=expected):
        plan.describe(Project(recipe(tmp_path, train__init=place)), 0)


def test_a_model_of_another_vocabulary_of_text_may_still_fit(tmp_path: Path) -> None:
    """The size of the vocabulary is known when it is fitted."""
    names = [*NAMES, "caption"]
    settings = recipes.parse(data.settings(tmp_path, "a.tar", modalities=names, generate={"chains": []}))
    checkpoint.save(FourM(configured(settings.specs(4_700), settings.train.model)), tmp_path / "model")
    fitting = recipe(tmp_path, modalities=names, train__init=str(tmp_path / "model"))
    assert plan.describe(Project(fitting), 0)["stages"]


@pytest.mark.parametrize("wrong", [{"n_channels": 1}, {"n_labels": 5}])
def test_a_tokenizer_of_another_label_is_refused(tmp_path: Path, wrong: dict[str, int]) -> None:
    sizes = {"image_size": 64, "patch_size": 16, "codebook_size": 64, "latent_dim": 8, "n_channels": 3} | wrong
    tokenizer.save(VQVAE(VQVAEConfig.small(16, 1, 2, **sizes)), tmp_path / "weights", {})
    with pytest.raises(RecipeError, match=r"tokenizers, tok_rgb: weights .*: its n_.* tok_rgb needs"):
        Project(recipe(tmp_path, tokenizers__each={"tok_rgb": {"weights": str(tmp_path / "weights")}}))


def test_finished_weights_are_copied_and_not_fitted(tmp_path: Path) -> None:
    sizes = {"image_size": 64, "patch_size": 16, "codebook_size": 64, "latent_dim": 8, "n_channels": 3}
    tokenizer.save(VQVAE(VQVAEConfig.small(16, 1, 2, **sizes)), tmp_path / "weights", {})
    path = tmp_path / "r.yaml"
    each = {"tok_rgb": {"weights": str(tmp_path / "weights")}}
    path.write_text(yaml.safe_dump(recipe(tmp_path, tokenizers__each=each).model_dump(mode="json")))
    status, out, err = runs.command("plan", str(path), "--measure", "0")
    assert status == 0 and "will copy it from" in out and "will fit it" not in out, err
