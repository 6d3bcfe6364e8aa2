"""What generation is asked for, as plain values: importing this loads no torch, so that `status` need not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ...infra import storage
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

    run: the folder of the run. first_sentinel, num_sentinels: of the text tokenizer, from [S_0].
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

    @property
    def folder(self) -> str:
        return storage.join(self.run, "generated", self.fingerprint)

    def is_there(self) -> bool:
        """Whether every chain has its samples: somebody may have deleted them under their record."""
        chains = range(len(self.settings.chains))
        return all(storage.exists(storage.join(self.folder, f"chain-{i}", "samples.json")) for i in chains)

    @property
    def title(self) -> str:
        """The run as reports name it, NAME/FINGERPRINT."""
        return f"{self.run_name}/{self.run.rpartition('/')[2]}"


def of_run(run: TrainJob, settings: Generate, options: Options, sources: Sequence[tuple[str, str]]) -> GenerateJob:
    """The job of a run.

    Args:
        sources: the validation shards, with the SHA-256 of their bytes.
    """
    return GenerateJob(
        root=run.root,
        run_name=run.settings.name,
        run=run.folder,
        fingerprint=fingerprint("generate", run.fingerprint, hashed(settings), sources),
        settings=settings,
        specs=run.specs,
        splits={"train": run.shards, "val": run.val_shards},
        options=options,
        # Generation counts sentinels from [S_0], masking from [S_1].
        first_sentinel=run.first_sentinel - 1,
        num_sentinels=run.num_sentinels,
    )
