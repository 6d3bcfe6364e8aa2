"""What two models have in common: their architecture, and the modalities whose tables one can take from the other."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from ...infra.explain import listing
from ...modalities import Kind, ModalitySpec
from ...model.config import FourMConfig
from ...model.published.names import crop_text, published_names
from ..settings import Extend, Init

# Fields of a configuration that say how the weights of the blocks are used.
ARCHITECTURE = (
    "dim", "encoder_depth", "decoder_depth", "num_heads", "mlp_ratio", "activation", "gated_mlp", "qk_norm",
    "qkv_bias", "proj_bias", "mlp_bias", "norm_bias", "share_modality_embeddings", "num_register_tokens",
    "decoder_causal", "decoder_separate", "grid_temperature",
)  # fmt: skip


def check_config(source: FourMConfig, target: FourMConfig, init: Init) -> dict[str, str]:
    """The modalities that both have, as of `pairs_of`. ValueError if the weights of one cannot serve the other."""
    place = init.weights
    _same_architecture(source, target, init)
    pairs = pairs_of(source, target, init)
    if not pairs:
        known = ", ".join(spec.name for spec in source.modalities)
        raise ValueError(
            f"{init.setting}: {place} knows none of the modalities {', '.join(s.name for s in target.modalities)}; "
            f"it knows {known}"
        )
    if isinstance(init, Extend) and len(pairs) == len(target.modalities):
        raise ValueError(
            f"{init.setting}: {place} knows all modalities of the recipe, so that nothing is new; name a new one in "
            "modalities, or take train.init"
        )
    for spec in target.modalities:
        if spec.name in pairs:
            there = source.spec(pairs[spec.name])
            _same_tokens(replace(there, vocab_size=spec.vocab_size) if init.is_fresh(spec.name) else there, spec, init)
        else:
            _same_crops(source, spec, init)
    return pairs


def _same_crops(source: FourMConfig, spec: ModalitySpec, init: Init) -> None:
    """ValueError if the model has a modality of the run, and only at other sizes of crops."""
    if "@" in spec.name or spec.kind not in (Kind.PIXELS, Kind.GRID):  # those with a size of their own may be new
        return
    sizes = [crop_text(one) for one in source.modalities if one.name.partition("@")[0] == spec.name]
    if sizes:
        raise ValueError(
            f"{init.setting}: {spec.name} is of crops of {crop_text(spec)} px here, and of {listing(sizes)} px in "
            f"{init.weights}; set images.size and images.patch_size as the model has them"
        )


def _same_architecture(source: FourMConfig, target: FourMConfig, init: Init) -> None:
    # Every field, since weights may fit by their shapes and compute something else (another activation).
    for name in ARCHITECTURE:
        if (here := getattr(target, name)) != (there := getattr(source, name)):
            raise ValueError(
                f"{init.setting}: {name} is {here} here, and {there} in {init.weights}; the models must have the same "
                "train.model"
            )


def pairs_of(source: FourMConfig, target: FourMConfig, init: Init) -> dict[str, str]:
    """Modalities of the target that the source has too, and their names in the source.

    ValueError if `train.init.names` names what one of them does not have.
    """
    known = {spec.name for spec in source.modalities}
    for here, there in init.names.items():
        lacking = (here, "the recipe") if target.find(here) is None else (there, init.weights)
        if target.find(here) is None or there not in known:
            have = target.modalities if lacking[1] == "the recipe" else source.modalities
            raise ValueError(
                f"{init.setting}.names: {lacking[1]} has no modality {lacking[0]}; it has "
                f"{', '.join(spec.name for spec in have)}"
            )
    # By the name, or else by the published name: `rgb` at 112 pixels is `rgb@112` there.
    by_published = {there: name for name, there in published_names(source.modalities).items()}
    names = {
        name: name if name in known else by_published.get(there)
        for name, there in published_names(target.modalities).items()
    } | init.names
    return {name: source_name for name, source_name in names.items() if source_name is not None}


def _same_tokens(source: ModalitySpec, target: ModalitySpec, init: Init) -> None:
    whats = {"kind": "is of the kind", "vocab_size": "has a vocabulary of", "input_dim": "has values of width"}
    whats["learned_positions"] = "has learned positions:"
    if target.kind in (Kind.GRID, Kind.PIXELS) or target.learned_positions:  # texts may be longer or shorter
        whats |= {"max_tokens": "has as many tokens:", "columns": "has in a row, where it is no square, tokens:"}
    for field, what in whats.items():
        here, there = getattr(target, field), getattr(source, field)
        if here != there:
            says = f"{target.name} {what} {here} here, and {there} in {init.weights}"
            raise ValueError(f"{init.setting}: {says}; the tokens differ")


def new_modalities(source: FourMConfig, target: FourMConfig, init: Init) -> list[str]:
    """Those of the target that the source does not have."""
    known = pairs_of(source, target, init)
    return [spec.name for spec in target.modalities if spec.name not in known]


def beginners(target: FourMConfig, pairs: Mapping[str, str], init: Init) -> list[str]:
    """Sentences on what begins with fresh weights."""
    new = [spec.name for spec in target.modalities if spec.name not in pairs]
    fresh = [name for name in pairs if target.spec(name).is_target and init.is_fresh(name)]
    notes = (
        [f"{init.setting}: {', '.join(new)} begin with fresh weights; {init.weights} does not know them"] if new else []
    )
    return notes + ([f"{init.setting}: the tokens of {', '.join(fresh)} are learned from the start"] if fresh else [])


def shares_text(init: Init, source: FourMConfig, target: FourMConfig) -> bool:
    """Whether both have texts, whose words must be the same in an extended model: it has one text tokenizer."""
    texts = [any(spec.kind is Kind.SEQUENCE for spec in config.modalities) for config in (source, target)]
    return isinstance(init, Extend) and all(texts)


def extended(config: FourMConfig, there: FourMConfig, init: Init) -> FourMConfig:
    """A configuration with the modalities that only the trained model has.

    ValueError if one of the recipe's has the name of another one of the trained model.
    """
    taken = set(pairs_of(there, config, init).values())
    others = [spec for spec in there.modalities if spec.name not in taken]
    if same := [spec.name for spec in others if config.find(spec.name) is not None]:
        raise ValueError(
            f"{init.setting}: {same[0]} is another modality in {init.weights} than in the recipe, which names it "
            f"{init.names.get(same[0])} there; give the sensor another name"
        )
    names = {spec.name for spec in others}
    return replace(
        config,
        modalities=(*config.modalities, *others),
        inputs=(*config.inputs, *(name for name in there.inputs if name in names)),
        outputs=(*config.outputs, *(name for name in there.outputs if name in names)),
    )
