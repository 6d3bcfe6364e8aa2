"""Columns of two tokenizers are no dataset."""

from __future__ import annotations

from pathlib import Path

from fourmill_tests import training
from fourmill_tests.cases import require


def test_training_refuses_columns_of_another_tokenizer(tmp_path: Path) -> None:
    """While a model trains, its tokenizer is fitted again and the root tokenized: a worker that is started again must
    not go on with ids of another codebook."""
    training.write_columns(tmp_path, "train", 32, tokenizer="tokenizer-A")
    training.write_columns(tmp_path, "val", 8, seed=1, tokenizer="tokenizer-B")
    refused = False
    try:
        training.train(training.job(tmp_path, steps=2, checkpoint_every=2, warmup_steps=1))
    except ValueError:
        refused = True
    require(refused, "the model is trained on ids of one tokenizer and validated on those of another, without a word")
