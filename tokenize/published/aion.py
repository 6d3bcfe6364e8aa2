"""AION-1's codecs (polymathic-aion): folders with a model.safetensors and a config.json of their classes' arguments.

Numbers have codecs of quantiles: an id is how many values of a list are smaller, and stands for the value at its place.
Some take a logarithm or another curve before. Here they are tables of intervals of the numbers themselves, with bounds
at the very float32 numbers at which their ids change: nothing is left of the curve that could round in another way.

Images have a network (networks/surveys.py), whose weights get the names that they have here.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ..networks import spectra, surveys

# Curves by PyTorch's names: a config may name no other function.
_CURVES: dict[str, Callable[[Tensor], Tensor]] = {
    "arcsinh": torch.arcsinh, "asinh": torch.asinh, "sinh": torch.sinh, "log": torch.log, "exp": torch.exp,
    "log1p": torch.log1p, "expm1": torch.expm1, "sqrt": torch.sqrt, "square": torch.square, "tanh": torch.tanh,
    "arctanh": torch.arctanh, "atanh": torch.atanh,
}  # fmt: skip
# Modalities whose numbers are logarithms, where a config does not say so, and from which value on they are.
_LOGARITHMS = re.compile(r"FLUX_[A-Z0-9]+|SHAPE_R|phot_\w+_mean_flux|parallax")
_LEAST_LOGARITHM = -3.0
_OUTERMOST = 0x7F80_0000  # infinity, as bits
_IMAGES, _SPECTRA, _FIELDS = "quantizer_levels", "normalization_range", "encoder_output_dim"
_USUAL_BANDS = ("DES-G", "DES-R", "DES-I", "DES-Z")  # of the Legacy Survey
# Ends of names of weights in a layer, and what they are here; the first that fits.
_BLOCKS = (
    (".net.4.to_k", ".gate.where"), (".net.4.net.0", ".gate.inner"), (".net.4.net.2", ".gate.outer"),
    (".net.0.conv", ".wide"), (".net.2", ".narrow"), (".net.0", ".spread"), (".conv", ""), (".1", ""),
)  # fmt: skip


def is_codec(config: Mapping[str, Any]) -> bool:
    """Whether a config.json is of one of these codecs."""
    of_numbers = "modality" in config and "codebook_size" in config
    return "enc_type" not in config and (of_numbers or any(name in config for name in (_IMAGES, _SPECTRA, _FIELDS)))


def read(
    config: Mapping[str, Any], tensors: Mapping[str, Tensor], said: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """A codec as the settings and tensors of a tokenizer.

    Args:
        config: the content of its config.json. tensors: of its model.safetensors.
        said: what a recipe knows of it: `bands` of a raster.

    ValueError if it is of a kind that is not read, or its parts do not fit each other.
    """
    if _IMAGES in config:
        return _images(config, tensors, tuple(said.get("bands") or _USUAL_BANDS))
    if _SPECTRA in config or _FIELDS in config:
        what = "spectra, which fourmill.load_tokenizer reads" if _SPECTRA in config else "segmentation maps"
        raise ValueError(f"it is AION-1's codec of {what}; a recipe takes its codecs of numbers and of images")
    return _table(config, tensors)


def is_of_spectra(config: Mapping[str, Any]) -> bool:
    """Whether a config.json is of the codec of spectra."""
    return _SPECTRA in config and is_codec(config)


def read_spectra(config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> spectra.Spectra:
    """The codec of spectra, in evaluation mode. ValueError if its parts do not fit each other."""
    try:
        model = spectra.Spectra(spectra.SpectraConfig.model_validate(spectra.settings(config)))
        depths = tuple(config["encoder_depths"])
        named = {_name_of_spectra(name, depths): value for name, value in tensors.items()}
        named.pop("", None)
        flat = {name: one.flatten() if name.endswith((".scale", ".shift")) else one for name, one in named.items()}
        model.load_state_dict(flat)
    except (KeyError, RuntimeError) as error:
        raise ValueError(f"its weights do not fit its config.json: {error}") from error
    return model.eval()


_OF_SPECTRA = {
    "normalization_quantizer.buckets": "levels", "latent_grid._wavelength": "wavelength", "pre_quant_norm": "norm",
    "quant_conv": "quant_proj", "post_quant_conv": "post_quant_proj",
}  # fmt: skip


def _name_of_spectra(name: str, depths: tuple[int, ...]) -> str:
    """What a weight of the codec of spectra is called here, "" of what follows from the settings.

    Args:
        depths: blocks of the encoder's stages.
    """
    path, _, kind = name.rpartition(".")
    if name in _OF_SPECTRA or path in _OF_SPECTRA:
        return _OF_SPECTRA.get(name) or f"{_OF_SPECTRA[path]}.{kind}"
    if path == "encoder.norm":
        return f"encoder.layers.{sum(depths) + 2 * len(depths)}.{kind}"
    if found := re.fullmatch(r"encoder\.(downsample_layers|stages)\.(\d+)\.(\d+)(.*)", name):
        # In one row here: of each stage two of norm and convolution, then its blocks.
        stage, place = int(found[2]), int(found[3])
        before = sum(depths[:stage]) + 2 * stage
        number, rest = before + place + (2 if found[1] == "stages" else 0), found[4]
        name = f"encoder.layers.{number}{rest}"
    elif found := re.fullmatch(r"decoder\.(upsample_layers|stages)\.(\d+)\.(\d+)(.*)", name):
        name = f"decoder.stages.{found[2]}.{int(found[3]) + (2 if found[1] == 'stages' else 0)}{found[4]}"
    else:
        return ""
    return name.replace(".grn.gamma", ".scale").replace(".grn.beta", ".shift")


def _images(
    config: Mapping[str, Any], tensors: Mapping[str, Tensor], bands: tuple[str, ...]
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    found = surveys.settings(config, bands)
    last = 2 * found["halvings"] + 3  # of the decoder's layers
    named = {_name_of_images(name, last): value for name, value in tensors.items() if not name.endswith("levels")}
    most = [surveys.BANDS.get(band, 1.0) for band in bands]
    # It standardizes by itself: values reach it as they are.
    known = {
        "bands": bands, "mean": [0.0] * len(bands), "std": [1.0] * len(bands), "low": [-one for one in most],
        "median": [0.0] * len(bands), "high": most, "least": [-one for one in most], "most": most,
        "valid": [1.0] * len(bands), "samples": 0,
    }  # fmt: skip
    return found | {"statistics": known}, named


def _name_of_images(name: str, last: int) -> str:
    """What a weight of the codec of images is called here.

    Args:
        last: number of the decoder's last layer.
    """
    whole = {
        "model.conv_in.conv": "encoder.0", "model.conv_out.conv": f"decoder.{last}", "subsample_in": "projection_in",
        "subsample_out": "projection_out", "pre_quant_proj": "quant_proj", "post_quant_proj": "post_quant_proj",
    }  # fmt: skip
    path, _, kind = name.rpartition(".")
    if path in whole:
        return f"{whole[path]}.{kind}"
    if not (found := re.fullmatch(r"model\.(encoder|decoder)_layers\.(\d+)((?:\.\w+)*)", path)):
        return name
    part, number, rest = found[1], int(found[2]) + (found[1] == "encoder"), found[3]
    for theirs, ours in _BLOCKS:
        if rest.endswith(theirs):
            rest = rest.removesuffix(theirs) + ours
            break
    return f"{part}.{number}{rest}.{kind}"


def _table(config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """A codec of numbers as the settings and tensors of a table of quantiles."""
    lists = _lists(tensors)
    compress, restore = _curves(config)
    inner, centres, samples = [], [], []
    for values, reservoir in lists:
        if len(values) != int(config["codebook_size"]):
            raise ValueError(
                f"its codebook_size is {config['codebook_size']}, and a list of it has {len(values)} values"
            )
        if not values.isfinite().all() or (values[1:] < values[:-1]).any():
            raise ValueError("its values do not rise; copy or download it again")
        inner.append(_bounds(values[:-1], compress))
        centres.append(restore(values).double())
        samples.append(restore(reservoir).double())
    bounds, middles = torch.stack(inner), torch.stack(centres)
    first, last = (torch.stack([m[:, i], b[:, i]]) for m, b, i in ((middles, bounds, 0), (middles, bounds, -1)))
    edges = torch.cat([first.amin(0)[:, None], bounds, last.amax(0)[:, None]], 1)
    found = {
        "table": "quantiles", "codebook_size": middles.shape[1], "num_codebooks": len(lists), "n_channels": len(lists),
        "statistics": _statistics(samples, str(config["modality"])),
    }  # fmt: skip
    return found, {"edges": edges, "centres": middles}


def _lists(tensors: Mapping[str, Tensor]) -> list[tuple[Tensor, Tensor]]:
    """Of each number the values of its codes, and the numbers that they were taken from."""
    # Published files call it `quantizer`, the package `_quantizer`.
    named = {name.removeprefix("_").removeprefix("quantizer."): value.float() for name, value in tensors.items()}
    if "buckets" in named:
        return [(named["buckets"], named["buckets"])]
    if "_index_to_val" in named:
        return [(named["_index_to_val"], named["_reservoir"])]
    count = sum(name.endswith("._index_to_val") for name in named)
    if not count:
        raise ValueError(
            f"its tensors are those of no codec of numbers ({', '.join(sorted(tensors)[:3]) or 'none'}, ...)"
        )
    return [tuple(named[f"quantizers.{i}.{part}"] for part in ("_index_to_val", "_reservoir")) for i in range(count)]  # type: ignore[misc]


def _curves(config: Mapping[str, Any]) -> tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]:
    """What is done to a number, float32, before it is compared with the values, and to a value to get the number."""
    if "compression_fns" in config:
        return _chain(config["compression_fns"]), _chain(config["decompression_fns"][::-1])
    if "min_log_value" not in config and not _LOGARITHMS.fullmatch(str(config["modality"])):
        return (lambda numbers: numbers), (lambda values: values)
    least = math.exp(float(config.get("min_log_value", _LEAST_LOGARITHM)))

    def logarithm(numbers: Tensor) -> Tensor:
        return numbers.clamp(min=least).log()

    return logarithm, torch.exp


def _chain(names: Sequence[str]) -> Callable[[Tensor], Tensor]:
    if unknown := [name for name in names if name not in _CURVES]:
        raise ValueError(f"it compresses by {unknown[0]!r}; known are {', '.join(_CURVES)}")

    def through(values: Tensor) -> Tensor:
        for name in names:
            values = _CURVES[name](values)
        return values

    return through


def _bounds(values: Tensor, compress: Callable[[Tensor], Tensor]) -> Tensor:
    """For each value (n,) the least number, float64, of which the curve is above it; infinite if all are, or none."""
    # Halving over all float32 numbers, whose order is that of their bits: the largest whose curve is not above.
    low = torch.full(values.shape, -_OUTERMOST - 1, dtype=torch.int64)
    high = torch.full(values.shape, _OUTERMOST, dtype=torch.int64)
    while (low < high).any():
        middle = (low + high + 1) // 2
        above = compress(_of_order(middle)) > values
        low, high = torch.where(above, low, middle), torch.where(above, middle - 1, high)
    infinity = torch.tensor(math.inf, dtype=torch.float64)
    found = torch.nextafter(_of_order(low.clamp(min=-_OUTERMOST)).double(), infinity)
    return torch.where(low < -_OUTERMOST, -infinity, found)


def _of_order(places: Tensor) -> Tensor:
    """The float32 numbers of places in their order, 0 that of zero."""
    bits = torch.where(places < 0, -places + 0x8000_0000 - 2**32, places)
    return bits.to(torch.int32).view(torch.float32)


def _statistics(samples: Sequence[Tensor], name: str) -> dict[str, Any]:
    """Of the numbers that a codec was fitted on."""
    of = [one.quantile(torch.tensor([0, 0.02, 0.5, 0.98, 1], dtype=one.dtype)).tolist() for one in samples]
    least, low, median, high, most = (tuple(one[i] for one in of) for i in range(5))
    deviations = [float(one.std(correction=0)) for one in samples]
    return {
        "bands": [name] if len(samples) == 1 else [f"{name} {i}" for i in range(len(samples))],
        "mean": [float(one.mean()) for one in samples], "std": [one or 1.0 for one in deviations],
        "low": low, "median": median, "high": high, "least": least, "most": most, "valid": [1.0] * len(samples),
        "samples": len(samples[0]),
    }  # fmt: skip
