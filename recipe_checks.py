"""What must fit together across the sections of a recipe; each mistake is a sentence, found before anything starts."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import TYPE_CHECKING

from . import modalities as registry
from .infra.explain import nearest
from .modalities import LABELS, MODALITIES, TOKENIZERS, Form, Kind
from .tokenize.settings import PICTURES, useless, warm_starts
from .train.settings import alpha_of

if TYPE_CHECKING:
    from .recipe import Chain, Recipe, Step
    from .train.settings import Mixture


_CHANNELS = {Form.COLORS: 3, Form.NORMALS: 3, Form.EDGES: 1, Form.DEPTH: 1}


def check(recipe: Recipe) -> None:
    """ValueError for the first thing in a recipe that cannot be."""
    for name in recipe.modalities:
        _known("modalities", name, MODALITIES)
    if len(set(recipe.modalities)) < len(recipe.modalities):
        raise ValueError("modalities: a name stands twice")
    for name in [*recipe.labels.keep, *recipe.labels.specialists]:
        _known("labels", name, LABELS)
    for name in recipe.tokenizers.each:
        _known("tokenizers.each", name, TOKENIZERS)
    for name in recipe.modalities:
        _spec(recipe, name)
    for name in recipe.tokenizers_needed:
        _check_tokenizer(recipe, name)
    if recipe.train.model.dim % 4:
        raise ValueError(f"train.model.dim: {recipe.train.model.dim} is no multiple of 4, which 2-D positions need")
    for mixture in (*recipe.train.mixtures, *(m for one in recipe.train.datasets for m in one.mixtures or ())):
        _check_mixture(recipe, mixture)
    for chain in recipe.generate.chains:
        _check_chain(recipe, chain)


def _spec(recipe: Recipe, name: str) -> registry.ModalitySpec:
    return registry.spec(name, image_size=recipe.images.size, patch_size=recipe.patch_size(name))


def _check_tokenizer(recipe: Recipe, name: str) -> None:
    entry, settings, where = TOKENIZERS[name], recipe.tokenizer(name), f"tokenizers, {name}"
    own = recipe.tokenizers.each.get(name, {})
    if idle := sorted(useless(name) & own.keys()):
        raise ValueError(f"{where}: {idle[0]} has no meaning for {entry.form.value}; leave it out")
    if settings.weights is not None:
        return
    if settings.dim % 4 and entry.form is not Form.VECTOR:
        raise ValueError(f"{where}: dim {settings.dim} is no multiple of 4, which 2-D positions need")
    if entry.form is Form.VECTOR and settings.latent_dim % entry.tokens:
        raise ValueError(
            f"{where}: latent_dim {settings.latent_dim} does not divide among the {entry.tokens} tokens of a vector"
        )
    if settings.loss == "cross_entropy" and entry.form is not Form.CLASSES:
        raise ValueError(f"{where}: cross_entropy is a loss of class maps, {entry.form.value} take mse, l1, ...")
    if warm_starts(name, settings):
        pixels = (settings.patch_size or 1) ** 2
        # How wide features are is known when they come.
        values = settings.latent_dim if entry.form is Form.FEATURES else _CHANNELS[entry.form] * pixels
        if not 2 <= settings.latent_dim <= min(settings.dim, values):
            raise ValueError(
                f"{where}: warm_start needs a latent_dim of 2 to {min(settings.dim, values)}, got {settings.latent_dim}"
            )
    later = settings.resolutions.sizes if settings.resolutions else ()
    for size in (recipe.images.size, *later) if entry.form in PICTURES else later:
        if size % settings.multiple:
            raise ValueError(
                f"{where}: its {settings.decoder} decoder needs images whose sides are multiples of "
                f"{settings.multiple} px, got {size}; see patch_size, unet_multipliers and decoder_patch_size"
            )


def _check_mixture(recipe: Recipe, mixture: Mixture) -> None:
    for side in (mixture.input_alpha, mixture.target_alpha, mixture.keep):
        for name in side if isinstance(side, dict) else ():
            _chosen("train.mixtures", name, recipe.modalities)
    targets = [name for name in recipe.modalities if MODALITIES[name].is_target]
    if isinstance(mixture.target_alpha, dict):
        for name in (n for n, alpha in mixture.target_alpha.items() if alpha and n not in targets):
            raise ValueError(f"train.mixtures: target_alpha: {name} is input only and never predicted; leave it out")
    for name in mixture.keep if isinstance(mixture.keep, dict) else ():
        if MODALITIES[name].kind not in (Kind.SEQUENCE, Kind.EMBEDDING):
            raise ValueError(f"train.mixtures: keep: {name} is no text, whose shares alone are kept; leave it out")
    for what, alpha, names in (
        ("input_alpha", mixture.input_alpha, recipe.modalities),
        ("target_alpha", mixture.target_alpha, targets),
    ):
        if names and not any(alpha_of(alpha, name) for name in names):
            raise ValueError(f"train.mixtures: no {what} above 0 for any of {', '.join(names)}")


def _check_chain(recipe: Recipe, chain: Chain) -> None:
    where = "generate.chains"
    known = set(chain.inputs)
    for name in chain.inputs:
        _chosen(where, name, recipe.modalities)
    for step in chain.to:
        _chosen(where, step.target, recipe.modalities)
        spec = _spec(recipe, step.target)
        if not spec.is_target:
            raise ValueError(f"{where}: {step.target} is input only and cannot be generated")
        if step.target in known:
            raise ValueError(f"{where}: {step.target} is given or generated already")
        _check_guidance(step, known)
        known.add(step.target)
        text = spec.kind is Kind.SEQUENCE
        if step.scheme and text != (step.scheme == "autoregressive"):
            raise ValueError(
                f"{where}: {step.target} with the scheme {step.scheme}; text is autoregressive, "
                "grids are maskgit or roar"
            )
        idle = {"steps", "schedule", "temperature_schedule"} if text else {"max_tokens"}
        if said := sorted(name for name in idle if getattr(step, name) != type(step).model_fields[name].default):
            kind = "text, which takes one step for each token" if text else "a grid, whose number of tokens is fixed"
            raise ValueError(f"{where}: {step.target} is {kind}; leave {', '.join(said)} out")
        if text and (step.max_tokens or 0) > spec.max_tokens:
            raise ValueError(f"{where}: max_tokens {step.max_tokens}, {step.target} has at most {spec.max_tokens}")


def _check_guidance(step: Step, known: Collection[str]) -> None:
    weights = step.guidance
    if not isinstance(weights, dict):
        return
    where = "generate.chains"
    if not weights:
        raise ValueError(f"{where}: {step.target}: guidance names no condition; leave it out, or give one number")
    if unknown := sorted(weights.keys() - known):
        raise ValueError(
            f"{where}: {step.target}: guidance by {', '.join(unknown)}, which is neither given nor generated before; "
            f"known are {', '.join(sorted(known))}"
        )


def _chosen(where: str, name: str, chosen: Collection[str]) -> None:
    """A modality that is declared, and one of the recipe's."""
    _known(where, name, MODALITIES)
    if name not in chosen:
        raise ValueError(f"{where}: {name} is not among the recipe's modalities, {', '.join(chosen)}")


def _known(where: str, name: str, names: Iterable[str]) -> None:
    if name not in names:
        raise ValueError(f"{where}: there is no {name!r}{nearest(name, names)}")
