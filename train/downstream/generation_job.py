"""What generation is asked for, as plain values: importing this loads no torch, so that `status` need not."""

from __future__ import annotations

from dataclasses import dataclass

from ...infra import storage
from ...modalities import ModalitySpec
from ...tokenize.codec import Options
from ..data.groups import ShardRows
from .settings import Generate


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
