"""A trained model with new modalities: what it knew is kept bit by bit, the new tables learn, and the run resumes."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fourmill_tests import training
from fourmill_tests.earth import terramind
from pydantic import ValidationError

from fourmill.modalities import ModalitySpec
from fourmill.model import checkpoint as model_files
from fourmill.model.config import FourMConfig
from fourmill.model.fourm import FourM
from fourmill.model.published import ml4m
from fourmill.train.pretrain import initial, matching, vocabularies
from fourmill.train.pretrain.job import TrainJob
from fourmill.train.pretrain.weights import load_model
from fourmill.train.settings import Extend, Train

RGB, TOK_RGB, GLOBAL, CAPTION = training.SPECS
OLD, SIZES = (RGB, TOK_RGB, CAPTION), {"dim": 32, "encoder_depth": 2, "decoder_depth": 1, "num_heads": 2}


def trained_model(seed: int = 0, **changes: Any) -> FourM:
    torch.manual_seed(seed)
    model = FourM(FourMConfig(OLD, **(SIZES | changes)))
    with torch.no_grad():
        for p in model.parameters():  # no bias is 0, as after training
            p.add_(torch.randn_like(p) * 0.02)
    return model.eval()


def extended(trained: FourM, specs: tuple[ModalitySpec, ...], init: Extend | None = None) -> FourM:
    """The model that a run of these modalities begins with."""
    init = init or Extend(weights="there")
    target = replace(FourMConfig(specs, **SIZES), tied_heads=trained.config.tied_heads)
    torch.manual_seed(7)
    model = FourM(matching.extended(target, trained.config, init))
    initial.copy(trained, model, init, [spec.name for spec in specs])
    return model.eval()


def batch_of(root: Path, model: FourM) -> Any:
    """A batch of the old modalities, in the model's numbers."""
    job = replace(training.job(root), specs=OLD)
    loader = training.trainer(job)._loader(job.shards, 0, 1, training=True)
    batches = loader.batches(0, 8, 0, 1)
    _, batch = next(batches)
    batches.close()
    place = np.array([model.config.index(spec.name) for spec in OLD])
    return replace(batch, input_mod=place[batch.input_mod], target_mod=place[batch.target_mod])


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("specs", [(*OLD, GLOBAL), (GLOBAL, CAPTION, TOK_RGB, RGB), (GLOBAL, TOK_RGB)])
def test_what_it_knew_it_says_bit_by_bit(tmp_path: Path, tied: bool, specs: tuple[ModalitySpec, ...]) -> None:
    """Whatever the order of the recipe, and with modalities that it does not name."""
    trained = trained_model(tied_heads=tied)
    model = extended(trained, specs)
    assert {spec.name for spec in model.config.modalities} == {spec.name for spec in training.SPECS}
    with torch.no_grad():
        before, after = (one(batch_of(tmp_path, one)) for one in (trained, model))
    for name in ("tok_rgb", "caption"):
        assert before.counts[name] == after.counts[name] > 0
        assert torch.equal(before.logits(name), after.logits(name))
        assert torch.equal(before.losses[name], after.losses[name])


