"""What FSDP gathers at a time, counted on a model without data and for workers that are not there."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from fourmill_tests.counted.gathered import gathered_bytes

from fourmill.modalities import spec
from fourmill.model.config import FourMConfig
from fourmill.model.fourm import FourM
from fourmill.train import parallel

NAMES = ("rgb", "caption", "det", "tok_rgb", "tok_depth", "tok_normal", "tok_semseg", "tok_clip")


def test_large_tables_are_gathered_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    specs = [spec(name, image_size=224) for name in NAMES]
    config = replace(FourMConfig.preset("XL", specs), encoder_depth=1, decoder_depth=1)
    before = gathered_bytes(config)
    monkeypatch.setattr(parallel, "UNIT_BYTES", 200_000_000)
    units = gathered_bytes(config)
    parts = {name: size for name, size in units.items() if ".parts." in name}
    assert max(parts.values()) <= 200_000_000 and sum(units.values()) == sum(before.values())
    for side in ("encoder_embeddings", "decoder_embeddings"):
        mine = [size for name, size in parts.items() if side in name]
        assert len(mine) == 3 and sum(mine) == before[f"model.{side}"] - units.get(f"model.{side}", 0)


def test_tables_in_parts_are_read_as_one() -> None:
    """Embeddings, the tables of modalities, and gradients, bit for bit; parts have whole modalities."""
    specs = [spec(name, image_size=224) for name in NAMES]
    config = replace(FourMConfig.preset("S", specs), dim=8, num_heads=1, encoder_depth=1, decoder_depth=1)
    one = FourM(config)
    other = copy.deepcopy(one)
    for side in (other.encoder_embeddings, other.decoder_embeddings):
        side.split(40_000)
        ends = [begin + len(table) for _, table, begin, _ in side.tables()]
        assert len(ends) == 4 and set(ends) <= {rows.stop for rows in side.token_rows.values()}
    names = ("caption", "det", "tok_rgb", "tok_clip")
    mod = torch.tensor([[config.index(name) for name in names]])
    ids, valid = torch.tensor([[7, 3, 11, 8191]]), torch.ones(1, 4, dtype=torch.bool)
    args = ids, mod, torch.zeros_like(ids), valid, valid
    for side in ("encoder_embeddings", "decoder_embeddings"):
        whole, parts = getattr(one, side), getattr(other, side)
        made = [table(*args, model.modality_table) for table, model in ((whole, one), (parts, other))]
        assert torch.equal(made[0][0], made[1][0]) and torch.equal(made[0][1], made[1][1])
        for (x, emb), table in zip(made, (whole, parts), strict=True):
            heads = torch.stack([rows.square().mean() for rows in table.token_tables().values()])
            (x.sin().sum() + emb.sum() + heads.sum()).backward()
        assert torch.equal(torch.cat([part.rows.grad for part in parts.parts]), whole.tokens.grad)
        assert whole.token_tables().keys() == parts.token_tables().keys()
    assert torch.equal(one.modality_table.grad, other.modality_table.grad)


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
