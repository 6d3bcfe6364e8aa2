"""What generation is asked for, as plain values: importing this loads no torch, so that `status` need not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ...infra import ledger, storage
from ...infra.fingerprint import fingerprint, hashed
from ...modalities import ModalitySpec
from ...tokenize.codec import Options
from ..data.groups import ShardRows
from .settings import Generate

if TYPE_CHECKING:
    from ..pretrain.job import TrainJob


@dataclass(frozen=True)
class GenerateJob:
    """Chains to generate with the model of one run, conditioned on samples of a split (name -> shards): in order, the
    first that have every input of a chain.

    run: the folder of the run. step: of the checkpoint that is its model; None for the finished one. first_sentinel,
    num_sentinels: of the text tokenizer, from [S_0].
    places: of the shards, by name: their samples may say where they lie. classes: names of classes, by label.
    """

    root: str
    run_name: str
    run: str
    fingerprint: str
    settings: Generate
    specs: tuple[ModalitySpec, ...]
    splits: dict[str, tuple[ShardRows, ...]]
    options: Options
    first_sentinel: int
    num_sentinels: int
    step: int | None = None
    places: Mapping[str, str] = field(default_factory=dict)
    classes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    @property
    def folder(self) -> str:
        return storage.join(self.run, "generated", self.fingerprint)

    def record(self) -> ledger.Record | None:
        """The record of the finished generations, None if there is none, or somebody has deleted some under it."""
        record = ledger.read(self.root, f"generated/{self.run_name}", self.fingerprint)
        chains = range(len(self.settings.chains)) if record is not None else ()
        samples = (storage.join(self.folder, f"chain-{i}", "samples.json") for i in chains)
        return record if all(map(storage.exists, samples)) else None

    @property
    def title(self) -> str:
        """The run as reports name it, NAME/FINGERPRINT, and the step of a checkpoint."""
        run = f"{self.run_name}/{self.run.rpartition('/')[2]}"
        return run if self.step is None else f"{run}, step {self.step}"


def of_run(
    run: TrainJob,
    settings: Generate,
    options: Options,
    sources: Sequence[tuple[str, str]],
    step: int | None = None,
    places: Mapping[str, str] | None = None,
    classes: Mapping[str, tuple[str, ...]] | None = None,
) -> GenerateJob:
    """The job of a run.

    Args:
        sources: the validation shards, with the SHA-256 of their bytes.
        step: of the checkpoint that is its model; None for the finished one.
        places, classes: see `GenerateJob`; they change no token.
    """
    checkpoint = () if step is None else (step,)
    return GenerateJob(
        root=run.root,
        run_name=run.settings.name,
        run=run.folder,
        fingerprint=fingerprint("generate", run.fingerprint, hashed(settings), sources, *checkpoint),
        settings=settings,
        specs=run.specs,
        splits={"train": run.shards, "val": run.val_shards},
        options=options,
        # Generation counts sentinels from [S_0], masking from [S_1].
        first_sentinel=run.first_sentinel - 1,
        num_sentinels=run.num_sentinels,
        step=step,
        places=places or {},
        classes=classes or {},
    )
