"""A training run as plain values: what its recipe and the token store say, resolved for loader and model."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ...infra import configuration, ledger, side_files, storage
from ...infra.secrets import hidden
from ...modalities import MODALITIES, Declares, Kind, ModalitySpec
from ...model.config import CONFIG, TOKENIZERS, WEIGHTS, FourMConfig
from ...pipelines.removal import seen
from .. import checkpoint
from ..data.blend import Dataset
from ..data.groups import ShardRows
from ..settings import Model, Train, alpha_of

if TYPE_CHECKING:
    from ..masking.masking import MaskingConfig

RECIPE = "recipe.yaml"  # of a run's folder, which has TOKENIZERS as its model has
MODEL, MODEL_FILES = "model", (WEIGHTS, CONFIG)  # the folder of a finished run's model


def write_origin(job: TrainJob) -> None:
    """What a run comes from, kept in its folder, so that its model can be used without the user's recipe: the resolved
    recipe, the fingerprints of the tokenizers whose ids it learns, and the shards of this root that it reads.

    ValueError if the run was begun with other tokenizers: one that goes on must not read ids of another codebook.
    """
    before = side_files.read_object(storage.join(job.folder, TOKENIZERS)) or {}
    if other := [name for name in before.keys() & job.tokenizers.keys() if before[name] != job.tokenizers[name]]:
        raise ValueError(
            f"{job.folder}: this run was begun with another tokenizer {', '.join(sorted(other))}; bring that one back "
            "to go on, or set another train.name for a run on the new one's tokens"
        )
    storage.put(storage.join(job.folder, RECIPE), configuration.dump(hidden(job.recipe)).encode())
    storage.put(storage.join(job.folder, TOKENIZERS), (json.dumps(job.tokenizers, indent=1) + "\n").encode())
    own = [one for one in job.datasets if one.url == storage.join(job.root, "tokens")]
    read = [shard for one in own for shard in one.shards] if job.datasets else job.shards
    seen.note(job.folder, [shard.name for shard in (*read, *job.val_shards)])


@dataclass(frozen=True)
class TrainJob:
    """A training run. `fingerprint` is of everything its weights depend on; it names the run's folder.

    settings: the recipe's `train` section, and `seed` and `modules` of its own. recipe: all of it, to be kept with the
        run. address: of the Ray cluster.
    shards, val_shards: (name, rows) of the columns in ROOT/tokens.
    first_sentinel, num_sentinels: of the text tokenizer ([S_1] is the first that spans use).
    datasets: what is trained on if the recipe names several; `shards` alone if empty.
    tokenizers: fingerprints of the contents of the fitted tokenizers that made the columns, by name.
    convention: of the recipe, of published models; it does not count, since it only says what other settings are.
    """

    root: str
    fingerprint: str
    seed: int
    settings: Train
    address: str | None
    modules: tuple[str | Declares, ...]
    recipe: dict[str, Any]
    specs: tuple[ModalitySpec, ...]
    shards: tuple[ShardRows, ...]
    val_shards: tuple[ShardRows, ...]
    first_sentinel: int
    num_sentinels: int
    datasets: tuple[Dataset, ...] = ()
    tokenizers: dict[str, str] = field(default_factory=dict)
    convention: str | None = None

    @property
    def folder(self) -> str:
        """ROOT/runs/NAME/FINGERPRINT: runs with other settings stand beside each other."""
        return storage.join(self.root, "runs", self.settings.name, self.fingerprint)

    def column_tokenizers(self) -> dict[str, str]:
        """modality -> the tokenizers of its columns, as these say it, of modalities whose tokenizers are known."""
        of = {spec.name: MODALITIES[spec.name].tokenizers for spec in self.specs}
        known = {name: names for name, names in of.items() if all(one in self.tokenizers for one in names)}
        return {name: "+".join(self.tokenizers[one] for one in names) for name, names in known.items() if names}

    @property
    def checkpoints(self) -> str:
        """The folder of its checkpoints."""
        return storage.join(self.folder, "checkpoints")

    def record(self) -> ledger.Record | None:
        """The record of the finished run, None if there is none, or somebody has deleted the model under it."""
        record = ledger.read(self.root, f"runs/{self.settings.name}", self.fingerprint)
        files = storage.list_names(storage.join(self.folder, MODEL)) if record is not None else []
        return record if set(MODEL_FILES) <= set(files) else None

    def has_begun(self) -> bool:
        """Whether it is trained, or has a checkpoint."""
        return self.record() is not None or self.model_step() is not None

    def model_step(self, asked: int | None = None) -> int | None:
        """The step of the checkpoint that counts as the model: the one that is asked for, else the newest of a
        run that is not finished; None for the finished model, or if there is no checkpoint yet.

        ValueError if there is none of the step that is asked for.
        """
        if asked is not None:
            return checkpoint.at_step(self.checkpoints, asked).step
        saved = [] if self.record() is not None else checkpoint.complete(self.checkpoints)
        return saved[-1].step if saved else None

    @property
    def rows(self) -> int:
        """Training samples of all datasets that are selected."""
        every = [shard for one in self.datasets for shard in one.shards] or self.shards
        return sum(shard.count for shard in every)


def masking_config(job: TrainJob, datasets: Sequence[Dataset] = ()) -> MaskingConfig:
    """The recipe's masking with one alpha for each modality: its own mixtures, and then those of `datasets`."""
    # Masking makes batches for torch, which `status` and a run that has nothing to do need not wait for.
    from ..masking.masking import MaskingConfig, ResolvedMixture
    from ..masking.spans import Keep

    train = job.settings
    # In the order in which `Dataset.mixtures` numbers them.
    given = [*train.mixtures, *(m for one in train.datasets for m in one.mixtures or () if datasets)]

    def span(tokens: int | tuple[int, int]) -> tuple[int, int]:
        return (tokens, tokens) if isinstance(tokens, int) else tokens

    # A number stands for all modalities; of targets for those that can be predicted, since the reference lets every
    # modality with an alpha draw budget, and that of pixels would be lost.
    def alphas(alpha: float | dict[str, float], specs: list[ModalitySpec]) -> dict[str, float]:
        return {s.name: alpha_of(alpha, s.name) for s in specs}

    everything, targets = list(job.specs), [spec for spec in job.specs if spec.is_target]
    texts = [spec.name for spec in job.specs if spec.kind in (Kind.SEQUENCE, Kind.EMBEDDING)]
    mixtures = []
    for m in given:
        keep = {n: m.keep.get(n, "random") if isinstance(m.keep, dict) else m.keep for n in texts}
        keeps = {name: Keep(rule) for name, rule in keep.items()}
        mixtures.append(
            ResolvedMixture(
                alphas(m.input_alpha, everything), alphas(m.target_alpha, targets), m.weight, keeps, m.during
            )
        )
    return MaskingConfig(
        span(train.input_tokens),
        span(train.target_tokens),
        tuple(mixtures),
        redistribute=train.redistribute,
        first_sentinel=job.first_sentinel,
        num_sentinels=job.num_sentinels,
    )


def predicted_modalities(
    masking: MaskingConfig, datasets: Sequence[Dataset], during: tuple[float, float]
) -> frozenset[str]:
    """The modalities that some mixture asks for in a part of the run, by which the loss is divided.

    Args:
        datasets: as in `masking_config`, each with modalities and mixtures of its own; () for the run's own samples.
        during: begin and end of the part, from 0 to 1.
    """
    begin, end = during
    asked: set[str] = set()
    for dataset in datasets or (None,):
        here = range(len(masking.mixtures)) if dataset is None or dataset.mixtures is None else dataset.mixtures
        has = dataset.modalities if dataset is not None else ()
        for mixture in (masking.mixtures[i] for i in here):
            if mixture.during[0] < end and begin < mixture.during[1]:
                asked |= {name for name, a in mixture.target_alphas.items() if a > 0 and (not has or name in has)}
    return frozenset(asked)


def model_config(job: TrainJob) -> FourMConfig:
    return configured(job.specs, job.settings.model)


def configured(specs: Sequence[ModalitySpec], sizes: Model) -> FourMConfig:
    """The configuration of a model of these sizes for these modalities."""
    given = sizes.model_dump()
    return FourMConfig(tuple(specs), num_heads=given.pop("heads"), **given)
