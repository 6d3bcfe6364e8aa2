"""Records what terratorch's own classes of TerraMind give (tests/golden/terramind/*), at small sizes.

Run by hand, in an environment that has terratorch (Apache-2.0), einops and diffusers beside PyTorch; nothing of theirs
is kept but numbers, and the names and shapes of weights:

    python tests/golden/terramind/record.py

The packages' own __init__.py are passed over: they import all of terratorch.
"""

from __future__ import annotations

import importlib.util
import json
import sys
import types
from functools import partial
from pathlib import Path
from unittest.mock import patch

import numpy as np
import torch

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parents[1] / "support"))

from fourmill_tests.earth.terramind import class_map, normal, weight  # noqa: E402

ROOT = Path(importlib.util.find_spec("terratorch").submodule_search_locations[0]).parent
for name in ("terratorch", "terratorch.models", "terratorch.models.backbones", "terratorch.models.backbones.terramind"):
    sys.modules[name] = types.ModuleType(name)
    sys.modules[name].__path__ = [str(ROOT.joinpath(*name.split(".")))]

from terratorch.models.backbones.terramind.model import terramind, tm_utils  # noqa: E402
from terratorch.models.backbones.terramind.model.decoder_embeddings import (  # noqa: E402
    ImageTokenDecoderEmbedding,
    SequenceDecoderEmbedding,
)
from terratorch.models.backbones.terramind.model.encoder_embeddings import (  # noqa: E402
    ImageEncoderEmbedding,
    ImageTokenEncoderEmbedding,
    SequenceEncoderEmbedding,
)
from terratorch.models.backbones.terramind.tokenizer import vqvae  # noqa: E402
from terratorch.models.backbones.terramind.tokenizer.models import vit_models  # noqa: E402
from terratorch.models.backbones.terramind.tokenizer.models.unet import unet  # noqa: E402


def fill(model: torch.nn.Module) -> dict[str, list[int]]:
    """Weights by the formula; names and shapes of all that a file of them holds."""
    state, learned = model.state_dict(), dict(model.named_parameters(remove_duplicate=False))
    made = {k: torch.from_numpy(weight(k, v.shape)) for k, v in learned.items() if not k.endswith("pos_emb")}
    # One parameter under two names.
    shared = {k: made[k.replace("decoder_emb", "encoder_emb")] for k in made if k.endswith("mod_emb")
              and k.replace("decoder_emb", "encoder_emb") in made}  # fmt: skip
    model.load_state_dict(state | made | shared)
    return {k: list(v.shape) for k, v in state.items()}


def tokenizers() -> tuple[dict[str, dict[str, list[int]]], dict[str, np.ndarray]]:
    vit_models.vit_tiny_enc = partial(vit_models.ViTEncoder, dim_tokens=16, depth=2, num_heads=2)
    vit_models.vit_tiny_dec = partial(vit_models.ViTDecoder, dim_tokens=16, depth=1, num_heads=2)
    unet.unet_tiny = partial(
        unet.PatchedUNetCondCat, patch_size=4, model_channels=32, num_res_blocks=1, attention_resolutions=[2],
        channel_mult=(1, 2),
    )  # fmt: skip
    shared = {"image_size": 32, "enc_type": "vit_tiny_enc", "post_mlp": True, "patch_size": 16, "quant_type": "fsq",
              "latent_dim": 5, "prediction_type": "sample"}  # fmt: skip
    diffusion = vqvae.DiVAE(
        n_channels=4, dec_type="unet_tiny", patch_size_dec=4, codebook_size="8-8-8-6-5", clip_sample=True, **shared
    ).eval()
    classes = vqvae.VQVAE(n_channels=5, dec_type="vit_tiny_dec", codebook_size="7-5-5-5-5", **shared).eval()
    names = {"diffusion": fill(diffusion), "classes": fill(classes)}
    found = {"positions": diffusion.state_dict()["encoder.pos_emb"].numpy()}
    with torch.no_grad():
        for key, model, shape in (("diffusion", diffusion, (3, 4, 32, 48)), ("classes", classes, (3, 5, 32, 32))):
            found[f"{key}/ids"] = model.tokenize(torch.from_numpy(normal(f"{key}/input", shape))).numpy()
        one_hot = torch.nn.functional.one_hot(torch.from_numpy(class_map()), 5).movedim(-1, 1).float()
        found["classes/ids of a map"] = classes.tokenize(one_hot).numpy()
        decoded = classes.decode_tokens(torch.from_numpy(found["classes/ids of a map"]))
        found["classes/decoded map"] = decoded.argmax(1).numpy().astype(np.uint8)
        noise = torch.from_numpy(normal("diffusion/noise", (1, 4, 32, 48)))
        ids = torch.from_numpy(found["diffusion/ids"][:1])
        # The pipeline draws its own noise.
        with patch("torch.randn", return_value=noise):
            found["diffusion/decoded"] = diffusion.decode_tokens(ids, timesteps=5, verbose=False).numpy()
        found["classes/decoded"] = classes.decode_tokens(torch.from_numpy(found["classes/ids"][:1])).numpy()
    return names, found


