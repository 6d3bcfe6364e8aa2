"""Settings of a tokenizer that is finished elsewhere, and what its bands were standardized by."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field, model_validator

from ...modalities import Form, Tokenizer
from ..networks.quantizers import QuantizerSettings
from ..sensors.statistics import Statistics

if TYPE_CHECKING:
    from ..networks.vqvae import VQConfig

_STANDARDIZED = (Form.RASTER, Form.SERIES)
_OUTERMOST = 2.0  # deviations: about the 2nd and 98th percentile


class FinishedSettings(QuantizerSettings):
    """A finished tokenizer instead of a fit.

    weights: hub id, local folder, or a .pt of TerraMind's.
    mean, std: of each band, in the unit of the sensor, by which it was standardized; of one that does not say it.
    """

    weights: str | None = None
    revision: str | None = None
    mean: Annotated[tuple[float, ...], Field(min_length=1)] | None = None
    std: Annotated[tuple[Annotated[float, Field(gt=0)], ...], Field(min_length=1)] | None = None

    @model_validator(mode="after")
    def _go_together(self) -> FinishedSettings:
        if len(self.mean or ()) != len(self.std or ()):
            raise ValueError(
                f"mean and std: got {len(self.mean or ())} and {len(self.std or ())}; say both of each band"
            )
        if self.mean is not None and self.weights is None:
            raise ValueError("mean and std are of a finished tokenizer (weights); a fit measures them")
        return self


def problem(entry: Tokenizer, settings: FinishedSettings, config: VQConfig) -> str:
    """Why nobody knows how bands are to be standardized, "" if somebody does."""
    if settings.mean is None:
        if entry.form not in _STANDARDIZED or config.statistics is not None:
            return ""
        return (
            "it does not say by which mean and deviation its bands were standardized, and with others its tokens mean "
            "nothing; say mean and std of each band, in the unit of the sensor"
        )
    if entry.form not in _STANDARDIZED or config.statistics is not None:
        return "mean and std are of bands whose tokenizer does not say them; leave them out"
    if len(settings.mean) != config.n_channels:
        return f"mean and std are of {len(settings.mean)} bands, it reads {config.n_channels}"
    return ""


def statistics(settings: FinishedSettings, bands: tuple[str, ...], unit: str = "") -> dict[str, Any]:
    """The field of a config that says by what bands are standardized; {} if the settings do not."""
    if settings.mean is None or settings.std is None:
        return {}
    mean, std = settings.mean, settings.std
    low, high = (tuple(m + side * _OUTERMOST * s for m, s in zip(mean, std, strict=True)) for side in (-1, 1))
    # Nothing was measured here: ranges are those of a normal distribution.
    known = Statistics(
        bands=bands or ("",) * len(mean), unit=unit, mean=mean, std=std, low=low, median=mean, high=high, least=low,
        most=high, valid=(1.0,) * len(mean), samples=0,
    )  # fmt: skip
    return {"statistics": known}
