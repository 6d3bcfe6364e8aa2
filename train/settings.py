"""The `train` section of a recipe: the sizes of the transformer, its data and masks, and how it is trained."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, ValidationError, field_validator, model_validator

from ..infra.configuration import RecipeError
from ..infra.explain import explain
from ..infra.fields import Alpha, Beta, Count, Positive, Rate, Section, Share, Weight, check_heads
from ..modalities import MODALITIES
from ..pipelines.curation.expression import parse

Precision = Literal["auto", "fp32", "bf16"]  # auto: bf16 on CUDA, fp32 elsewhere
KeepRule = Literal["random", "all", "binary"]  # masking.spans.Keep
Embeddings = Literal["kept", "fresh"]
TokenRange = Positive | tuple[Positive, Positive]  # a number, or [least, most]

_WARMUP_SHARE = 0.02  # of the steps: 4M's 10 B of 500 B tokens

# Settings that change how training is watched and spread, and not what it learns. Sums are taken in another order on
# another number of workers, in other micro-batches, or by compiled blocks; the run is the same.
OPERATIONS = frozenset(
    {
        "name", "workers", "cpus", "gpus", "accumulate", "activation_checkpointing", "compile", "parallel", "log_every",
        "validate_every", "validation_samples", "checkpoint_every", "keep_checkpoints", "trackers", "peak_flops",
        "unpad", "cache",
        "nonfinite",  # a run that was stopped goes on with the other choice
    }
)  # fmt: skip
# What other fields say as well, or what the run's fingerprint holds by content.
DERIVED = frozenset({"total_tokens", "warmup_tokens", "init", "extend", "datasets", "seed", "select"})


def in_bf16(precision: Precision, device: str) -> bool:
    """Whether a model on a kind of device ("cuda", "cpu") computes under bfloat16 autocast."""
    return precision == "bf16" or (precision == "auto" and device == "cuda")


class Mixture(Section):
    """One Dirichlet mixture of 4M's masking: concentrations for each modality (a number serves all).

    during: the part of the run in which it is drawn, 0 its begin and 1 its end. An easy task at the start (tokens of
        RGB from its pixels) is learned in few steps, and all others begin with a model that tells places apart.
    """

    weight: Rate = 1.0
    input_alpha: Alpha | dict[str, Alpha] = 1.0
    target_alpha: Alpha | dict[str, Alpha] = 1.0
    keep: KeepRule | dict[str, KeepRule] = "random"
    during: tuple[Share, Share] = (0.0, 1.0)

    later = {"during": [0.0, 1.0]}

    @model_validator(mode="after")
    def _begins_before_it_ends(self) -> Mixture:
        if self.during[0] >= self.during[1]:
            raise ValueError(f"during: got {list(self.during)}, expected [begin, end], parts of the run from 0 to 1")
        return self


def alpha_of(alpha: float | dict[str, float], name: str) -> float:
    """The concentration of one modality: a number serves all, and a modality that is not named has 0."""
    return alpha.get(name, 0.0) if isinstance(alpha, dict) else alpha


def check_mixtures(root: str, names: Sequence[str], mixtures: Sequence[Mixture]) -> None:
    """RecipeError if none of the mixtures shows one of the modalities of a dataset and asks for one.

    Args:
        root: of the dataset. names: its modalities.
    """

    def some(alpha: float | dict[str, float], among: Sequence[str]) -> bool:
        return any(alpha_of(alpha, name) for name in among)

    targets = [name for name in names if MODALITIES[name].is_target]
    if not any(some(mixture.input_alpha, names) and some(mixture.target_alpha, targets) for mixture in mixtures):
        raise RecipeError(
            f"train.datasets: no mixture shows and asks for any of {', '.join(names)}, which {root} has; give it "
            "`mixtures` of its own"
        )


class Model(Section):
    """Sizes of the 4M transformer; the defaults are 4M-B (12 + 12 layers, 768 wide, SwiGLU without biases).

    With `convention: ml4m` what is not given is read from the model that training begins with.
    """

    dim: Positive = 768
    encoder_depth: Positive = 12
    decoder_depth: Positive = 12
    heads: Positive = 12
    mlp_ratio: Rate = 4.0
    qk_norm: bool = False
    grid_temperature: Rate = 10_000.0  # of the position tables of grids
    activation: Literal["silu", "gelu"] = "silu"
    gated_mlp: bool = True
    qkv_bias: bool = False
    proj_bias: bool = False
    mlp_bias: bool = False
    norm_bias: bool = False
    share_modality_embeddings: bool = True  # one vector of a modality for encoder and decoder
    num_register_tokens: Count = 0
    decoder_causal: bool = False  # a query sees earlier ones alone, whatever the modality
    decoder_separate: bool = True  # a query sees its own modality alone

    later = {
        "grid_temperature": 10_000.0, "activation": "silu", "gated_mlp": True, "qkv_bias": False, "proj_bias": False,
        "mlp_bias": False, "norm_bias": False, "share_modality_embeddings": True, "num_register_tokens": 0,
        "decoder_causal": False, "decoder_separate": True,
    }  # fmt: skip

    @model_validator(mode="after")
    def _heads_divide(self) -> Model:
        check_heads(self.dim, self.heads)
        return self


class DatasetShare(Section):
    """A dataset that is trained on, and how often. `root` is where its own recipe put its columns; none for this
    recipe's own samples. `mixtures` and `repeat` are the run's unless it has its own (4M-21: captions alone)."""

    root: str | None = None
    weight: Rate = 1.0
    mixtures: Annotated[list[Mixture], Field(min_length=1)] | None = None
    repeat: Positive | None = None


class Loader(Section):
    """How samples are shuffled (docs/train.md). Both numbers are part of the order."""

    lanes: Positive = 8  # workers that read nothing twice
    buffer_rows: Positive = 16_384  # samples that are shuffled at a time


class Cache(Section):
    """What each machine keeps on its disk of columns that are in an object store (train/data/cache.py)."""

    folder: str | None = None  # below TMPDIR unless given
    gigabytes: Weight | None = None  # at most; half of what is free unless given; 0 keeps nothing


class Init(Section):
    """A trained model to begin with. `embeddings`, of all modalities or by modality: whether its tables of tokens are
    `kept`, or begin `fresh`, since the recipe's tokenizers are others than those that it has learned. `names` are those
    that modalities of the recipe have there, where they are others: {tok_s2: tok_sen2l2a@224}."""

    weights: str
    revision: str | None = None  # of a hub repository
    embeddings: Embeddings | dict[str, Embeddings] = "kept"
    names: dict[str, str] = {}

    @property
    def setting(self) -> str:
        """What messages call it."""
        return "train.init"

    def is_fresh(self, modality: str) -> bool:
        """Whether a modality's tokens are learned from the start."""
        asked = self.embeddings
        return (asked.get(modality, "kept") if isinstance(asked, dict) else asked) == "fresh"


