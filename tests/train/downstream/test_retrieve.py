"""Retrieval on a recipe's columns, with a model that learned by heart which caption goes with which image."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from fourmill_tests import data
from fourmill_tests.engine import inline

from fourmill.modalities import spec
from fourmill.model.config import FourMConfig
from fourmill.model.fourm import FourM
from fourmill.pipelines.engine.job import Demand
from fourmill.pipelines.engine.settings import Engine
from fourmill.recipe import parse
from fourmill.tokenize import store, tokenizer
from fourmill.tokenize.codec import Options
from fourmill.tokenize.networks.vqvae import VQVAE, VQVAEConfig
from fourmill.tokenize.text.wordpiece import WordPiece
from fourmill.train.data.groups import ShardRows
from fourmill.train.downstream import retrieve
from fourmill.train.downstream.generation import GenerateJob
from fourmill.train.downstream.pool import ModelJob, Where
from fourmill.train.masking.masking import Keep, MaskingConfig, ModalityTokens, ResolvedMixture, mask_batch

TARGET, CODES, TOKENS = "tok_dinov2_global", 32, 16
TEXTS = ["a red boat", "two cats", "an old house", "rain on the sea", "a blue bicycle", "the tall tree"]
MISSING = 4  # the sample that has no global tokens


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> GenerateJob:
    root = tmp_path_factory.mktemp("retrieve")
    text = WordPiece.fit(TEXTS, vocab_size=5_000)
    text.save(root / "tokenizers" / "text")
    settings = {"num_codebooks": TOKENS, "codebook_size": CODES, "latent_dim": 2 * TOKENS}
    tokenizer.save(VQVAE(VQVAEConfig.mlp(12, 16, 1, **settings)), root / "tokenizers" / TARGET, {})
    specs = (
        spec("caption", image_size=64, vocab_size=text.vocab_size),
        spec(TARGET, image_size=64, vocab_size=CODES),
    )
    ids = np.random.default_rng(0).integers(0, CODES, (len(TEXTS), 1, TOKENS)).astype(np.uint16)
    rows = [None if i == MISSING else row for i, row in enumerate(ids)]
    captions = [[text.encode(caption, 256)] for caption in TEXTS]
    keys = [f"image{i}" for i in range(len(TEXTS))]
    for s, values in zip(specs, (captions, rows), strict=True):
        path = root / "tokens" / s.name / "val-0.parquet"
        path.parent.mkdir(parents=True)
        column = store.ColumnSpec(s.name, s.kind, 1, s.max_tokens, s.vocab_size)
        path.write_bytes(store.encode_column(column, keys, values))
    changes = {"modalities": ["caption", TARGET], "generate__chains": [], "generate__samples": 9}
    recipe = parse(data.settings(root, ["x.tar"], **changes))
    splits = {"train": (ShardRows("nowhere", 0),), "val": (ShardRows("val-0", len(TEXTS)),)}
    return GenerateJob(
        root=str(root),
        run_name="4m",
        run=str(root),
        fingerprint="print",
        settings=recipe.generate,
        specs=specs,
        splits=splits,
        options=Options(0, 64, 1),
        first_sentinel=int(text.sentinel_ids[0]),
        num_sentinels=len(text.sentinel_ids),
    )


@pytest.fixture(scope="module")
def model(job: GenerateJob) -> FourM:
    """Overfitted on caption -> global tokens."""
    root = Path(job.root)
    caption, target = (store.read(str(root / "tokens" / s.name / "val-0.parquet")) for s in job.specs)
    chosen = [i for i in range(len(TEXTS)) if i != MISSING]
    flat = [caption.crop(i, 0) for i in chosen]
    tokens = {
        "caption": ModalityTokens(np.array([len(t) for t in flat]), np.concatenate(flat)),
        TARGET: ModalityTokens(np.full(len(chosen), TOKENS), target.values[chosen, 0]),
    }
    alphas = ({"caption": 1.0}, {TARGET: 1.0})
    config = MaskingConfig((12, 12), (TOKENS, TOKENS), (ResolvedMixture(*alphas, keep={"caption": Keep.ALL}),))
    torch.manual_seed(0)
    trained = FourM(FourMConfig(job.specs, dim=32, num_heads=2, encoder_depth=1, decoder_depth=1))
    optimizer = torch.optim.AdamW(trained.parameters(), lr=1e-2)
    for step in range(60):
        loss = trained(mask_batch(job.specs, config, tokens, np.random.default_rng(step))).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert trained.config.outputs and loss.item() < 0.2
    return trained.eval()


def test_captions_find_their_images(job: GenerateJob, model: FourM) -> None:
    rankings = retrieve.run(job, lambda *_: model, "caption", top=3)
    assert [one.query for one in rankings] == [("val-0", f"image{i}", i) for i in range(len(TEXTS))]
    assert all(len(one.places) == 3 for one in rankings)
    assert [one.rank for one in rankings] == [None if i == MISSING else 1 for i in range(len(TEXTS))]
    assert retrieve.recall(rankings, top=(1, 3)) == pytest.approx({1: 5 / 6, 3: 5 / 6})
    for one in rankings:
        cosines = [cosine for _, cosine in one.places]
        assert cosines == sorted(cosines, reverse=True) and -1.001 <= min(cosines) <= max(cosines) <= 1.001


def test_a_sentence_finds_its_image(job: GenerateJob, model: FourM) -> None:
    (ranking,) = retrieve.run(job, lambda *_: model, "caption", texts=["Rain on the SEA"], target=TARGET, top=1)
    assert ranking.query == "Rain on the SEA" and ranking.places[0][0] == ("val-0", "image3", 3)


def test_the_gallery_is_what_the_column_says(job: GenerateJob) -> None:
    images = retrieve.gallery(job, job.specs[1], "val")
    assert [place[1] for place in images.places] == [f"image{i}" for i in range(len(TEXTS)) if i != MISSING]
    assert images.vectors.shape == (5, 12) and images.vectors.dtype == np.float16
    ids = store.read(str(Path(job.root) / "tokens" / TARGET / "val-0.parquet")).values[0]
    codes = tokenizer.load(Path(job.root) / "tokenizers" / TARGET).decode(torch.from_numpy(ids.astype(np.int64)))
    np.testing.assert_allclose(images.vectors[0], codes[0].detach(), atol=1e-2)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"query": "rgb"}, "query is 'rgb', expected one of the recipe's modalities caption"),
        ({"query": TARGET}, f"query is '{TARGET}'"),
        ({"query": "caption", "target": "tok_rgb"}, f"tok_rgb is no global modality of the recipe, it has {TARGET}"),
    ],
)
def test_what_cannot_be_searched_is_refused(job: GenerateJob, model: FourM, arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        retrieve.run(job, lambda *_: model, **arguments)
    with pytest.raises(ValueError, match="it has none; add tok_dinov2_global"):
        retrieve.global_modality(job.specs[:1])


def test_a_cluster_finds_what_the_command_finds(
    job: GenerateJob, model: FourM, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retrieve, "BATCH", 4)
    expected = retrieve.run(job, lambda *_: model, "caption", top=3)
    ray = inline(monkeypatch, 2)
    monkeypatch.setattr("fourmill.train.pretrain.weights.load_model", lambda *_: model)
    monkeypatch.setattr(ModelJob, "demand", lambda *_: Demand(1.0, 0.0, 1))  # there are no files to be measured
    found = retrieve.run(job, no_model, "caption", top=3, where=Where(Engine(address="auto", actors=2)))
    assert found == expected and len(ray.actors) == 2


def no_model(*_: object) -> FourM:
    raise AssertionError("actors load it")
