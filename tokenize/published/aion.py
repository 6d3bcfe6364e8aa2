"""AION-1's codecs (polymathic-aion): folders with a model.safetensors and a config.json of their classes' arguments.

Numbers have codecs of quantiles: an id is how many values of a list are smaller, and stands for the value at its place.
Some take a logarithm or another curve before. Here they are tables of intervals of the numbers themselves, with bounds
at the very float32 numbers at which their ids change: nothing is left of the curve that could round in another way.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

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


def is_codec(config: Mapping[str, Any]) -> bool:
    """Whether a config.json is of one of these codecs."""
    return "modality" in config and "codebook_size" in config and "enc_type" not in config


def table(config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """A codec of numbers as the settings and tensors of a table of quantiles.

    Args:
        config: the content of its config.json. tensors: of its model.safetensors.

    ValueError if it is of another kind, or its values do not rise.
    """
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
