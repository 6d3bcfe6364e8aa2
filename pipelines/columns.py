"""The columns of a root that are complete: what a model can be trained on."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from ..modalities import MODALITIES, ModalitySpec
from ..recipe import Recipe, RecipeError
from . import plan as plans
from .specialists.base import Specialist


@dataclass(frozen=True)
class Columns:
    """Columns of the shards that have all of them.

    prints: "tokens/MODALITY" -> fingerprint of what the column is made of and by.
    tokenizers: modality -> those that make its tokens, name -> fingerprint.
    shards: split -> (name, samples) of the complete shards.
    sources: training shard -> SHA-256 of its source.
    """

    root: str
    specs: tuple[ModalitySpec, ...]
    prints: dict[str, str]
    tokenizers: dict[str, dict[str, str]]
    shards: dict[str, tuple[tuple[str, int], ...]]
    sources: dict[str, str] = field(default_factory=dict)

    def identity(self) -> list[Any]:
        """What a model that is trained on them depends on."""
        return [self.prints, self.sources]


def complete(recipe: Recipe, specialists: dict[str, Specialist], tokenizers: dict[str, plans.Fitted]) -> Columns:
    """The columns of the recipe. RecipeError if one of its tokenizers is not fitted."""
    outputs = plans.token_outputs(recipe, specialists, tokenizers)
    plan = plans.make(recipe, outputs)
    first = next(iter(outputs))

    def shards(split: str) -> tuple[tuple[str, int], ...]:
        names = [name for name in plan.splits[split] if name in plan.tasks and not plan.tasks[name].outputs]
        rows = {name: plan.done[first, name].rows for name in names}
        return tuple((name, rows[name]) for name in names if rows[name])

    splits = {split: shards(split) for split in plans.SPLITS}
    return Columns(
        recipe.root,
        tuple(output.spec for output in outputs.values() if output.spec is not None),
        {name: output.fingerprint for name, output in outputs.items()},
        {output.spec.name: output.tokenizers for output in outputs.values() if output.spec is not None},
        splits,
        {name: plan.done[first, name].source.sha256 for name, _ in splits["train"]},
    )


def shared(mine: Columns, other: Columns) -> tuple[str, ...]:
    """The modalities of `mine` that another root has too, in their order.

    RecipeError if one of them was made by another tokenizer, or is of another size.
    """
    where = f"train.datasets: {other.root}"
    specs = {spec.name: spec for spec in other.specs}
    names = tuple(spec.name for spec in mine.specs if spec.name in specs)
    for spec in mine.specs:
        if spec.name not in names:
            continue
        for tokenizer, print_ in mine.tokenizers[spec.name].items():
            if other.tokenizers[spec.name].get(tokenizer) != print_:
                raise RecipeError(
                    f"{where}: its {spec.name} was made by another tokenizer {tokenizer}; tokenize it with this run's "
                    f"(copy {mine.root}/tokenizers and {mine.root}/ledger/tokenizers there)"
                )
        if specs[spec.name] != spec:
            raise RecipeError(f"{where}: its {spec.name} is {specs[spec.name]}, here it is {spec}")
    if not any(MODALITIES[name].is_target for name in names):
        raise RecipeError(f"{where}: it has no modality that this run could predict; it has {', '.join(specs)}")
    return names
