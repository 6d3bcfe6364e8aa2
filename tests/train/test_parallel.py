"""What FSDP gathers at a time, counted on a model without data and for workers that are not there."""

from __future__ import annotations

from dataclasses import replace

import torch
from fourmill_tests.counted.gathered import gathered_bytes

from fourmill.modalities import spec
from fourmill.model.config import FourMConfig
from fourmill.model.fourm import FourM

NAMES = ("rgb", "caption", "det", "tok_rgb", "tok_depth", "tok_normal", "tok_semseg", "tok_clip")


def test_no_unit_of_fsdp_is_large() -> None:
    """Blocks and tables are gathered on their own, in 16 bits; no parameter is in two units, and none is left out."""
    specs = [spec(name, image_size=224) for name in NAMES]
    config = replace(FourMConfig.preset("XL", specs), encoder_depth=2, decoder_depth=2)
    units = gathered_bytes(config)
    rest = units.pop("")
    assert max(units.values()) == units["model.encoder_embeddings"] == 105_056 * 2048 * 2 < 1e9
    assert len(units) == 6 and rest < 0.05e9
    with torch.device("meta"):
        parameters = sum(p.numel() for p in FourM(config).parameters())
    assert sum(units.values()) / 2 + rest / 4 == parameters
