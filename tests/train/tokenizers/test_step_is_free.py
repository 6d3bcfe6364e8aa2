"""What a step of a fit asks of a device, counted: no wait, one graph for all blocks of a width, a byte for a pixel."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from fourmill_tests.counted.operations import Operations, counting

from fourmill.tokenize.networks.divae import DiVAE, DiVAEConfig
from fourmill.tokenize.networks.unet import UNetSize
from fourmill.tokenize.networks.uvit import UViTSize
from fourmill.tokenize.networks.vit import ViTSize
from fourmill.tokenize.networks.vqvae import VQVAE, VQVAEConfig
from fourmill.tokenize.settings import TokenizerSettings
from fourmill.train.requests import Asked
from fourmill.train.tokenizers import fit
from fourmill.train.tokenizers.examples import Batch, batches
from fourmill.train.tokenizers.vq import VQTrainer, compile_parts
from fourmill.train.tokenizers.window import Window

TINY: dict[str, Any] = {"image_size": 16, "patch_size": 8, "codebook_size": 16, "latent_dim": 8}


def diffusion(decoder: UNetSize | UViTSize, **settings: Any) -> DiVAE:
    sizes = {"enc": ViTSize(16, 1, 2), "dec": decoder}
    return DiVAE(DiVAEConfig(enc_type="enc", dec_type="dec", sizes=sizes, **TINY, **settings))


MODELS = {
    "grid": lambda: VQVAE(VQVAEConfig.small(16, 1, 2, out_conv=True, **TINY)),
    "vectors": lambda: VQVAE(VQVAEConfig.mlp(12, 32, 1, num_codebooks=4, codebook_size=16, latent_dim=32)),
    "unet": lambda: diffusion(UNetSize(32, (1.0, 2.0), 1, (), 4), cls_free_guidance_dropout=0.5),
    "uvit": lambda: diffusion(UViTSize((32,), 1, 1, 32, True, 4)),
}


def settings(**changes: Any) -> TokenizerSettings:
    return TokenizerSettings.model_validate({"steps": 25, "warmup_steps": 2, "base_lr": 1e-2, "average": 0.9} | changes)


def examples(kind: str) -> torch.Tensor:
    random = torch.Generator().manual_seed(0)
    return torch.rand(8, 12, generator=random) if kind == "vectors" else torch.rand(8, 3, 16, 16, generator=random)


@pytest.mark.parametrize(
    ("kind", "precision"), [("grid", "fp16"), ("vectors", "bf16"), ("unet", "fp16"), ("uvit", "fp32")]
)
def test_no_operation_of_a_step_waits(kind: str, precision: str) -> None:
    """Forward, backward, codes that die, clipping, scaling, AdamW and the average, and losses that are not read."""
    trainer, x = VQTrainer(MODELS[kind](), settings(precision=precision, dead_code_coefficient=1.0)), examples(kind)
    replaced = 0.0
    for _ in range(3):
        with Operations() as mode:
            values = trainer.step(x)
        assert mode.seen["addmm"] + mode.seen["mm"] > 5, "the step was not seen"
        assert not mode.waits
        replaced += float(values["codes_replaced"])
    assert replaced > 0 or kind == "vectors", "no code died: that was not seen"
    idle = {id(p) for p in trainer.parameters if p.grad is None}
    unread = trainer.model.unread_parameters() if isinstance(trainer.model, DiVAE) else []
    assert idle == {id(p) for p in unread}, "several workers would wait for these gradients"


def test_the_newest_window_is_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """Losses are read when the step after their window has begun, but for a checkpoint."""
    trainer, read = VQTrainer(MODELS["vectors"](), settings(checkpoint_every=100)), []
    look = Window.read

    def looking(self: Window) -> dict[str, float]:
        if self.steps:
            read.append(([step for step, _ in self.steps], trainer.steps_done))
        return look(self)

    class Board:
        def post(self, **_: Any) -> None: ...

    class Nothing:
        def take(self) -> Asked:
            return Asked.NOTHING

        def close(self) -> None: ...

    monkeypatch.setattr(Window, "read", looking)
    requests: Any = Nothing()
    fit._train("one", trainer, [(examples("vectors"), None)] * 25, None, "", requests, Board())
    assert [(steps[0], steps[-1], done) for steps, done in read] == [(1, 10, 11), (11, 20, 21), (21, 25, 25)]


def test_blocks_of_a_transformer_share_a_graph() -> None:
    """Whatever the depth and however many steps; what is kept in the end is not compiled."""
    graphs: list[int] = []
    torch._dynamo.reset()
    trainer = VQTrainer(VQVAE(VQVAEConfig.small(16, 3, 2, **TINY)), settings())
    compile_parts(trainer.model, backend=counting(graphs), fullgraph=True)
    for _ in range(4):
        trainer.step(examples("grid"))
        trainer.result().encode(examples("grid"))
    assert len(graphs) == 1


@pytest.mark.parametrize(
    ("name", "dtype", "smaller"), [("tok_rgb", np.uint8, 4), ("tok_semseg", np.uint8, 8), ("tok_depth", np.float16, 2)]
)
def test_pictures_go_to_the_device_as_bytes(name: str, dtype: type, smaller: int) -> None:
    """Bytes of a step, against those of what a tokenizer reads."""
    shape = (9, 16, 16, 3) if name == "tok_rgb" else (9, 16, 16)
    rows = np.random.default_rng(0).integers(0, 100, shape).astype(dtype)
    one = settings(steps=3, color_jitter=0.5)
    made: list[Batch] = list(batches(name, one, rows, 16, 0, 0, 4, 0, "cpu"))
    assert [len(batch.rows) for batch in made] == [4, 4, 4]
    inputs, weight = made[0].to(name, "cpu")
    assert weight is None and inputs.nbytes == smaller * made[0].rows.nbytes
    # Random colours are 16 numbers of a picture.
    assert sum(t.nbytes for t in made[0].tensors()) <= made[0].rows.nbytes + 4 * 64
    assert (made[0].colors is not None) is (name == "tok_rgb")
