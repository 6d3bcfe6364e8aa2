"""The configuration of a 4M transformer: sizes, modalities, variants; plain values that JSON can carry both ways."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, TypeVar

from ..modalities import Kind, ModalitySpec
from .published.names import local_name, published_names

T = TypeVar("T")
# The files of a model, see model/checkpoint.py.
WEIGHTS, CONFIG, TOKENIZERS = "model.safetensors", "config.json", "tokenizers.json"

# (dim, encoder depth, decoder depth, heads): Ti and S as in apple/ml-4m, B, L and XL as in 4M-21, section 3.
SIZES: dict[str, tuple[int, int, int, int]] = {
    "Ti": (384, 6, 6, 6),
    "S": (512, 8, 8, 8),
    "B": (768, 12, 12, 12),
    "L": (1024, 24, 24, 16),
    "XL": (2048, 24, 24, 32),
}

# Blocks of the published models: plain GELU with biases, SwiGLU without (4M-7, 4M-21), and 4M-21 XL's QK-norm.
VARIANTS: dict[str, dict[str, Any]] = {
    "gelu": {
        "activation": "gelu",
        "gated_mlp": False,
        **dict.fromkeys(("qkv_bias", "proj_bias", "mlp_bias", "norm_bias"), True),
    },
    "swiglu": {},
    "swiglu_qknorm": {"qk_norm": True},
}

TEMPERATURE = 10_000.0  # of position tables: the longest wave over 2 pi (Vaswani et al. 2017, MAE)

# Type of a field -> what it may be, and whether a value is that.
_TYPES: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "bool": ("true or false", lambda x: type(x) is bool),
    "int": ("a whole number, 0 or more", lambda x: type(x) is int and x >= 0),
    "float": ("a number above 0", lambda x: type(x) in (int, float) and x > 0),
}


@dataclass(frozen=True)
class FourMConfig:
    """Everything that fixes the parameters of a `FourM` and how they are used.

    The defaults are those of the published 4M models (4M section 3, 4M-21 table 6): SwiGLU without biases, tied
    token embeddings and heads, decoder attention within a modality only.

    Attributes:
        modalities: what the model knows; `PackedBatch` counts modalities by their place in this list.
        inputs: names the encoder reads; all modalities if empty.
        outputs: names the decoder predicts; all target modalities if empty.
        mlp_ratio: hidden width over `dim`; a gated MLP has two thirds of it, which keeps the parameter count.
        tied_heads: decoder token embeddings and output heads are one table (training); False reads published
            checkpoints, which keep two.
        decoder_causal: a query sees only itself and earlier queries, whatever the modality.
        decoder_separate: a query sees only its own modality.
        grid_temperature: the longest wave of the position tables of grids is 2 pi times it. Of 4M's 10,000 most waves
            are constant over a small grid: where it has 8 x 8 tokens, 20 tells places apart sooner.

    Raises:
        ValueError: at construction, for sizes or names that do not fit together.
    """

    modalities: tuple[ModalitySpec, ...]
    inputs: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()
    dim: int = 768
    encoder_depth: int = 12
    decoder_depth: int = 12
    num_heads: int = 12
    mlp_ratio: float = 4.0
    activation: Literal["silu", "gelu"] = "silu"
    gated_mlp: bool = True
    qk_norm: bool = False
    qkv_bias: bool = False
    proj_bias: bool = False
    mlp_bias: bool = False
    norm_bias: bool = False
    share_modality_embeddings: bool = True
    num_register_tokens: int = 0
    tied_heads: bool = True
    decoder_causal: bool = False
    decoder_separate: bool = True
    grid_temperature: float = TEMPERATURE

    def __post_init__(self) -> None:
        self._check_types()
        names = [spec.name for spec in self.modalities]
        if not names or len(set(names)) != len(names):
            raise ValueError(f"modalities: got {names}, expected at least one and no name twice")
        if not self.inputs:
            object.__setattr__(self, "inputs", tuple(names))  # frozen; what is left out is filled in once
        if not self.outputs:
            object.__setattr__(self, "outputs", tuple(spec.name for spec in self.modalities if spec.is_target))
        for role, chosen in (("inputs", self.inputs), ("outputs", self.outputs)):
            unknown = sorted(set(chosen) - set(names))
            if unknown:
                raise ValueError(f"{role}: unknown modalities {unknown}, expected some of {names}")
            if len(set(chosen)) != len(chosen):
                raise ValueError(f"{role}: got {list(chosen)}, expected no name twice")
        wrong = [name for name in self.outputs if not self.spec(name).is_target]
        if wrong or not self.outputs:
            raise ValueError(f"outputs: {wrong} are input only, expected at least one grid or sequence modality")
        if not self.dim or not self.num_heads or self.dim % self.num_heads:
            raise ValueError(f"dim {self.dim} does not divide into {self.num_heads} heads")
        if self.dim % 4:
            raise ValueError(f"dim {self.dim} is no multiple of 4, which the 2-D position table needs")
        if self.activation not in ("silu", "gelu"):
            raise ValueError(f"activation: got {self.activation!r}, expected 'silu' or 'gelu'")

    def _check_types(self) -> None:
        """Configurations come from files."""
        for f in fields(self):
            value = getattr(self, f.name)
            what, fits = _TYPES.get(str(f.type), ("", lambda _: True))
            if not fits(value):
                raise ValueError(f"{f.name}: got {value!r}, expected {what}")

    @classmethod
    def preset(
        cls, size: str, modalities: Sequence[ModalitySpec], variant: str = "swiglu", **overrides: Any
    ) -> FourMConfig:
        """A published size and variant (SIZES, VARIANTS) over `modalities`; `overrides` are fields of the config."""
        for what, name, known in (("size", size, SIZES), ("variant", variant, VARIANTS)):
            if name not in known:
                raise ValueError(f"{what}: got {name!r}, expected one of {', '.join(known)}")
        dim, encoder_depth, decoder_depth, num_heads = SIZES[size]
        sizes = {"dim": dim, "encoder_depth": encoder_depth, "decoder_depth": decoder_depth, "num_heads": num_heads}
        return cls(tuple(modalities), **(sizes | VARIANTS[variant] | overrides))

    @property
    def mlp_hidden(self) -> int:
        hidden = self.dim * self.mlp_ratio
        # As LLaMA and apple/ml-4m: three matrices of two thirds have the parameters of two.
        return int(2 * hidden / 3) if self.gated_mlp else int(hidden)

    def spec(self, name: str) -> ModalitySpec:
        return self.modalities[self.index(name)]

    def index(self, name: str) -> int:
        """The number of a modality in packed batches; ValueError if the model does not know it.

        Its name in apple/ml-4m is another name for it: `tok_rgb@224` is `tok_rgb`, at 112 pixels `tok_rgb@112` is.
        """
        names = [spec.name for spec in self.modalities]
        # Its own names first: a modality may be called here what another one is called there.
        for known, wanted in ((names, name), (names, local_name(name)), (self.published, name)):
            if wanted in known:
                return known.index(wanted)
        raise ValueError(f"the model knows no modality {name!r}; it has {', '.join(s.name for s in self.modalities)}")

    def find(self, name: str) -> ModalitySpec | None:
        """The modality of this name, here or in apple/ml-4m, if the model knows it."""
        try:
            return self.spec(name)
        except ValueError:
            return None

    def by_own_name(self, values: Mapping[str, T]) -> dict[str, T]:
        """Values by the names that modalities have here.

        ValueError if the model does not know one, or one is there under two names.
        """
        owners: dict[str, str] = {}
        for name in values:
            if (first := owners.setdefault(self.spec(name).name, name)) != name:
                raise ValueError(f"got {first} and {name}, which are the same modality; give one of them")
        return {own: values[name] for own, name in owners.items()}

    @property
    def published(self) -> list[str]:
        """The names of the modalities in apple/ml-4m."""
        return list(published_names(self.modalities).values())

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values; `from_dict` is the inverse."""
        values = asdict(self)
        if self.grid_temperature == TEMPERATURE:  # came later: files and checkpoints of before have no such key
            del values["grid_temperature"]
        return values | {
            "modalities": [spec.plain() | {"kind": spec.kind.value} for spec in self.modalities],
            "inputs": list(self.inputs),
            "outputs": list(self.outputs),
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> FourMConfig:
        known = {f.name for f in fields(cls)}
        if "modalities" not in values or not set(values) <= known:
            raise ValueError(
                f"no configuration of a fourmill model: unknown keys {sorted(set(values) - known)}, expected "
                "'modalities' and sizes; checkpoints of apple/ml-4m are read by fourmill.model.published.ml4m.load"
            )
        try:
            specs = tuple(ModalitySpec(**(spec | {"kind": Kind(spec["kind"])})) for spec in values["modalities"])
            names = {"inputs": tuple(values.get("inputs", ())), "outputs": tuple(values.get("outputs", ()))}
        except (TypeError, KeyError) as error:
            raise ValueError(f"modalities: no list of modalities with their sizes: {error}") from error
        return cls(**(dict(values) | names | {"modalities": specs}))


class ByName(dict[str, T]):
    """Values by modality, which are found by the modality's published name, too. KeyError with a sentence."""

    def __init__(self, config: FourMConfig, values: Mapping[str, T] | None = None) -> None:
        super().__init__(values or {})
        self.config = config

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and super().__contains__(self._own(name))

    def __missing__(self, name: str) -> T:
        if name not in self:
            raise KeyError(f"there is no {name}; there are {', '.join(self) or 'none'}")
        return self[self._own(name)]

    def get(self, name: str, default: Any = None, /) -> Any:
        return self[name] if name in self else default

    def _own(self, name: str) -> str:
        """The name that a modality has here, if the model knows it."""
        spec = self.config.find(name)
        return name if spec is None else spec.name
