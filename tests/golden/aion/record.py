"""Records what AION-1's own codecs give (tests/golden/aion/*), at small sizes.

Run by hand, where polymathic-aion (MIT), jaxtyping, einops, SciPy and huggingface_hub are beside PyTorch; nothing of
theirs is kept but numbers, the content of the config.json that they write, and the names and shapes of weights:

    PYTHONPATH=... python tests/golden/aion/record.py

The package's own __init__.py is passed over: it imports its 4M.
"""

from __future__ import annotations

import json
import sys
import tempfile
import types
from pathlib import Path

import numpy as np
import torch

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parents[1] / "support"))

from fourmill_tests.sky.aion import SHOWN, SURVEYS, flux, numbers, reservoir, spectrum, weight  # noqa: E402

ROOT = next(Path(place) / "aion" for place in sys.path if (Path(place) / "aion/codecs").is_dir())
sys.modules["aion"] = types.ModuleType("aion")
sys.modules["aion"].__path__ = [str(ROOT)]

from aion import modalities  # noqa: E402
from aion.codecs import GridScalarCodec, ImageCodec, LogScalarCodec, MultiScalarCodec, ScalarCodec, SpectrumCodec  # noqa: E402
from aion.codecs.preprocessing.image import RescaleToLegacySurvey  # noqa: E402

CODES, SAMPLES = 24, 90
CODECS = {
    "plain": (ScalarCodec, modalities.HSCAG, {"reservoir_size": SAMPLES}),
    "logarithm": (LogScalarCodec, modalities.LegacySurveyFluxG, {"reservoir_size": SAMPLES}),
    "grid": (GridScalarCodec, modalities.Z, {}),
    "several": (
        MultiScalarCodec, modalities.GaiaXpBp,
        {"reservoir_size": SAMPLES, "num_quantizers": 3, "compression_fns": ["arcsinh"], "decompression_fns": ["sinh"]},
    ),
}  # fmt: skip


def scalars() -> tuple[dict[str, dict], dict[str, np.ndarray]]:
    configs, found = {}, {}
    for name, (kind, modality, more) in CODECS.items():
        codec = kind(modality=modality.name, codebook_size=CODES, **more).eval()
        parts = list(getattr(codec.quantizer, "quantizers", [codec.quantizer]))
        for i, part in enumerate(parts):
            if name != "grid":
                part._update_reservoirs(torch.from_numpy(reservoir(f"{name} {i}", SAMPLES)))
        with tempfile.TemporaryDirectory() as folder:
            codec.save_pretrained(folder, modality)
            configs[name] = json.loads((Path(folder) / "codecs" / modality.name / "config.json").read_text())
        values = {key: value.numpy() for key, value in codec.state_dict().items()}
        found |= {f"{name}/weights/{key}": value for key, value in values.items()}
        lists = [value for key, value in values.items() if key.endswith(("_index_to_val", "buckets"))]
        x = torch.from_numpy(np.stack([numbers(f"{name} {i}", one) for i, one in enumerate(lists)], 1))
        ids = codec.encode(modality(value=x if len(lists) > 1 else x[:, 0]))
        every = torch.arange(CODES)
        decoded = codec.decode(every[:, None].expand(-1, len(lists)) if len(lists) > 1 else every).value
        found |= {f"{name}/ids": ids.numpy().astype(np.int64), f"{name}/decoded": decoded.numpy()}
    return configs, found


def images() -> tuple[dict[str, dict], dict[str, np.ndarray]]:
    # The package's own way back for HSC calls a method that it does not have; this is the inverse of its way there.
    RescaleToLegacySurvey._reverse_zeropoint = RescaleToLegacySurvey.convert_zeropoint
    codec = ImageCodec(
        quantizer_levels=[8, 5, 6], embedding_dim=3, hidden_dims=16, num_consecutive=2, multisurvey_projection_dims=10
    ).eval()
    codec.load_state_dict(
        {k: torch.from_numpy(weight(k, v.shape)) if v.is_floating_point() else v for k, v in codec.state_dict().items()}
    )
    with tempfile.TemporaryDirectory() as folder:
        codec.save_pretrained(folder, modalities.LegacySurveyImage)
        config = json.loads((Path(folder) / "codecs/image/config.json").read_text())
    found = {}
    with torch.no_grad():
        for survey, bands in SURVEYS.items():
            x = torch.from_numpy(flux(survey, len(bands)))
            ids = codec.encode(modalities.Image(flux=x.clone(), bands=bands))
            decoded = codec.decode(ids[:1], bands=bands).flux[..., SHOWN, SHOWN]
            found |= {f"images/ids/{survey}": ids.numpy().astype(np.int64), f"images/decoded/{survey}": decoded.numpy()}
    shapes = {name: list(value.shape) for name, value in codec.state_dict().items()}
    return {"images": {"config": config, "shapes": shapes}}, found


def spectra() -> tuple[dict[str, dict], dict[str, np.ndarray]]:
    codec = SpectrumCodec(
        encoder_depths=(1, 2, 1), encoder_dims=(8, 12, 16), decoder_depths=(1, 1, 2), decoder_dims=(12, 8, 2),
        num_pixels=320, resolution=3.2, latent_channels=16, embedding_dim=6, codebook_size=64, dim=6, clip_flux=40.0,
    ).eval()  # fmt: skip
    state = codec.state_dict()
    kept = ("_quantizer", "latent_grid", "normalization_quantizer")
    made = {k: v if k.startswith(kept) else torch.from_numpy(weight(k, v.shape)) for k, v in state.items()}
    codec.load_state_dict(made)
    with tempfile.TemporaryDirectory() as folder:
        codec.save_pretrained(folder, modalities.DESISpectrum)
        config = json.loads((Path(folder) / "codecs/spectrum/config.json").read_text())
    x, at = (torch.from_numpy(one) for one in spectrum())
    found = {f"spectra/{name}": state[name].numpy() for name in state if name.endswith(("buckets", "_wavelength"))}
    with torch.no_grad():
        given = modalities.Spectrum(flux=x[:, 0], ivar=x[:, 1], mask=x[:, 0].isnan(), wavelength=at)
        ids = codec.encode(given)
        found["spectra/ids"] = ids.numpy().astype(np.int64)
        found["spectra/decoded"] = codec.decode(ids).flux.numpy()
        found["spectra/decoded there"] = codec.decode(ids, wavelength=at).flux.numpy()
    return {"spectra": {"config": config, "shapes": {k: list(v.shape) for k, v in state.items()}}}, found


if __name__ == "__main__":
    torch.set_num_threads(1)
    configs, found = scalars()
    for more, numbers_ in (images(), spectra()):
        configs, found = configs | more, found | numbers_
    (HERE / "configs.json").write_text(json.dumps(configs, indent=1) + "\n")
    np.savez_compressed(HERE / "expected.npz", **found)
