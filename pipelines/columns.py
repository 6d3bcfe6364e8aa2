"""The columns of a root that are complete: what a model can be trained on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..infra.configuration import RecipeError
from ..infra.fingerprint import fingerprint
from ..infra.index import index
from ..modalities import MODALITIES, ModalitySpec
from . import plan as plans
from .outputs import Output


@dataclass(frozen=True)
class Columns:
    """Columns of the shards that have all of them.

    prints: "tokens/MODALITY" -> fingerprint of what the column is made of and by.
    tokenizers: modality -> those that make its tokens, name -> fingerprint.
    shards: split -> (name, samples) of the complete shards.
    sources: training shard -> SHA-256 of its source.
    versions: column -> the versions that made it where they are not the first ones, each set once.
    footers: shard -> modality -> sum of the footer of its column, as far as records know it.
    """

    root: str
    specs: tuple[ModalitySpec, ...]
    prints: dict[str, str]
    tokenizers: dict[str, dict[str, str]]
    shards: dict[str, tuple[tuple[str, int], ...]]
    sources: dict[str, str] = field(default_factory=dict)
    versions: dict[str, list[dict[str, int]]] = field(default_factory=dict)
    footers: dict[str, dict[str, str]] = field(default_factory=dict)

    def identity(self) -> list[Any]:
        """What a model that is trained on them depends on."""
        # Columns that were made again by corrected code hold other tokens under the same fingerprint.
        return [self.prints, self.sources, *([self.versions] if self.versions else [])]


def complete(root: str, plan: plans.Plan, among: Collection[str] | None = None) -> Columns:
    """The columns of a root, of the shards that have all of them.

    Args:
        plan: of token outputs alone.
        among: of the training shards these alone; None for all.
    """
    first = next(iter(plan.outputs))

    def shards(split: str) -> tuple[tuple[str, int], ...]:
        names = [name for name in plan.splits[split] if name in plan.tasks and not plan.tasks[name].outputs]
        rows = {name: plan.done[first, name].rows for name in names}
        return tuple((name, rows[name]) for name in names if rows[name])

    splits = {split: shards(split) for split in plans.SPLITS}
    if among is not None:
        splits["train"] = tuple(one for one in splits["train"] if one[0] in among)
    outputs = plan.outputs.values()
    trained = [name for name, _ in splits["train"]]
    return Columns(
        root,
        tuple(output.spec for output in outputs if output.spec is not None),
        {output.name: _print(plan, output, trained) for output in outputs},
        {output.spec.name: output.tokenizers for output in outputs if output.spec is not None},
        splits,
        {name: plan.done[first, name].source.sha256 for name in trained},
        _versions(plan, trained),
        {shard: _footers(plan, shard) for of_split in splits.values() for shard, _ in of_split},
    )


def _footers(plan: plans.Plan, shard: str) -> dict[str, str]:
    outputs = {name: output.spec for name, output in plan.outputs.items() if output.spec is not None}
    sums = {spec.name: plan.done[name, shard].footer for name, spec in outputs.items()}
    return {name: sum_ for name, sum_ in sums.items() if sum_}


def recorded(root: str, specs: Sequence[ModalitySpec], names: Sequence[str], shards: plans.Shards) -> Columns:
    """The columns of a root whose recipe asks for code that is not run: what its records say of them.

    Args:
        specs: of the modalities that are declared. names: all modalities of its recipe.
        shards: that its recipe names. Of each column the commonest fingerprint counts.
    """
    sizes = {spec.name: spec for spec in specs}
    records = index.read_many(root, [f"tokens/{name}" for name in names], shards.urls).entries
    plan = plans.Plan({}, shards.urls, shards.splits)
    for name in names:
        of_column = [record for (output, _), record in records.items() if output == f"tokens/{name}"]
        if not of_column:
            raise RecipeError(f"{root}: it has no column of {name}, which its recipe names; tokenize it first")
        print_ = Counter(record.fingerprint for record in of_column).most_common(1)[0][0]
        good = {record.shard: record for record in of_column if record.fingerprint == print_}
        tokenizers = next(iter(good.values())).identity.get("tokenizers", {})
        output = Output(f"tokens/{name}", "", print_, spec=sizes.get(name), tokenizers=tokenizers)
        plan.outputs[output.name] = output
        plan.done |= {(output.name, shard): record for shard, record in good.items()}
    for shard, url in shards.urls.items():
        missing = tuple(output for output in plan.outputs if (output, shard) not in plan.done)
        plan.tasks[shard] = plans.ShardTask(shard, url, "", missing)
    return complete(root, plan)


def _print(plan: plans.Plan, output: Output, shards: list[str]) -> str:
    """The fingerprint of a column as its records have it: a run on columns of the first release hashed their `former`
    one. The current one if records differ, or there are none. Of an imported one its contents count as well: nothing
    else says what it was made of."""
    if output.imported:
        return fingerprint(output.fingerprint, [plan.done[output.name, shard].sha256 for shard in shards])
    recorded = {plan.done[output.name, shard].fingerprint for shard in shards}
    return recorded.pop() if len(recorded) == 1 else output.fingerprint


def _versions(plan: plans.Plan, shards: list[str]) -> dict[str, list[dict[str, int]]]:
    versions = {}
    for output in plan.outputs:
        recorded = [plan.done[output, shard].identity.get("versions", {}) for shard in shards]
        if any(recorded):
            distinct = {tuple(sorted(one.items())) for one in recorded}
            versions[output] = [dict(one) for one in sorted(distinct)]
    return versions


def shared(own: Columns, other: Columns) -> tuple[str, ...]:
    """The modalities of `own` that another root has too, in their order.

    RecipeError if one of them was made by another tokenizer, or is of another size.
    """
    where = f"train.datasets: {other.root}"
    specs = {spec.name: spec for spec in other.specs}
    names = tuple(spec.name for spec in own.specs if spec.name in specs)
    for spec in own.specs:
        if spec.name not in names:
            continue
        for tokenizer, print_ in own.tokenizers[spec.name].items():
            if other.tokenizers[spec.name].get(tokenizer) != print_:
                raise RecipeError(
                    f"{where}: its {spec.name} was made by another tokenizer {tokenizer}; tokenize it with this run's "
                    f"(copy {own.root}/tokenizers and {own.root}/ledger/tokenizers there)"
                )
        if specs[spec.name] != spec:
            raise RecipeError(f"{where}: its {spec.name} is {specs[spec.name]}, here it is {spec}")
    if not any(MODALITIES[name].is_target for name in names):
        raise RecipeError(f"{where}: it has no modality that this run could predict; it has {', '.join(specs)}")
    return names
