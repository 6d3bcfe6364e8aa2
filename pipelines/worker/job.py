"""What shard workers are sent: the specialists, the outputs that are asked for, and what one actor takes for them."""

from __future__ import annotations

from dataclasses import dataclass, field

from ...infra import ledger
from ...modalities import TEXT, Declares
from ...tokenize.codecs import Options
from ...tokenize.sensors.raster import Drawing
from ..engine.job import Demand
from ..engine.settings import Engine
from ..outputs import Output
from ..settings import Images
from ..specialists.base import Specialist
from ..specialists.pretrained import Pretrained


@dataclass(frozen=True)
class Job:
    """Everything a shard worker needs to know; small enough to be sent to each.

    root: URL of the outputs. scratch: a folder of this machine for copies of remote shards.
    specialists: by label, in an order in which each comes after those that it needs. outputs: by name.
    modules: Python modules that declare modalities of the user's own, and the recipe's sensors.
    classes: the recipe's own lists of classes, by label.
    reads: members of samples that somebody reads, by extension: any specialist of the recipe, or its evaluation.
    doubted: labels for whose rejects an earlier job was stopped (stops.py).
    key: the column of Parquet shards that has the samples' keys, "" for none.
    cpus: the most that a specialist of the recipe declares: threads must not depend on which of them have work now.
    """

    root: str
    scratch: str
    images: Images
    options: Options
    engine: Engine
    specialists: dict[str, Specialist]
    outputs: dict[str, Output]
    modules: tuple[str | Declares, ...] = ()
    classes: dict[str, tuple[str, ...]] = field(default_factory=dict)
    reads: frozenset[str] = frozenset()
    cpus: float = 1.0
    doubted: frozenset[str] = frozenset()
    key: str = ""

    @property
    def drawing(self) -> Drawing:
        """How crops are drawn."""
        images = self.images
        return Drawing(self.options.seed, images.crops, (images.crop_scale, 1.0), images.hflip)

    @property
    def every_key(self) -> bool:
        """Whether each key of a tar is a sample, whatever its members are: so it is with sensors."""
        return any(not isinstance(one, str) for one in self.modules)

    def uses_torch(self) -> bool:
        """Whether any specialist or tokenizer is a network."""
        networks = (isinstance(one, Pretrained) or one.gpus > 0 for one in self.specialists.values())
        return bool(self._codebooks()) or any(networks)

    def demand(self, gpu_there: bool) -> Demand:
        """CPUs, GPUs and memory of one actor: the recipe's, or what its specialists and tokenizers take.

        They take turns on cores and on the GPU, so the most demanding one counts; their memory adds up. Where no node
        has a GPU the CPU serves.
        """
        specialists, codebooks = list(self.specialists.values()), self._codebooks()
        cpus = self.engine.cpus or max([self.cpus, *(s.cpus for s in specialists)])
        wanted = max((s.gpus for s in specialists), default=0.0)
        wanted = max(wanted, 1.0 if codebooks else 0.0) if gpu_there else 0.0
        gpus = wanted if self.engine.gpus is None else self.engine.gpus
        # Specialists of the same weights share them.
        sizes = {s.model_key() or s.label: s.resident_gb() for s in specialists}
        records = [ledger.read(self.root, "tokenizers", name) for name in sorted(codebooks)]
        tokenizers = sum(record.bytes for record in records if record is not None)
        return Demand(cpus, gpus, int(sum(sizes.values()) * 2**30) + tokenizers)

    def node_setups(self) -> list[Specialist]:
        """The specialists that fetch something."""
        base = Specialist.setup_on_node
        return [one for one in self.specialists.values() if type(one).setup_on_node is not base]

    def advice_if_too_large(self) -> str:
        """Names the largest specialists."""
        largest = sorted(self.specialists.items(), key=lambda item: -item[1].resident_gb())[:3]
        sizes = ", ".join(f"{label} {specialist.resident_gb():.1f} GiB" for label, specialist in largest)
        return (
            f"keep the labels of the largest specialists ({sizes}) in a run of their own: labels.keep, then all others"
        )

    def _codebooks(self) -> set[str]:
        """The fitted tokenizers with networks that an actor loads."""
        return {name for output in self.outputs.values() for name in output.tokenizers} - {TEXT}