def test_a_published_model_can_be_extended(tmp_path: Path) -> None:
    """In apple/ml-4m's format, whose decoder has two tables of tokens; and TerraMind's .pt."""
    ml4m.save(trained_model(tied_heads=False), tmp_path / "published")
    path = terramind.save("4m", tmp_path / "tm", {"num_heads": 2})
    for place, known in ((str(tmp_path / "published"), "tok_rgb@8"), (str(path), "tok_sen2l2a@224")):
        trained = initial.load(place)
        init = Extend(weights=place, names={"tok_rgb": known})
        specs = (replace(trained.config.spec(known), name="tok_rgb"), GLOBAL)
        fields = {name: getattr(trained.config, name) for name in matching.ARCHITECTURE}
        target = FourMConfig(specs, tied_heads=trained.config.tied_heads, **fields)
        model = FourM(matching.extended(target, trained.config, init))
        notes = initial.copy(trained, model, init, [spec.name for spec in specs])
        assert f"train.extend: tok_dinov2_global begin with fresh weights; {place} does not know them" in notes
        assert any("are kept as they are; the recipe does not name them" in note for note in notes)
        for spec in (one for one in trained.config.modalities if one.is_target):
            here = "tok_rgb" if spec.name == known else spec.name
            assert torch.equal(model.head(here), trained.head(spec.name))
            new, old = (one.encoder_embeddings for one in (model, trained))
            assert torch.equal(new.token_table(here), old.token_table(spec.name))


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished model of the old modalities that says which text tokenizer it has learned."""
    folder = tmp_path_factory.mktemp("source") / "model"
    model = trained_model()
    model.tokenizers = {"text": "words", "tok_depth": "codes"}
    folder.mkdir()
    model_files.save(model, folder)
    return folder


def job(root: Path, source: Path, specs: tuple[ModalitySpec, ...] = training.SPECS, **train: Any) -> TrainJob:
    settings = {"steps": 4, "checkpoint_every": 1, "keep_checkpoints": 9, "clip_norm": 1.0, "weight_decay": 0.5}
    extend = {"weights": str(source), "alone": 2} | train.pop("extend", {})
    made = training.job(root, **settings | {"extend": extend, "ema": 0.5} | train)
    return replace(made, specs=specs, tokenizers={"text": "words"})


def tables(model: FourM, name: str) -> list[torch.Tensor]:
    """All that belongs to a modality."""
    index = model.config.index(name)
    found = [model.modality_table[index]]
    if model.config.spec(name).is_target:
        found += [model.encoder_embeddings.token_table(name), model.decoder_embeddings.token_table(name)]
    else:
        found += [p for p in model.projections.layers[name].parameters()]
    return found


def same(one: FourM, other: FourM, name: str) -> bool:
    return all(torch.equal(*pair) for pair in zip(tables(one, name), tables(other, name), strict=True))


def test_new_tables_learn_alone_and_then_all(tmp_path: Path, source: Path) -> None:
    run, trained = job(tmp_path, source), model_files.load(source)
    assert training.train(run).step == 4
    begun, alone, end = (load_model(run.folder, step=step) for step in (1, 2, 4))
    for name in ("rgb", "tok_rgb", "caption"):
        assert same(alone, trained, name) and not same(end, trained, name)
    assert torch.equal(alone.encoder[0].attn.qkv.weight, trained.encoder[0].attn.qkv.weight)
    assert torch.equal(alone.mask_token, trained.mask_token)
    assert not torch.equal(end.encoder[0].attn.qkv.weight, trained.encoder[0].attn.qkv.weight)
    assert not same(begun, alone, GLOBAL.name), "the new one learns from the first step"
    positions = [one.encoder_embeddings.position_rows_of(GLOBAL.name) for one in (begun, alone)]
    assert not torch.equal(*positions)


def test_what_the_recipe_does_not_name_stays_as_it_is(tmp_path: Path, source: Path) -> None:
    """Neither a gradient nor the decay of weights changes it, and it is in the finished model."""
    run, trained = job(tmp_path, source, (GLOBAL, TOK_RGB), extend={"alone": 0}), model_files.load(source)
    done = training.train(run)
    assert "train.extend: caption and rgb are kept as they are; the recipe does not name them" in done.notes or any(
        "rgb" in note and "caption" in note and "kept as they are" in note for note in done.notes
    )
    finished = load_model(run.folder)
    for name in ("rgb", "caption"):
        assert same(finished, trained, name)
    assert not same(finished, trained, "tok_rgb")
    assert finished.tokenizers == {"text": "words", "tok_depth": "codes"}
    # Workers that exchange gradients wait for a gradient of each parameter.
    idle = done.model.projections.layers["rgb"].weight
    assert idle.grad is not None and not idle.grad.any()


@pytest.mark.parametrize("specs", [training.SPECS, (GLOBAL, TOK_RGB)])
def test_an_extended_run_resumes(tmp_path: Path, source: Path, specs: tuple[ModalitySpec, ...]) -> None:
    """While the new tables learn alone; the model that it began with may be gone."""
    whole = job(tmp_path / "whole", source, specs)
    training.train(whole)
    gone = tmp_path / "gone"
    shutil.copytree(source, gone)
    killed = job(tmp_path / "killed", gone, specs)
    training.train_until(killed, 1)
    shutil.rmtree(gone)
    training.train(killed)
    actual, expected = (load_model(one.folder).state_dict() for one in (killed, whole))
    assert all(torch.equal(actual[name], expected[name]) for name in expected)


def test_shards_of_parameters_learn_the_same(source: Path) -> None:
    """What learns of a parameter that lies on several workers; here there is one."""
    import torch.distributed as dist

    from fourmill.train.parallel import Parallel
    from fourmill.train.pretrain.learning import Learning

    made = []
    for sharded in (False, True):
        model = extended(model_files.load(source), (GLOBAL, TOK_RGB))
        if sharded:
            dist.init_process_group("gloo", rank=0, world_size=1, store=dist.HashStore())
        try:
            Parallel(model, "fsdp" if sharded else "ddp", "fp32")
            learning = Learning(model, [GLOBAL.name], ["rgb", "caption"], 1, 0.5)
            for step in (0, 1):
                for p in model.parameters():
                    p.grad = torch.ones_like(p)
                learning.mask(step)
                learning.decay(step, 0.1, torch.ones(()))
            whole = {name: p.full_tensor() if sharded else p for name, p in model.named_parameters()}
            grads = {name: p.grad.full_tensor() if sharded else p.grad for name, p in model.named_parameters()}
            made.append({name: (whole[name].detach().clone(), grads[name].clone()) for name in whole})
        finally:
            if sharded:
                dist.destroy_process_group()
    plain, parts = made
    for name, pair in plain.items():
        assert all(torch.equal(*both) for both in zip(pair, parts[name], strict=True)), name


@pytest.mark.parametrize(
    ("settings", "what"),
    [
        ({"init": "a", "extend": "b"}, "init and extend: name one"),
        ({"extend": {"weights": "a", "embeddings": "fresh"}}, "it keeps its tables; take train.init"),
        ({"extend": {"weights": "a", "alone": 9}, "steps": 9, "warmup_steps": 0}, "extend.alone: 9 of 9 steps"),
        ({"extend": 3}, "expected the place of a model, or {weights: PLACE, alone: 1000}"),
    ],
)
def test_settings_that_say_two_things_are_refused(settings: dict[str, Any], what: str) -> None:
    with pytest.raises(ValidationError, match=what):
        Train.model_validate(settings)


def test_what_cannot_be_extended_is_refused(tmp_path: Path, source: Path) -> None:
    trained = trained_model()
    with pytest.raises(ValueError, match=r"train\.extend: there knows all modalities of the recipe.*take train\.init"):
        extended(trained, OLD)
    with pytest.raises(ValueError, match=r"train\.extend: tok_rgb has a vocabulary of 128 here, and 64 in there"):
        extended(trained, (replace(TOK_RGB, vocab_size=128), GLOBAL))
    two = FourM(FourMConfig((*OLD, replace(TOK_RGB, name="tok_depth")), **SIZES))
    with pytest.raises(ValueError, match=r"train\.extend: tok_rgb is another modality in there"):
        extended(two, (TOK_RGB, GLOBAL), Extend(weights="there", names={"tok_rgb": "tok_depth"}))
    # One text tokenizer serves all sentences, also where the recipe names none of the old ones.
    text = replace(CAPTION, name="color_palette")
    run = job(tmp_path, source, (TOK_RGB, text)).settings
    for learned, fine in (("words", True), ("others", False)):
        here = vocabularies.Here(["text"], {"text": learned}, lambda name, expected: None)
        if fine:
            initial.check_fits(run, (TOK_RGB, text), True, here)
        else:
            with pytest.raises(ValueError, match=r"train\.extend: .*learned another tokenizer text .*text\.weights to"):
                initial.check_fits(run, (TOK_RGB, text), True, here)


def test_extending_is_another_run_than_beginning(source: Path) -> None:
    identities = [
        initial.identity_of(initial.resolved(Train.model_validate(settings)))
        for settings in (
            {"init": str(source)}, {"extend": str(source)}, {"extend": {"weights": str(source), "alone": 5}},
        )
    ]  # fmt: skip
    assert identities[1][0] == identities[0] and len({str(one) for one in identities}) == 3
