"""DiVAE: parity with the recorded diffusion decoder, and what decoding and training promise."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fourmill_tests.precision import recorded

from fourmill.tokenize import ml4m
from fourmill.tokenize.networks.divae import DiVAE, DiVAEConfig
from fourmill.tokenize.networks.unet import PRESETS, PatchedUNet, UNetSize

GOLDEN = Path(__file__).parents[2] / "golden" / "divae_unet"
SMALL = DiVAEConfig.small(
    16, 1, 2, 32, attention_resolutions=(2,), image_size=16, patch_size=8, codebook_size=32, latent_dim=8,
    prediction_type="sample", beta_schedule="linear",
)  # fmt: skip


def untied(config: DiVAEConfig = SMALL) -> DiVAE:
    """A model whose branches are open: fresh ones start at zero, where nothing matters."""
    model = DiVAE(config)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.decoder.parameters():
            if not parameter.any():
                parameter.copy_(0.1 * torch.randn(parameter.shape, generator=generator))
    return model.eval()


@pytest.fixture(scope="module")
def reference() -> tuple[Any, dict[str, torch.Tensor]]:
    return ml4m.load(GOLDEN), recorded(np.load(GOLDEN / "expected.npz"))


@pytest.mark.parametrize("output", ["decoder_out", "decoder_out_cond_masked"])
def test_one_denoising_is_the_references(reference: Any, output: str) -> None:
    model, expected = reference
    mask = expected["cond_mask"] if output.endswith("masked") else None
    result = model(expected["base/input"], noise=expected["noise"], timesteps=expected["timesteps"], cond_mask=mask)
    torch.testing.assert_close(result.prediction, expected[output], atol=1e-4, rtol=0)
    assert torch.equal(result.target, expected["base/input"])


def test_sampling_is_the_references(reference: Any) -> None:
    model, expected = reference
    recon = model.decode(expected["base/tokens"], timesteps=5, noise=expected["ddim5_init"])
    torch.testing.assert_close(recon, expected["ddim5_out"], atol=1e-3, rtol=0)


def test_decoding_depends_on_ids_and_seed_alone() -> None:
    model = untied()
    ids = torch.randint(32, (3, 2, 2), generator=torch.Generator().manual_seed(0))
    torch.manual_seed(1)
    together = model.decode(ids, timesteps=3, seed=4)
    torch.manual_seed(2)
    assert torch.equal(model.decode(ids, timesteps=3, seed=4), together)
    assert not torch.allclose(model.decode(ids, timesteps=3, seed=5), together)
    for i in range(3):
        torch.testing.assert_close(model.decode(ids[i : i + 1], timesteps=3, seed=4)[0], together[i])
    several = model.decode(ids, timesteps=3, seed=[4, 5, 4])
    torch.testing.assert_close(several[::2], together[::2])
    torch.testing.assert_close(several[1], model.decode(ids[1:2], timesteps=3, seed=5)[0])
    with pytest.raises(ValueError, match="2 seeds for 3 samples"):
        model.decode(ids, timesteps=3, seed=[1, 2])


def test_codes_matter_and_guidance_leads_away_from_none() -> None:
    model = untied()
    noise = torch.randn(1, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    ids = torch.zeros(1, 2, 2, dtype=torch.int64)
    decoded = {w: model.decode(ids, timesteps=1, guidance=w, noise=noise) for w in (0.0, 1.0, 2.0)}
    assert not torch.allclose(decoded[0.0], decoded[1.0])
    assert torch.equal(decoded[0.0], model.decode(ids + 7, timesteps=1, guidance=0.0, noise=noise))
    # One step of a model that predicts x0 is its output: linear in the weight, but for the clamp.
    inside = torch.stack(list(decoded.values())).abs().amax(0) < 1
    expected = 2 * decoded[1.0] - decoded[0.0]
    assert inside.float().mean() > 0.1
    torch.testing.assert_close(decoded[2.0][inside], expected[inside])


@pytest.mark.parametrize("size", [(16, 16), (32, 48)])
def test_other_resolutions(size: tuple[int, int]) -> None:
    model = untied()
    x = torch.rand(1, 3, *size) * 2 - 1
    ids = model.encode(x)
    assert ids.shape == (1, size[0] // 8, size[1] // 8)
    assert model.decode(ids, timesteps=2).shape == x.shape
    assert model.decode(ids, timesteps=2, image_size=(64, 64)).shape == (1, 3, 64, 64)
    assert model.step(x).prediction.shape == x.shape


def test_images_must_divide_into_all_patches() -> None:
    config = DiVAEConfig.small(16, 1, 2, 32, channel_mult=(1, 1, 1), image_size=24, patch_size=12, codebook_size=32)
    assert config.multiple == 48
    with pytest.raises(ValueError, match=r"24 x 24 px; expected multiples of 48"):
        DiVAE(config).step(torch.zeros(1, 3, 24, 24))


@pytest.mark.parametrize("prediction", ["sample", "epsilon", "v_prediction"])
def test_a_training_step_reaches_encoder_and_decoder(prediction: str) -> None:
    changes = {"prediction_type": prediction, "zero_terminal_snr": False}
    model = DiVAE(DiVAEConfig.model_validate(SMALL.model_dump() | changes))
    model.load_state_dict(untied().state_dict())
    x = torch.rand(4, 3, 16, 16) * 2 - 1
    output = model.train().step(x, torch.Generator().manual_seed(0))
    assert output.prediction.shape == output.target.shape == x.shape and output.commitment > 0
    assert torch.equal(output.target, x) == (prediction == "sample")
    ((output.prediction - output.target).square().mean() + output.commitment).backward()
    assert [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()] == []


def test_draws_of_a_step_come_from_its_generator() -> None:
    config = SMALL.model_copy(update={"cls_free_guidance_dropout": 0.5})
    x = torch.rand(4, 3, 16, 16) * 2 - 1
    predictions = []
    for state, seed in ((1, 0), (2, 0), (1, 1)):
        torch.manual_seed(state)
        predictions.append(untied(config).train().step(x, torch.Generator().manual_seed(seed)).prediction)
    assert torch.equal(predictions[0], predictions[1]) and not torch.equal(predictions[0], predictions[2])


@pytest.mark.parametrize(("dropout", "training", "same"), [(1.0, True, True), (1.0, False, False), (0.0, True, False)])
def test_guidance_dropout_takes_all_codes_of_a_sample(dropout: float, training: bool, same: bool) -> None:
    """Where codes are dropped, two images of equal noised versions are denoised alike."""
    model = untied(SMALL.model_copy(update={"cls_free_guidance_dropout": dropout})).train(training)
    x = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(1)) * 2 - 1
    last = torch.full((2,), 999)  # noise alone
    noise = torch.randn(1, 3, 16, 16).expand(2, -1, -1, -1)
    prediction = model(x, noise=noise, timesteps=last).prediction
    assert torch.allclose(prediction[0], prediction[1]) == same


def test_a_small_fit_decodes_what_it_saw() -> None:
    """Two flat colours: after some steps the sampled colours are the same, which no model gets by chance."""
    model = DiVAE(SMALL.model_copy(update={"ema_decay": 0.8, "norm_latents": True})).train()
    x = torch.tensor([[0.8, -0.6, 0.1], [-0.7, 0.5, 0.4]])[:, :, None, None].expand(2, 3, 8, 8).contiguous()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for step in range(20):
        output = model.step(x.repeat(2, 1, 1, 1), torch.Generator().manual_seed(step))
        loss = (output.prediction - output.target).square().mean() + output.commitment
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.eval()
    recon = model.decode(model.encode(x), timesteps=4)
    assert (recon - x).square().mean() < 0.05 < x.square().mean()


def test_published_sizes() -> None:
    config = DiVAEConfig(post_mlp=True)
    assert config.decoder_size() == PRESETS["unet_patched"] and config.multiple == 32
    with torch.device("meta"):
        unet = PatchedUNet(PRESETS["unet_patched"], 3, 32)
    # The last level is 28 / 8 patches wide at 224 px; attention is at the levels of 4 and 8.
    assert unet.input_blocks[0][0].weight.shape == (256, 3 * 16 + 32, 3, 3)
    attending = [i for i, block in enumerate(unet.input_blocks) if len(block) > 1]
    assert attending == [9, 10, 11, 13, 14, 15]
    assert len(unet.output_blocks) == 16


def test_sizes_that_cannot_be_built_are_refused() -> None:
    with pytest.raises(ValueError, match=r"48 channels.*multiples of 32"):
        UNetSize(32, (1, 1.5), 1)
    with pytest.raises(ValueError, match="needs a ViT"):
        DiVAEConfig(enc_type="BottleneckMLP/B_1-Wi_8")


def test_the_default_number_of_steps_sizes_and_seeds() -> None:
    short = DiVAE(DiVAEConfig.small(16, 1, 2, 32, image_size=16, patch_size=8, num_train_timesteps=7)).eval()
    ids = short.encode(torch.rand(2, 3, 16, 16) * 2 - 1)
    assert torch.equal(short.decode(ids), short.decode(ids, timesteps=7))
    square = short.decode(ids, image_size=(32, 32), seed=3)
    assert torch.equal(short.decode(ids, image_size=32, seed=np.int64(3)), square)
