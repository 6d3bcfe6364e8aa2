"""Finished tokenizers in place of fitted ones: published, or of another root.

Their sizes are their own: `resolve` writes them into the settings, so that masking, columns and model follow.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...infra import scratch
from ...infra.configuration import RecipeError
from ...modalities import BODY_POSE, MODALITIES, TOKENIZERS, Form, Kind, Tokenizer, class_names, height_width
from ...pipelines.specialists.weight_files import digest
from ...sensors.declared import SENSORS
from ...tokenize import class_lists
from ...tokenize.conventions import PUBLISHED
from ...tokenize.published import finished
from ...tokenize.settings import CHANNELS, TextTokenizer, Tokenizers, TokenizerSettings

if TYPE_CHECKING:
    from ...tokenize.networks.tables import TableConfig
    from ...tokenize.networks.vqvae import VQConfig
    from ...tokenize.text.wordpiece import WordPiece


def identity(settings: TextTokenizer | TokenizerSettings) -> dict[str, Any] | None:
    """What a finished tokenizer is, for a fingerprint: its content or its name on the hub, and the frame and statistics
    that it is said to have. None of one that is to be fitted: all of its settings count then."""
    if settings.weights is None:
        return None
    here = Path(settings.weights)
    what: dict[str, Any] = {"weights": digest(here) if here.exists() else [settings.weights, settings.revision]}
    if isinstance(settings, TextTokenizer):
        return what
    said = {"frame": settings.frame, "mean": settings.mean, "std": settings.std}
    return what | {name: value for name, value in said.items() if value}


def resolve(
    tokenizers: Tokenizers, names: Iterable[str], image_size: int, lists: Mapping[str, tuple[str, ...]]
) -> dict[str, dict[str, Any]]:
    """`tokenizers.each` with the codebook and patch sizes of the finished tokenizers that it names, and their absolute
    paths.

    Args:
        names: the tokenizers that the recipe needs.
        image_size: pixels along a side of a crop.
        lists: the recipe's own lists of classes, by label.

    RecipeError if one cannot be found, is of other sizes than the recipe says, or of another kind of label.
    """
    each = {name: dict(values) for name, values in tokenizers.each.items()}
    for name in names:
        settings = tokenizers.of(name)
        if settings.weights is None:
            continue
        from ...tokenize import tokenizer  # brings torch, which most recipes can be resolved without

        where = f"tokenizers, {name}: weights {settings.weights}"
        try:
            config, place = _read(settings, _said(name, settings, lists))
            parsed = tokenizer.parse(config)
        except (ValueError, OSError) as error:
            raise RecipeError(f"{where}: {error}") from None
        sizes = {"codebook_size": parsed.codebook_size}
        if TOKENIZERS[name].form not in (Form.VECTOR, Form.NUMBERS):
            sizes["patch_size"] = int(config.get("patch_size") or 16)
        for field, size in sizes.items():
            asked = each.get(name, {}).get(field)
            if asked is not None and asked != size:
                raise RecipeError(f"{where}: its {field} is {size}, the recipe says {asked}; leave it out")
        each.setdefault(name, {}).update({**sizes, "weights": place})
        # Better said now than by the fit, after every label is made.
        sized = settings.model_copy(update=sizes)
        try:
            problem = _another(name, settings.weights, config)
            problem = problem or _problem(TOKENIZERS[name], sized, parsed, image_size, lists)
            problem = problem or _other_classes(class_lists.of_tokenizer(name, lists), config.get("classes") or ())
        except ValueError as error:
            problem = str(error)
        if problem:
            raise RecipeError(f"{where}: {problem}")
    return each


def resolve_text(text: TextTokenizer, modalities: Iterable[str], lists: Mapping[str, tuple[str, ...]]) -> TextTokenizer:
    """The settings of text with the size of the finished vocabulary that they name, and its absolute path.

    Args:
        modalities: of the recipe. lists: as in `resolve`.

    RecipeError if it cannot be found, is of another size than the recipe says, or lacks words of the recipe's.
    """
    if text.weights is None:
        return text
    from ...tokenize.text import finished

    where = f"tokenizers.text: weights {text.weights}"
    try:
        place = finished.place(text.weights)
        words = finished.load(place, text.revision)
    except (ValueError, OSError) as error:
        raise RecipeError(f"{where}: {error}") from None
    # The default is the paper's size, which nobody need have asked for.
    if text.vocab_size not in (words.vocab_size, TextTokenizer.model_fields["vocab_size"].default):
        raise RecipeError(
            f"{where}: its vocab_size is {words.vocab_size}, the recipe says {text.vocab_size}; leave it out"
        )
    if problem := _text_problem(words, modalities, lists):
        raise RecipeError(f"{where}: {problem}")
    return text.model_copy(update={"weights": place, "vocab_size": words.vocab_size})


def _text_problem(words: WordPiece, modalities: Iterable[str], lists: Mapping[str, tuple[str, ...]]) -> str:
    from ...tokenize.text import finished

    texts = [MODALITIES[name] for name in modalities if MODALITIES[name].kind is Kind.SEQUENCE]
    boxes = any(one.label == class_lists.BOXES for one in texts)
    classes = class_names(class_lists.BOXES, lists) if boxes else None
    others = [one for one in texts if one.codec != "wordpiece"]
    of_sensors = [one for one in others if one.label in SENSORS]
    return finished.problem(words, classes, len(others) > len(of_sensors), bool(of_sensors))


def words(text: TextTokenizer) -> WordPiece:
    """The finished vocabulary that is named. ValueError if it is gone."""
    from ...tokenize.text import finished

    assert text.weights is not None
    return finished.load(text.weights, text.revision)


def bring_text(text: TextTokenizer, folder: str) -> dict[str, Any]:
    """Put a finished vocabulary into a local folder: its `sha256`, `vocab_size` and `quality`, for its record.

    ValueError if it is gone.
    """
    found = words(text)
    found.save(folder)
    return {"sha256": found.fingerprint(), "vocab_size": found.vocab_size, "quality": {}}


def _said(name: str, settings: TokenizerSettings, lists: Mapping[str, tuple[str, ...]]) -> dict[str, Any]:
    """What a recipe knows of a finished tokenizer whose file holds tensors alone."""
    said: dict[str, Any] = {"levels": settings.levels, "heads": settings.heads}
    if TOKENIZERS[name].form is Form.CLASSES:  # the file has as many, and no names
        said |= {"n_labels": class_lists.n_labels(name, lists), "classes": class_lists.of_tokenizer(name, lists)}
    if TOKENIZERS[name].form is Form.RASTER and (sensor := SENSORS.get(TOKENIZERS[name].label)):
        said["bands"] = tuple(sensor.kept)
    return said


def _read(settings: TokenizerSettings, said: Mapping[str, Any]) -> tuple[dict[str, Any], str]:
    """A finished tokenizer's settings, and its place: a hub id, or the absolute path of a folder or file."""
    from ...infra.formats import pth
    from ...tokenize import ml4m, tokenizer

    assert settings.weights is not None
    place = Path(settings.weights).expanduser()
    if place.is_dir() or pth.alone(place, tokenizer.WEIGHTS):
        return tokenizer.read_settings(place, said), str(place.resolve())

    if not ml4m.is_hub_id(settings.weights):
        raise ValueError("there is no such folder, and it is no hub id of the form org/name")
    return ml4m.hub_settings(settings.weights, settings.revision, said), settings.weights


