"""The generation stage without a trained run: guidance and ensembles of a recipe reach what is written."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fourmill_tests import data

from fourmill.modalities import spec
from fourmill.model.config import FourMConfig
from fourmill.model.fourm import FourM
from fourmill.recipe import RecipeError, parse
from fourmill.tokenize import store, tokenizer
from fourmill.tokenize.codec import Options
from fourmill.tokenize.networks.vqvae import VQVAE, VQVAEConfig
from fourmill.train.data.groups import ShardRows
from fourmill.train.downstream import generation
from fourmill.train.downstream.generation import GenerateJob

NAMES, TOKENS, CODES = ("tok_dinov2_global", "tok_imagebind_global"), 16, 32


def recipe(root: Path, **chain: Any) -> Any:
    steps = [{"target": NAMES[1], "scheme": "roar", "steps": 2, "guidance": {NAMES[0]: 2.0}}]
    chains = [{"inputs": [NAMES[0]], "to": steps} | chain]
    changes = {"modalities": list(NAMES), "generate__chains": chains, "generate__samples": 3}
    return parse(data.settings(root, ["x.tar"], **changes))


@pytest.fixture
def job(tmp_path: Path) -> GenerateJob:
    settings = {"num_codebooks": TOKENS, "codebook_size": CODES, "latent_dim": 2 * TOKENS}
    specs = tuple(spec(name, image_size=64, vocab_size=CODES) for name in NAMES)
    for seed, name in enumerate(NAMES):
        tokenizer.save(VQVAE(VQVAEConfig.mlp(12, 16, 1, **settings), seed), tmp_path / "tokenizers" / name, {})
    ids = np.random.default_rng(0).integers(0, CODES, (4, 1, TOKENS)).astype(np.uint16)
    column = store.ColumnSpec(NAMES[0], specs[0].kind, 1, TOKENS, CODES)
    (tmp_path / "tokens" / NAMES[0]).mkdir(parents=True)
    path = tmp_path / "tokens" / NAMES[0] / "val-0.parquet"
    path.write_bytes(store.encode_column(column, ["a", "b", "c", "d"], [ids[0], None, ids[2], ids[3]]))
    splits = {"train": (), "val": (ShardRows("val-0", 4),)}
    return GenerateJob(
        root=str(tmp_path),
        run_name="4m",
        run=str(tmp_path),
        fingerprint="print",
        settings=recipe(tmp_path).generate,
        specs=specs,
        splits=splits,
        options=Options(0, 64, 1),
        first_sentinel=4,
        num_sentinels=200,
    )


def generated(job: GenerateJob, **chain: Any) -> dict[str, bytes]:
    torch.manual_seed(0)
    model = FourM(FourMConfig(job.specs, dim=16, num_heads=2, encoder_depth=1, decoder_depth=1)).eval()
    return generation._generate_chain(job, model, recipe(Path(job.root), **chain).generate.chains[0])


def test_an_ensemble_averages_what_its_members_decode_to(job: GenerateJob) -> None:
    one, three = generated(job), generated(job, ensemble=3)
    assert one.keys() == three.keys() and json.loads(one["samples.json"])["samples"][1]["key"] == "c"
    column = f"{NAMES[1]}.parquet"
    assert one[column] == three[column], "tokens are those of the first member"
    torch.manual_seed(0)
    model = FourM(FourMConfig(job.specs, dim=16, num_heads=2, encoder_depth=1, decoder_depth=1)).eval()
    _, given = generation.conditions(job, [NAMES[0]], "val")
    step = generation.model_step(recipe(Path(job.root)).generate.chains[0].to[0], job.specs[1])
    several = generation.members(job.settings, generation.special_ids(job), model, given, [step], range(3), range(3))
    codes = [torch.from_numpy(np.asarray(member[NAMES[1]]).astype(np.int64)) for member in several]
    assert not torch.equal(codes[0], codes[1]) and not torch.equal(codes[1], codes[2])
    decoded = torch.stack([tokenizer.load(Path(job.run) / "tokenizers" / NAMES[1]).decode(c) for c in codes]).detach()
    for i in range(3):
        values = np.load(io.BytesIO(three[f"{NAMES[1]}/{i:04}.npy"]))
        np.testing.assert_allclose(values, decoded[:, i].mean(0), atol=1e-2)


def test_batch_size_changes_nothing_precision_does(job: GenerateJob) -> None:
    def run(**fields: Any) -> tuple[bytes, set[torch.dtype]]:
        torch.manual_seed(0)
        model = FourM(FourMConfig(job.specs, dim=16, num_heads=2, encoder_depth=1, decoder_depth=1)).eval()
        seen: set[torch.dtype] = set()
        model.encoder[0].mlp.register_forward_hook(lambda module, inputs, output: seen.add(output.dtype))
        changed = replace(job, settings=job.settings.model_copy(update=fields))
        generation.run(changed, lambda folder, device, step: model.to(device))
        return Path(job.folder, "chain-0", f"{NAMES[1]}.parquet").read_bytes(), seen

    whole, dtypes = run(precision="fp32")
    assert dtypes == {torch.float32}
    assert run(precision="fp32", batch_size=2)[0] == run(precision="fp32", batch_size=1)[0] == whole
    assert run(precision="bf16")[1] == {torch.bfloat16}


def test_weights_of_conditions_change_what_is_generated(job: GenerateJob) -> None:
    def tokens(guidance: Any) -> bytes:
        steps = [{"target": NAMES[1], "scheme": "roar", "steps": 2, "guidance": guidance}]
        return generated(job, to=steps)[f"{NAMES[1]}.parquet"]

    assert tokens({NAMES[0]: 30.0}) == tokens({NAMES[0]: 30.0}) != tokens({NAMES[0]: -30.0})
    assert tokens({NAMES[0]: 30.0}) == tokens(30.0), "the only condition is all conditions"


@pytest.mark.parametrize(
    ("guidance", "message"),
    [
        ({NAMES[1]: 2.0}, f"guidance by {NAMES[1]}, which is neither given nor generated before; known are {NAMES[0]}"),
        ({}, "guidance names no condition"),
        (-1.0, "guidance"),
    ],
)
def test_guidance_that_cannot_be_is_refused(tmp_path: Path, guidance: Any, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        recipe(tmp_path, to=[{"target": NAMES[1], "guidance": guidance}])
