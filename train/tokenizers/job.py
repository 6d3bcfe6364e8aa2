"""What is to be fitted."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from ...pipelines.fit_data import FitData
from ...tokenize.settings import TextTokenizer, TokenizerSettings


@dataclass(frozen=True)
class FitJob:
    """What is to be fitted. `prints` are the fingerprints of the settings, by tokenizer; `val` may be None; `versions`
    are what records say of the code that makes each (infra/versions.py).

    tokenizers: settings with their sizes, see `Recipe.tokenizer`; those with `weights` are brought, not fitted.
    classes: the recipe's own lists of classes, by label.
    """

    root: str
    seed: int
    image_size: int
    text: TextTokenizer | None
    tokenizers: dict[str, TokenizerSettings]
    prints: dict[str, str]
    versions: dict[str, dict[str, Any]]
    train: FitData
    val: FitData | None
    share: Literal["tokenizers", "batches"] = "tokenizers"
    classes: dict[str, tuple[str, ...]] = field(default_factory=dict)