def bring(
    name: str,
    settings: TokenizerSettings,
    image_size: int,
    folder: str,
    lists: Mapping[str, tuple[str, ...]] | None = None,
) -> dict[str, Any]:
    """Put a finished tokenizer into a local folder: its `sha256`, `vocab_size` and `quality`, for its record.

    Args:
        lists: the recipe's own lists of classes, by label.

    ValueError if it is not of the kind, or of the sizes, that the recipe needs.
    """
    from ...tokenize import ml4m, tokenizer
    from ...tokenize.networks.tables import Table

    assert settings.weights is not None
    lists = lists or {}
    place = ml4m.located(settings.weights, settings.revision)
    model = tokenizer.load(place, said=_said(name, settings, lists))
    problem = _problem(TOKENIZERS[name], settings, model.config, image_size, lists)
    if problem:
        raise ValueError(f"weights {settings.weights}: {problem}")
    sensor = SENSORS.get(TOKENIZERS[name].label)
    if not isinstance(model, Table):
        # What it will read are pictures in [-1, 1] already. A folder of ours says its frame itself.
        frame = settings.frame or model.config.frame
        standard = finished.statistics(settings, tuple(sensor.kept) if sensor else (), sensor.unit if sensor else "")
        model.config = model.config.model_copy(update={"undo_std": False, "frame": frame, **standard})
    local = Path(settings.weights)
    quality = tokenizer.read_quality(local) if (local / tokenizer.WEIGHTS).is_file() else {}
    tokenizer.save(model, folder, quality, class_lists.of_tokenizer(name, lists), name)
    return {
        "sha256": tokenizer.fingerprint(folder), "vocab_size": model.config.codebook_size, "quality": quality,
        "measured_on": "elsewhere",
    }  # fmt: skip


