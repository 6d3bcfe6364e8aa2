"""A trained model with its tokenizers, opened: inputs of one's own in, modalities out."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import numpy as np

from ..infra import storage
from ..modalities import LABELS, Kind
from ..model.fourm import FourM
from ..pipelines.geo import maps
from ..pipelines.given.given import Mistake
from ..pipelines.given.listing import GivenSample, samples
from ..recipe import Recipe
from ..train.downstream.ensemble import average
from ..train.downstream.settings import ChainStep, Generate
from . import origin as origins
from .coder import Coder, Encoded, stack
from .names import input_of, label_of
from .results import Generation, Made
from .targets import Target, chain

# Of how many samples there are to generate, a context that gives what is called with those that are done.
Watch = Callable[[int], AbstractContextManager[Callable[[int], None]]]


@contextmanager
def _unwatched(total: int) -> Iterator[Callable[[int], None]]:
    yield lambda _: None


class Run:
    """A trained model with the tokenizers of its root; made by `open_run`.

    Attributes:
        model: in evaluation mode.
        origin: its root, and the recipe that is kept with it.
        watch: shows the progress of `generate`; nothing by default.
    """

    def __init__(self, place: str, model: FourM, origin: origins.Origin, generate: Generate | None = None) -> None:
        self.place, self.model, self.origin = place, model, origin
        self.settings = generate or origin.generate
        self.specs = {spec.name: spec for spec in model.config.modalities}
        self.coder = Coder(self.specs, origin, str(model.device))
        self.watch: Watch = _unwatched

    def __repr__(self) -> str:
        return f"Run({self.place!r}: reads {', '.join(self.inputs)}; generates {', '.join(self.targets)})"

    @property
    def inputs(self) -> tuple[str, ...]:
        """The modalities that the model reads."""
        return self.model.config.inputs

    @property
    def targets(self) -> tuple[str, ...]:
        """The modalities that the model generates."""
        return self.model.config.outputs

    def encode(
        self, inputs: Mapping[str, Any] | Sequence[Mapping[str, Any]]
    ) -> list[tuple[GivenSample, dict[str, Encoded]]]:
        """Inputs as the tokens that the model reads, of each sample; see `generate` for what they may be."""
        listed = [inputs] if isinstance(inputs, Mapping) else list(inputs)
        encoded = []
        for number, one in enumerate(listed):
            modalities = self._modalities(one)
            labels = {name: label_of(modality) for name, modality in modalities.items()}
            try:
                found = samples(one, labels)
            except Mistake as error:
                raise ValueError(str(error)) from None
            for sample in found:
                if len(listed) > 1 and sample.key == "0000":
                    sample = GivenSample(f"{number:04d}", sample.values)
                encoded.append((sample, self.coder.encode(sample, modalities)))
        return encoded

    def _modalities(self, inputs: Mapping[str, Any]) -> dict[str, str]:
        modalities = {name: input_of(self.model.config, name) for name in inputs}
        if len(set(modalities.values())) < len(modalities):
            twice = [name for name in modalities if list(modalities.values()).count(modalities[name]) > 1]
            raise ValueError(f"{' and '.join(twice)} are the same modality; give one of them")
        return modalities

    def generate(
        self,
        inputs: Mapping[str, Any] | Sequence[Mapping[str, Any]],
        to: Target | Sequence[Target],
        *,
        seed: int | None = None,
        variations: int = 1,
        ensemble: int = 1,
        **options: Any,
    ) -> Generation:
        """Generate modalities from inputs of your own, one target after the other; each is an input of the next.

        Args:
            inputs: name of a modality or label -> a file, a folder or pattern (a sample for each file), an array, or
                what JSON can say; of captions, palettes and metadata also the words. A list is one mapping for each
                sample, which need not have the same names. Pictures are cropped to their centre square; what is
                transparent in one is not known. {} generates from nothing.
            to: targets, "tok_depth" or "depth", with options as "caption:temperature=0.6"; or a `Step`.
            seed: of all random numbers; the recipe's `generate.seed` if None.
            variations: how many different results of each sample.
            ensemble: generations that are averaged into each result (4M-21: 10).
            options: of all targets: scheme, steps, temperature, top_p, guidance, ...; without them, those that the
                recipe's chains say of the target.

        Raises:
            ValueError: an input or target cannot be used; says what to do.

        Examples:
            >>> run = fourmill.open_run("out/runs/4m")
            >>> photo = np.zeros((480, 640, 3), np.uint8)  # or "photo.jpg"
            >>> made = run.generate({"rgb": photo}, "tok_dinov2_global:steps=4", seed=0, variations=2)
            >>> len(made), made[0].tokens["tok_dinov2_global"].shape, made[0]["tok_dinov2_global"].shape
            (2, (4,), (12,))
            >>> made[0].inputs["rgb"].notes
            ('640 x 480 px; the model sees the centre square, without 80 px left and 80 px right',)
        """
        for what, number in (("variations", variations), ("ensemble", ensemble)):
            if number < 1:
                raise ValueError(f"{what}: got {number}, expected 1 or more")
        given = self.encode(inputs) or [(GivenSample("0000"), {})]
        known = dict.fromkeys(name for _, tokens in given for name in tokens)
        steps = chain(self.model.config, to, known, self.settings, options)
        settings = self.settings if seed is None else self.settings.model_copy(update={"seed": seed})
        everyone = self._members(settings, [tokens for _, tokens in given], steps, variations * ensemble)
        groups = [everyone[v * ensemble : (v + 1) * ensemble] for v in range(variations)]
        spreads: list[dict[str, np.ndarray]] = [{} for _ in groups]
        decoded = [self.decoded(group, spread) for group, spread in zip(groups, spreads, strict=True)]
        made = [
            Made(
                key=sample.key,
                variation=variation,
                labels={name: values[i] for name, values in decoded[variation].items()},
                tokens={name: tokens[i] for name, tokens in group[0].items()},
                inputs=tokens_given,
                sources={name: source.path or source.name for name, source in sample.values.items()},
                spread={name: rows[i] for name, rows in spreads[variation].items()},
            )
            for i, (sample, tokens_given) in enumerate(given)
            for variation, group in enumerate(groups)
        ]
        classes = self.coder.classes({*known, *(step.target for step in steps)})
        return Generation(made, steps, self._said(settings, steps, variations, ensemble), classes)

    def _members(
        self, settings: Generate, given: Sequence[dict[str, Encoded]], steps: Sequence[ChainStep], count: int
    ) -> list[dict[str, Any]]:
        from ..train.downstream.generation import members, model_step

        for step in steps:  # a tokenizer that is missing is known before a minute of generation
            self.coder.codec(step.target)
        model_steps = [model_step(step, self.specs[step.target]) for step in steps]
        conditions = stack(self.specs, given)
        special = self.coder.special_ids()
        numbers = range(count)
        with self.watch(len(given) * count) as done:
            return members(settings, special, self.model, conditions, model_steps, range(len(given)), numbers, done)

    def decoded(
        self, group: Sequence[Mapping[str, Any]], spread: dict[str, np.ndarray] | None = None
    ) -> dict[str, list[Any]]:
        """The labels of all samples that a group of members says, averaged where they are grids; by modality.

        Args:
            spread: gets how much the members differ, of sensors, see `geo.maps.spread`.
        """
        values: dict[str, list[Any]] = {}
        for name in group[0]:
            members = [self.coder.decode(name, member[name], self.settings.batch_size) for member in group]
            values[name] = members[0]
            if self.specs[name].kind is Kind.GRID and len(group) > 1:
                label, stacked = label_of(name), np.stack([np.stack(rows) for rows in members])
                values[name] = list(average(LABELS[label].form, stacked))
                classes = len(self.coder.classes([name]).get(label, ())) if spread is not None else 0
                if spread is not None and (apart := maps.spread(label, stacked, classes)) is not None:
                    spread[name] = apart
        return values

    def _said(self, settings: Generate, steps: Sequence[ChainStep], variations: int, ensemble: int) -> dict[str, Any]:
        return {
            "run": self.place,
            "root": self.origin.root,
            "seed": settings.seed,
            "variations": variations,
            "ensemble": ensemble,
            "precision": settings.precision,
            "batch_size": settings.batch_size,
            "to": [step.model_dump(mode="json") for step in steps],
        }


def open_run(
    source: str | os.PathLike[str],
    device: str = "cpu",
    root: str | os.PathLike[str] | None = None,
) -> Run:
    """Open a trained model with the tokenizers that it was trained with, to generate from inputs of your own.

    Args:
        source: what `load_model` takes: the folder of a run, of one of its checkpoints, of an exported or published
            model, or a hub id.
        device: "cpu", "cuda" or "cuda:N".
        root: the root that holds the tokenizers; if None, the folder above the run that has tokenizers/.

    Raises:
        ValueError: there is no model, or no tokenizers are in `root`.
        FileNotFoundError: a run has no complete checkpoint yet.

    Examples:
        >>> run = fourmill.open_run("out/runs/4m")
        >>> run.inputs, run.targets
        (('rgb', 'tok_rgb', 'tok_dinov2_global', 'caption'), ('tok_rgb', 'tok_dinov2_global', 'caption'))
        >>> made = run.generate({"tok_dinov2_global": np.zeros(12)}, ["caption:max_tokens=4"])
        >>> page = made.save("generated")
    """
    return opened(source, device, root)


def opened(
    source: str | os.PathLike[str],
    device: str = "cpu",
    root: str | os.PathLike[str] | None = None,
    recipe: Recipe | None = None,
) -> Run:
    """The same; a recipe counts in the place of the run's own."""
    from ..train.pretrain.load import find, load_model

    place = find(source)
    origin = origins.find(place, None if root is None else os.fspath(root), recipe)
    # A hub id is no path.
    where = storage.absolute(place) if storage.list_names(place) else place
    return Run(where, load_model(place, device), origin)
