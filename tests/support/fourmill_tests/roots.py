"""A small root as `fourmill run` leaves it, made in this process: committed columns, tokenizers, a model."""

from __future__ import annotations

from pathlib import Path

import torch

from fourmill.infra import ledger
from fourmill.tokenize import tokenizer
from fourmill.tokenize.networks.vqvae import VQVAE, VQVAEConfig
from fourmill.tokenize.text.wordpiece import WordPiece
from fourmill.train.pretrain.weights import MODEL, save_model

from . import training

VECTOR = 12  # numbers of the global vectors


def write(root: Path) -> None:
    """Shards "train" (32 samples) and "val" (8) of `training.SPECS`, a WordPiece vocabulary, a tokenizer of global
    tokens, and the run "4m" with a model of random weights."""
    job = training.job(root)
    for spec in training.SPECS:
        for shard in (*job.shards, *job.val_shards):
            commit(root, spec.name, shard.name, shard.rows)
    save_model(training.trainer(job).model, f"{job.folder}/{MODEL}", write=True)
    WordPiece.fit(["a dog on a sofa", "two cats"], vocab_size=4_500).save(root / "tokenizers" / "text")
    torch.manual_seed(0)
    settings = {"num_codebooks": 4, "codebook_size": 32, "latent_dim": 16}
    vectors = VQVAE(VQVAEConfig.mlp(VECTOR, 16, 1, **settings))
    tokenizer.save(vectors, root / "tokenizers" / "tok_dinov2_global", {})
    (root.parent / "recipe.yaml").write_text("root: out\nsamples: a.tar\n")


def commit(root: Path, modality: str, shard: str, rows: int) -> None:
    """The ledger's record of a column that is there."""
    output, source = f"tokens/{modality}", ledger.Source(0, "", "")
    data = Path(ledger.output_url(str(root), output, shard)).read_bytes()
    ledger.commit(str(root), ledger.Record(output, shard, "print", source, rows, 0, [], 0, "", 0.0), data)