# Name -> (class of the embedding's encoder, of its decoder, arguments).
MODALITIES = {
    "untok_sen2l2a@224": (ImageEncoderEmbedding, None, {"num_channels": 6, "patch_size": 4}),
    "untok_dem@224": (ImageEncoderEmbedding, None, {"num_channels": 1, "patch_size": 4}),
    "tok_sen2l2a@224": (ImageTokenEncoderEmbedding, ImageTokenDecoderEmbedding, {"vocab_size": 60, "patch_size": 4}),
    "tok_lulc@224": (ImageTokenEncoderEmbedding, ImageTokenDecoderEmbedding, {"vocab_size": 35, "patch_size": 4}),
    "coords": (SequenceEncoderEmbedding, SequenceDecoderEmbedding, {"vocab_size": 50, "max_length": 4}),
}
SIDE, PATCH, DIM, INPUTS, TARGETS = 16, 4, 32, 24, 20


def model_4m() -> tuple[dict[str, list[int]], dict[str, np.ndarray]]:
    encoders = {name: one[0](image_size=SIDE, **one[2]) for name, one in MODALITIES.items()}
    decoders = {name: one[1](image_size=SIDE, **one[2]) for name, one in MODALITIES.items() if one[1]}
    # As `terramind_v1_base_encdec`, but for its sizes.
    info = {name: {"id": i, "type": "seq" if name == "coords" else "img"} for i, name in enumerate(MODALITIES)}
    model = terramind.TerraMind(
        encoders, decoders, info, dim=DIM, encoder_depth=2, decoder_depth=2, num_heads=2, mlp_ratio=4.0,
        qkv_bias=False, proj_bias=False, mlp_bias=False, act_layer=torch.nn.SiLU, gated_mlp=True,
        norm_layer=partial(tm_utils.LayerNorm, eps=1e-6, bias=False),
    ).eval()  # fmt: skip
    names = fill(model)
    tables = {f"positions/{k}": v[:, :16].numpy() for k, v in model.state_dict().items() if k.startswith("enc")
              and k.endswith(("untok_dem@224.pos_emb", "coords.pos_emb"))}  # fmt: skip
    inputs = {}
    for name, (_, decoder, sizes) in MODALITIES.items():
        rng = np.random.default_rng(len(name))
        count = 10 if name == "coords" else (SIDE // PATCH) ** 2
        if "num_channels" in sizes:
            tensor = normal(name, (2, sizes["num_channels"], SIDE, SIDE))
        else:
            tensor = rng.integers(0, sizes["vocab_size"], (2, count))
        shown, asked = rng.permuted(np.tile(np.arange(count) < 6, (2, 1)), axis=1), rng.random((2, count)) < 0.4
        if name == "coords":  # a text comes first, and is asked for in one run
            shown = np.arange(count)[None] < np.array([[4], [0]])
            asked = (np.arange(count) >= 4) & (np.arange(count) < 8) & ~shown
        asked = asked & ~shown if decoder else np.zeros_like(shown)
        attention = asked.astype(np.int64)
        if name != "coords":
            attention = np.where(np.cumsum(asked, 1) == 1, asked * asked.sum(1, keepdims=True), 0)
        inputs |= {f"{name}/tensor": tensor, f"{name}/input_mask": ~shown, f"{name}/target_mask": ~asked,
                   f"{name}/decoder_attention_mask": attention}  # fmt: skip
    mod_dict = {
        name: {key.split("/")[1]: torch.from_numpy(value) for key, value in inputs.items() if key.startswith(name)}
        for name in MODALITIES
    }
    found = {}
    with torch.no_grad(), patch("random.sample", lambda items, count: list(items)):
        # The order in which the decoder sees modalities is random.
        logits = model(mod_dict, INPUTS, TARGETS, return_logits=True)
        _, _, mask, target_ids, _, mods = model.forward_mask_decoder(
            {n: model.decoder_embeddings[n].forward_embed(d) for n, d in mod_dict.items() if n in decoders}, TARGETS
        )
        for name in decoders:
            here = (mods == info[name]["id"]) & ~mask[:, 0]
            found[f"logits/{name}"] = logits[name][here].numpy()
            found[f"targets/{name}"] = target_ids[here].numpy()
        loss, parts = model(mod_dict, INPUTS, TARGETS)
        found["loss"] = np.array([float(loss), *(float(part) for part in parts.values())])
    kept = {f"inputs/{k}": v for k, v in inputs.items() if v.dtype.kind != "f"}
    return names, kept | found | tables


if __name__ == "__main__":
    torch.set_num_threads(1)
    names, found = tokenizers()
    names["4m"], more = model_4m()
    (HERE / "names.json").write_text(json.dumps(names, separators=(",", ":")) + "\n")
    np.savez_compressed(HERE / "expected.npz", **found, **{f"4m/{key}": value for key, value in more.items()})
