"""A tiny random T5 encoder with a tokenizer of a few words and all letters."""

from __future__ import annotations

import string
from pathlib import Path
from typing import Any

import torch


def t5(folder: Path, width: int = 16) -> Path:
    import transformers as hf

    pieces = [*string.ascii_letters, *string.punctuation, *string.digits, "\u2581a", "\u2581cat", "\u2581dog", "\u2581"]
    vocabulary = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), *((piece, -2.0) for piece in pieces)]
    tokenizer: Any = hf.T5Tokenizer(vocab=vocabulary, extra_ids=0)
    torch.manual_seed(0)
    config: Any = hf.T5Config(
        vocab_size=len(vocabulary), d_model=width, d_kv=8, d_ff=24, num_layers=2, num_heads=2,
        feed_forward_proj="gated-gelu", relative_attention_num_buckets=8,
    )  # fmt: skip
    model: Any = hf.T5EncoderModel(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
