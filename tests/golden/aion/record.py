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

from fourmill_tests.sky.aion import numbers, reservoir  # noqa: E402

ROOT = next(Path(place) / "aion" for place in sys.path if (Path(place) / "aion/codecs").is_dir())
sys.modules["aion"] = types.ModuleType("aion")
sys.modules["aion"].__path__ = [str(ROOT)]

from aion import modalities  # noqa: E402
from aion.codecs import GridScalarCodec, LogScalarCodec, MultiScalarCodec, ScalarCodec  # noqa: E402

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


if __name__ == "__main__":
    torch.set_num_threads(1)
    configs, found = scalars()
    (HERE / "configs.json").write_text(json.dumps(configs, indent=1) + "\n")
    np.savez_compressed(HERE / "expected.npz", **found)