def contents(
    name: str,
    settings: TokenizerSettings,
    image_size: int,
    lists: Mapping[str, tuple[str, ...]] | None = None,
    expected: str = "",
) -> str | None:
    """The fingerprint that a finished tokenizer will have in the root, None if it is not on this machine.

    Args:
        image_size, lists: as in `bring`. expected: if the folder has it, nothing need be loaded.
    """
    from ...tokenize import tokenizer

    assert settings.weights is not None
    if not (place := Path(settings.weights)).exists():
        return None
    if (place / tokenizer.WEIGHTS).is_file() and tokenizer.fingerprint(place) == expected:
        return expected
    with scratch.folder() as folder:
        return str(bring(name, settings, image_size, folder, lists)["sha256"])


def _another(name: str, weights: str, config: Mapping[str, Any]) -> str:
    """Why a tokenizer that may have the right sizes is of another label, "" if nothing says so."""
    of_hub = {hub_id: one for one, hub_id in PUBLISHED.items()}
    of = config.get("tokenizer") or of_hub.get(weights, name)
    if of == name and TOKENIZERS[name].form in (Form.FEATURES, Form.VECTOR):
        # The widths of 4M's features are their names; other widths are those of models of the user's choice.
        width, own = config.get("n_channels"), TOKENIZERS[name].channels
        others = [one for one in PUBLISHED if TOKENIZERS[one].form is TOKENIZERS[name].form]
        of = next((one for one in others if width != own and width == TOKENIZERS[one].channels), name)
    return "" if of == name else f"it is the tokenizer {of}, and is named for {name}; name one of {name}'s own label"


def _other_classes(asked: Sequence[str], there: Sequence[str]) -> str:
    """Why a tokenizer of as many classes cannot serve, "" if it can."""
    if list(asked) == list(there):
        return ""
    first = ", ".join(there[:3]) + ", ..." if there else "those of COCO"
    return f"its classes are {first}, and not the recipe's; see classes"


def _table_problem(entry: Tokenizer, settings: TokenizerSettings, config: VQConfig | TableConfig) -> str:
    """Why one cannot serve where it or the label is of a table, "" if it can."""
    from ...tokenize.networks.tables import TableConfig

    if not isinstance(config, TableConfig):
        return f"it is a network, and {entry.name} needs a table of quantiles"
    if entry.form is not Form.NUMBERS or config.table != "quantiles":
        return f"it is a table of {config.table}, and {entry.name} needs a network"
    if config.num_codebooks != entry.channels:
        return f"it is of {config.num_codebooks} numbers, {entry.name} has {entry.channels}"
    if settings.mean is not None:
        return "mean and std are of bands; a table of numbers needs none"
    return ""


def _problem(
    entry: Tokenizer,
    settings: TokenizerSettings,
    config: VQConfig | TableConfig,
    image_size: int,
    lists: Mapping[str, tuple[str, ...]],
) -> str:
    """Why a tokenizer cannot serve, "" if it can."""
    from ...tokenize.networks.divae import DiVAEConfig
    from ...tokenize.networks.tables import TableConfig

    if entry.form is Form.NUMBERS or isinstance(config, TableConfig):
        return _table_problem(entry, settings, config)
    books = entry.tokens if entry.form is Form.VECTOR else 1
    wanted: dict[str, Any] = {"codebook_size": settings.codebook_size, "num_codebooks": books}
    if entry.form is not Form.VECTOR:
        wanted |= {"patch_size": settings.patch_size, "n_labels": class_lists.n_labels(entry.name, lists) or None}
        wanted |= {"patch_proj": entry.form is not Form.FEATURES}
    # How wide other labels are is known when they come, see `FittedTokenizer.encode`.
    declared = entry.name == BODY_POSE or entry.form is Form.RASTER
    if channels := entry.channels if declared else CHANNELS.get(entry.form):
        wanted |= {"n_channels": channels}
    for field, value in wanted.items():
        if getattr(config, field) != value:
            return f"its {field} is {getattr(config, field)}, {entry.name} needs {value}"
    for side in height_width(entry.image_size or image_size):
        if entry.form is not Form.VECTOR and side % config.patch_size:
            return f"images of {side} px do not divide into its patches of {config.patch_size} px"
        if isinstance(config, DiVAEConfig) and side % config.multiple:
            return f"its decoder needs images whose sides are multiples of {config.multiple} px, got {side}"
    return finished.problem(entry, settings, config)