class Extend(Init):
    """A trained model to which modalities are added: 4M's fine-tuning on a new one.

    All that it knows is kept, also modalities that the recipe does not name: their tables stay as they are. Those that
    only the recipe has begin with fresh tables, which learn `alone` for so many steps.
    """

    alone: Count = 0

    @property
    def setting(self) -> str:
        return "train.extend"

    @model_validator(mode="after")
    def _keeps_its_tables(self) -> Extend:
        if self.embeddings != "kept":
            raise ValueError("embeddings: it keeps its tables; take train.init for fresh ones")
        return self


def _reads(kind: type[Init]) -> Callable[[Any], Any]:
    """A model to begin with: its place, or a mapping."""

    def read(value: Any) -> Any:
        if value is None or isinstance(value, str) or isinstance(value, kind):
            return value
        if not isinstance(value, dict):
            more = "embeddings: fresh" if kind is Init else "alone: 1000"
            raise ValueError(f"got {value!r}, expected the place of a model, or {{weights: PLACE, {more}}}")
        try:
            return kind.model_validate(value)
        except ValidationError as error:
            raise ValueError(explain(error, "of the model", kind).replace("\n", "; ")) from None

    return read


class Train(Section):
    """Training of 4M (4M-21, table 6). `base_lr` is for a batch of 256 and scaled linearly, as in the paper."""

    name: Annotated[str, Field(pattern=r"^\w[\w.-]*$")] = "4m"  # of the run's folder
    model: Model = Model()
    seed: Count | None = None  # of weights, order and masks; the recipe's, which is the data's too, unless given
    init: Annotated[str | Init | None, BeforeValidator(_reads(Init))] = None  # a trained model to begin with
    extend: Annotated[str | Extend | None, BeforeValidator(_reads(Extend))] = None  # one to add modalities to
    datasets: list[DatasetShare] = []
    select: str | None = None  # which of the recipe's own training samples are trained on, by their kept labels
    input_tokens: TokenRange = 128
    target_tokens: TokenRange = 128
    mixtures: Annotated[list[Mixture], Field(min_length=1)] = [Mixture()]
    redistribute: bool = True  # give the unused budget of short modalities to the others
    loss: Literal["modality", "token"] = "modality"
    batch_size: Positive = 256
    loader: Loader = Loader()
    cache: Cache = Cache()
    repeat: Positive = 1  # each sample that is read trains so many times, under other masks (4M: 4)
    steps: Positive = 100_000
    warmup_steps: Count = 2_000  # the same share of other numbers of steps, unless given
    total_tokens: Rate | None = None  # instead of steps and warmup_steps, budgets x batch, padding included (4M)
    warmup_tokens: Weight | None = None
    base_lr: Rate = 1e-4
    min_lr: Weight = 0.0
    weight_decay: Weight = 0.05
    betas: tuple[Beta, Beta] = (0.9, 0.95)
    clip_norm: Rate | None = None
    nonfinite: Literal["stop", "skip"] = "stop"  # at a gradient that is not finite, the run or that step
    ema: Beta = 0.0  # decay of an average of the weights; 0 keeps none
    use_ema: bool = True  # validate and hand on the average, if there is one
    precision: Precision = "auto"
    workers: Positive | tuple[Positive, Positive] = 1  # or [least, most]: as many as the cluster has
    cpus: Rate | None = None  # for each worker; all of the cluster's unless given
    gpus: Weight = 0.0
    parallel: Literal["ddp", "fsdp"] = "ddp"
    accumulate: Positive = 1  # micro-batches of a step
    activation_checkpointing: bool | Literal["selective"] = False  # selective: all but products and attention
    compile: bool | None = None  # the blocks; on CUDA unless given
    unpad: bool | None = None  # compute no padding of inputs; on CUDA unless given, where input_tokens is a range
    log_every: Positive = 10
    validate_every: Positive = 1_000
    validation_samples: Positive = 1_024
    checkpoint_every: Positive = 1_000
    keep_checkpoints: Positive = 2
    trackers: list[Literal["wandb", "mlflow"]] = []
    peak_flops: Rate | None = None  # of one device; known GPUs need none

    def unpads(self, device: str) -> bool:
        """Whether the encoder computes no padding on a kind of device ("cuda", "cpu")."""
        if self.unpad is not None:
            return self.unpad
        # Where all samples have as many inputs as fit, moving tokens would cost more than is saved.
        return device == "cuda" and not isinstance(self.input_tokens, int)

    @property
    def begins_with(self) -> Init | None:
        """What `init` or `extend` says, a name alone included."""
        if self.extend is not None:
            return Extend(weights=self.extend) if isinstance(self.extend, str) else self.extend
        return Init(weights=self.init) if isinstance(self.init, str) else self.init

    @property
    def budgets(self) -> tuple[int, int]:
        """Most input and target tokens of a sample."""
        spans = (self.input_tokens, self.target_tokens)
        inputs, targets = (span if isinstance(span, int) else span[1] for span in spans)
        return inputs, targets

    @property
    def tokens_per_sample(self) -> int:
        """By budget, padding included, as the papers count."""
        return sum(self.budgets)

    @property
    def worker_range(self) -> tuple[int, int]:
        """Least and most workers."""
        return (self.workers, self.workers) if isinstance(self.workers, int) else self.workers

    @field_validator("select")
    @classmethod
    def _can_be_read(cls, value: str | None) -> str | None:
        return None if value is None else parse(value).text

    @model_validator(mode="after")
    def _begins_once(self) -> Train:
        if self.init is not None and self.extend is not None:
            raise ValueError("init and extend: name one; extend begins with a model as init does, and keeps all of it")
        if (begin := self.begins_with) and isinstance(begin, Extend) and begin.alone >= self.steps:
            raise ValueError(
                f"extend.alone: {begin.alone} of {self.steps} steps; give fewer, so that all learns together"
            )
        return self

    @model_validator(mode="after")
    def _sizes_fit(self) -> Train:
        spans = {"input_tokens": self.input_tokens, "target_tokens": self.target_tokens, "workers": self.workers}
        for name, span in spans.items():
            if isinstance(span, tuple) and span[0] > span[1]:
                raise ValueError(f"{name}: got {list(span)}, expected [least, most]")
        least, most = self.worker_range
        for workers in range(least, most + 1):
            if self.batch_size % (workers * self.accumulate):
                parts = f"{workers} workers" + (f" x accumulate {self.accumulate}" if self.accumulate > 1 else "")
                raise ValueError(
                    f"batch_size: {self.batch_size} does not divide among {parts}; {self._batch_that_fits(least, most)}"
                )
        return self

    def _batch_that_fits(self, least: int, most: int) -> str:
        """What would do instead: batches for these workers, and workers for this batch."""
        multiple = math.lcm(*range(least, most + 1)) * self.accumulate
        nearest = max(1, round(self.batch_size / multiple)) * multiple
        workers = f"{most} workers" if least == most else f"any number of {least} to {most}"
        text = f"for {workers} take a multiple of {multiple}, such as {nearest}"
        fitting = [n for n in range(1, most + 1) if not self.batch_size % (n * self.accumulate)]
        if not fitting:
            return text
        runs = [(n, m) for n in fitting for m in fitting if n <= m and set(range(n, m + 1)) <= set(fitting)]
        first, last = max(runs, key=lambda run: (run[1] - run[0], run[1]))
        return f"{text}, or with this batch workers: {[first, last] if first < last else last}"

    @model_validator(mode="after")
    def _always_a_mixture(self) -> Train:
        for where, mixtures in (
            ("mixtures", self.mixtures),
            *((f"datasets[{i}].mixtures", one.mixtures or ()) for i, one in enumerate(self.datasets)),
        ):
            for at in sorted({0.0, *(edge for m in mixtures for edge in m.during)} - {1.0}):
                if mixtures and not any(m.during[0] <= at < m.during[1] for m in mixtures):
                    raise ValueError(f"{where}: none is drawn from {at:g} of the run on; mend their `during`")
        return self

    @model_validator(mode="after")
    def _decays(self) -> Train:
        peak = self.base_lr * self.batch_size / 256
        if self.min_lr > peak * (1 + 1e-9):
            raise ValueError(
                f"min_lr: {self.min_lr:g} is above the highest learning rate, base_lr x batch_size / 256 = {peak:g}, "
                "from which the decay goes down to it; lower min_lr"
            )
        return self

    @model_validator(mode="after")
    def _tokens_are_steps(self) -> Train:
        tokens_per_step = self.tokens_per_sample * self.batch_size
        for tokens, steps in (("total_tokens", "steps"), ("warmup_tokens", "warmup_steps")):
            if (count := getattr(self, tokens)) is None:
                continue
            # The papers' budgets are round numbers of tokens; ml-4m rounds up, too.
            derived = math.ceil(count / tokens_per_step)
            if steps in self.model_fields_set and getattr(self, steps) != derived:
                raise ValueError(
                    f"{tokens}: {count:g} tokens are {derived} steps of {tokens_per_step}, and {steps} says "
                    f"{getattr(self, steps)}; give one of the two (`--set train.{tokens}=null` takes it away)"
                )
            object.__setattr__(self, steps, derived)
        if self.warmup_tokens is None and "warmup_steps" not in self.model_fields_set:
            object.__setattr__(self, "warmup_steps", round(self.steps * _WARMUP_SHARE))
        if self.warmup_steps and self.warmup_steps >= self.steps:
            raise ValueError(
                f"warmup_steps: {self.warmup_steps} of {self.steps} steps never reach the learning rate; give fewer, "
                "or leave warmup_steps and warmup_tokens out"
            )
        return self
