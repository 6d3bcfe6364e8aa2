"""In how many digits labels are encoded on a GPU, by 4M-21's tokenizers at their own sizes, on tensors without data.

- float32: share of the FLOPs of products and attention, where encoding is in half precision.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache, partial

import torch
from fourmill_tests.counted.digits import Digits
from torch._subclasses.fake_tensor import FakeTensorMode

from fourmill.modalities import TOKENIZERS, Form
from fourmill.tokenize.settings import CHANNELS, merge
from fourmill.tokenize.settings import ROWS as SETTINGS
from fourmill.train.tokenizers import build

TITLE = "Encoding"
SIDE = 224
WIDTHS = {"tok_clip": 512, "tok_dinov2": 768, "tok_imagebind": 1280, "tok_dinov2_global": 768, "body_pose": 207}


@cache
def digits_of(name: str) -> Digits:
    """The FLOPs of one label's encoding."""
    entry, width = TOKENIZERS[name], WIDTHS.get(name, 1024)
    settings = merge(name, {}, {})
    sizes = {"codebook_size": entry.vocab_size, "patch_size": settings.patch_size or entry.patch_size or 16}
    settings = settings.model_copy(update=sizes)
    side = SIDE // sizes["patch_size"] if entry.form is Form.FEATURES else entry.image_size or SIDE
    shape = (1, width) if entry.form is Form.VECTOR else (1, CHANNELS.get(entry.form, width), side, side)
    with FakeTensorMode():
        model = build.model(name, settings, SIDE, (width,), 0, entry.n_labels).eval()
        x = torch.zeros(1, side, side).long() if entry.form is Form.CLASSES else torch.zeros(shape)
        x = model.cls_emb(x).movedim(-1, 1) if model.cls_emb is not None else x
        x = x[:, :, None, None] if entry.form is Form.VECTOR else x
        with Digits() as digits, torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
            # What `encode` does but for the checks of values, of which there are none here.
            features = model.encoder(x)
            with torch.autocast("cpu", enabled=False):
                latents = model.quant_proj(features.float())
            model.quantize.encode(latents)
    return digits


def counted(*names: str) -> Mapping[str, float]:
    """The columns of tokenizers, together."""
    together = Digits()
    for name in names:
        together.flops += digits_of(name).flops
    return {"float32": together.in_float32}


ROWS = {name: partial(counted, name) for name in SETTINGS} | {"all labels of a crop": partial(counted, *SETTINGS)}
