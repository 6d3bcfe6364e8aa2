"""Folders of fitted tokenizers: `model.safetensors` and `config.json`, ours or published; no pickle is ever read.

Our config.json adds to the published settings `sizes`, for encoders and decoders without a published name, `classes`,
the names of a class map's ids if they are not COCO's, `tokenizer`, its name in the recipe, and `quality`, what the fit
measured. Published folders may lack
config.json (the header of the weights then holds it, as strings), and may have an `arch.json` with sizes by name.
TerraMind's are one file of PyTorch's (published/terramind.py), alone or in a folder; AION-1's codecs have a config.json
of their own (published/aion.py).
"""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError

from ..infra import configuration, storage, sums
from ..infra.explain import explain
from ..infra.formats import header as headers
from ..infra.formats import pth
from .networks.arch import is_diffusion
from .networks.divae import DiVAE, DiVAEConfig
from .networks.spectra import Spectra
from .networks.surveys import SurveyConfig, SurveyImages
from .networks.tables import Table, TableConfig
from .networks.vqvae import VQVAE, VQVAEConfig
from .published import aion, terramind

Network = VQVAE | DiVAE
Tokenizer = Network | Table  # a table has no weights that learn

WEIGHTS, CONFIG, ARCH = "model.safetensors", "config.json", "arch.json"
NAME = "tokenizer"  # the key of config.json for the tokenizer's name
_DIFFUSION_KEYS = {"num_train_timesteps", "beta_schedule", "prediction_type"}
# What only training reads, or what is fixed: folders may lack it.
_FILLED = ("._codebook.initted", "._codebook.cluster_size", "._codebook.embed_avg", "pos_emb")
# Names that some releases stored beside, or for, those that are read.
_UNREAD = ("quantize._codebook.embed_avg", "mid.Conv2d_0.weight", "mid.Conv2d_0.bias")


def build(settings: Mapping[str, Any], seed: int = 0) -> Tokenizer:
    """The untrained tokenizer of a config.json's content; ValueError if it describes none."""
    config = parse(settings)
    if isinstance(config, TableConfig):
        return Table(config)
    if isinstance(config, SurveyConfig):
        return SurveyImages(config, seed)
    return DiVAE(config, seed) if isinstance(config, DiVAEConfig) else VQVAE(config, seed)


def parse(settings: Mapping[str, Any]) -> DiVAEConfig | VQVAEConfig | TableConfig:
    """A config.json's content, typed; ValueError if it describes no tokenizer."""
    if "sd_path" in settings:
        raise ValueError("tokenizer: got a ControlNet decoder on Stable Diffusion; expected a VQ-VAE or a DiVAE")
    # Some published configs name no decoder; only those of diffusion have a noise schedule.
    dec_type = settings.get("dec_type") or ("unet_" if settings.keys() & _DIFFUSION_KEYS else "vit_")
    kind: type[DiVAEConfig | VQVAEConfig | TableConfig] = DiVAEConfig if is_diffusion(dec_type) else VQVAEConfig
    if "table" in settings:
        kind = TableConfig
    if "halvings" in settings:
        kind = SurveyConfig
    try:
        return kind.model_validate(settings)
    except ValidationError as error:
        raise ValueError(explain(error, "tokenizer", kind)) from None


def load(folder: str | Path, image_size: int | None = None, said: Mapping[str, Any] | None = None) -> Tokenizer:
    """Opens a folder, or a .pt of TerraMind's, in evaluation mode.

    Args:
        said: what a recipe knows of a .pt: `levels`, `heads`, and of one of class maps `n_labels` and the names of the
            `classes`; see `terramind.settings`. Of one of AION-1's the `bands` of images.
        image_size: pixels that the ViTs' fixed positions are computed again for, as 4M does before it adapts a
            tokenizer to more resolutions; None keeps the stored ones, resized where an input needs it.

    Raises:
        ValueError: a file is missing or not the one that was written, the config is of no tokenizer, or the weights do
            not fit it. Tensors that nothing reads are left out with a warning.
    """
    folder = Path(folder)
    file = pth.alone(folder, WEIGHTS)
    theirs = _published(folder, said or {})
    settings, weights = theirs or (read_settings(folder), {})
    if image_size is not None:
        settings |= {"image_size": image_size, "image_size_enc": None, "image_size_dec": None}
    try:
        model = build(settings)
    except ValueError as error:
        raise ValueError(f"{folder}: {error}") from error
    if not theirs:
        weights = _tensors(folder / WEIGHTS)
    # Fixed positions are no learned weights: those of the new size replace the stored ones.
    if image_size is not None:
        weights |= {name: tensor for name, tensor in model.state_dict().items() if name.endswith(".pos_emb")}
    try:
        fill(model, weights)
    except ValueError as error:
        raise ValueError(f"{file or folder / WEIGHTS}: {error}") from error
    if not theirs:
        sums.check(folder, (WEIGHTS, CONFIG))
    return model.eval()


def _published(folder: Path, said: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, torch.Tensor]] | None:
    """Settings and tensors of a tokenizer whose files are laid out in another way; None of one as ours or ml-4m's."""
    if file := pth.alone(folder, WEIGHTS):
        return _read_file(file, said)
    if not (folder / CONFIG).is_file() or not aion.is_codec(config := read_json(folder / CONFIG)):
        return None
    try:
        return aion.read(config, _tensors(folder / WEIGHTS), said)
    except ValueError as error:
        raise ValueError(f"{folder}: {error}") from None


def load_spectra(folder: Path) -> Spectra | None:
    """AION-1's codec of spectra, None if a folder holds another tokenizer. ValueError if it is damaged."""
    if not (folder / CONFIG).is_file() or not aion.is_of_spectra(config := read_json(folder / CONFIG)):
        return None
    try:
        return aion.read_spectra(config, _tensors(folder / WEIGHTS))
    except ValueError as error:
        raise ValueError(f"{folder}: {error}") from None


def _tensors(file: Path) -> dict[str, torch.Tensor]:
    """ValueError if they cannot be read."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(file)
    except SafetensorError as error:
        raise ValueError(f"{file}: damaged or cut off ({error}); copy or download it again") from error


def _read_file(file: Path, said: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """Settings and tensors of a .pt, with what a config.json and an arch.json beside it say."""
    tensors = terramind.read(file)
    given = {name: value for name, value in said.items() if value is not None}
    n_labels, classes = given.pop("n_labels", None), given.pop("classes", ())
    given.pop("bands", None)  # a .pt has channels without names
    try:
        settings = terramind.settings(tensors, _beside(file.parent, {}) | given)
        if n_labels:
            settings, tensors = terramind.of_class_ids(settings, tensors, n_labels)
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from None
    return settings | ({"classes": list(classes)} if classes else {}), tensors


def _beside(folder: Path, settings: dict[str, Any]) -> dict[str, Any]:
    """Settings with those of a folder's config.json, and the sizes of its arch.json."""
    if (folder / CONFIG).is_file():
        settings = read_json(folder / CONFIG)
    if (folder / ARCH).is_file():
        # Only what this tokenizer is made of: the table may hold more, and its own sizes win.
        named = {settings.get("enc_type"), settings.get("dec_type")}
        table = {name: size for name, size in read_json(folder / ARCH).items() if name in named}
        settings["sizes"] = table | (settings.get("sizes") or {})
    return settings


def fill(model: Tokenizer, weights: dict[str, torch.Tensor]) -> None:
    """Copy weights by apple/ml-4m's names into a tokenizer. ValueError if they are not those of its settings."""
    try:
        model.load_state_dict(_known_names(weights, model.state_dict()))
    except RuntimeError as error:
        raise ValueError(f"the weights do not fit the config: {error}") from error


def _known_names(weights: dict[str, torch.Tensor], expected: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    """Weights by our names: renames old names, fills in what is fixed, drops what nothing reads (with a warning)."""
    # The current name wins where both are there.
    for name in [n for n in weights if n.endswith(_UNREAD) and n not in expected]:
        tensor, current = weights.pop(name), name.replace("Conv2d_0", "conv")
        if current in expected:
            weights.setdefault(current, tensor)
    if unread := sorted(weights.keys() - expected.keys()):
        warnings.warn(f"tokenizer: nothing reads {len(unread)} of the tensors, {unread[0]} ...", stacklevel=4)
    missing = {name: tensor for name, tensor in expected.items() if name not in weights and name.endswith(_FILLED)}
    return missing | {name: tensor for name, tensor in weights.items() if name in expected}


def save(
    model: Tokenizer, folder: str | Path, quality: Mapping[str, float], classes: Sequence[str] = (), name: str = ""
) -> None:
    """Writes weights, the sums of both files, and config; each replaces its older version at once, the config last.

    Args:
        classes: the names of the ids that it was fitted on, if they are not the label's own.
        name: of the tokenizer in `modalities.TOKENIZERS`, so that it is not taken for another one of the same sizes.
    """
    from safetensors.torch import save as encode

    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    # A reader sees the old file or the new one, never half of it.
    data = encode(weights, metadata={"format": "pt"})
    storage.put(str(Path(folder) / WEIGHTS), data)
    config = model.config.model_dump(mode="json", exclude_none=True)
    config |= ({"classes": list(classes)} if classes else {}) | ({NAME: name} if name else {})
    config |= {"quality": dict(quality)}
    text = (json.dumps(config, indent=1) + "\n").encode()
    storage.put(str(Path(folder) / sums.FILE), sums.dumps({WEIGHTS: sums.of(data), CONFIG: sums.of(text)}))
    storage.put(str(Path(folder) / CONFIG), text)


def read_settings(folder: str | Path, said: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The content of config.json, or of the weights' header if there is none, with the sizes of arch.json; of a .pt
    what its tensors say, see `load`.

    ValueError if a file is missing or says nothing of a tokenizer.
    """
    folder = Path(folder)
    weights = folder / WEIGHTS
    if not pth.alone(folder, WEIGHTS) and not weights.is_file():
        raise ValueError(f"tokenizer: found no {weights}; run `fourmill fit`, or name another folder")
    if theirs := _published(folder, said or {}):
        return theirs[0]
    return _beside(folder, {} if (folder / CONFIG).is_file() else _read_header(weights))


def read_json(path: Path) -> dict[str, Any]:
    """The object that a file holds; ValueError if it holds something else."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path}: no JSON: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path}: got {type(content).__name__}; expected an object of settings")
    return content


def _read_header(weights: Path) -> dict[str, Any]:
    """Settings from the metadata of a safetensors file, which holds each as the text of a Python literal."""
    try:
        texts = headers.of_url(str(weights)).metadata
    except ValueError as error:
        raise ValueError(f"tokenizer: {error}, or `git lfs pull` if git brought it") from error
    if "enc_type" not in texts:
        raise ValueError(f"tokenizer: found no {weights.parent / CONFIG}, and no settings in the header of {weights}")
    return configuration.of_texts(texts)


def read_quality(folder: str | Path) -> dict[str, float]:
    """What the fit measured, {} for a published folder."""
    return read_settings(folder).get("quality") or {}


def read_classes(folder: str | Path) -> tuple[str, ...]:
    """The names of the ids that it was fitted on, () if they are the label's own."""
    return tuple(map(str, read_settings(folder).get("classes") or ()))


def fingerprint(folder: str | Path) -> str:
    """16 hexadecimal digits of the weights and settings; the measured quality does not count."""
    folder = Path(folder)
    settings = read_settings(folder)
    for name in ("quality", NAME):  # measured again on other samples, the tokens are the same; names came later
        settings.pop(name, None)
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    with open(folder / WEIGHTS, "rb") as stream:
        while block := stream.read(2**22):  # 4 MiB at a time: weights may be gigabytes
            digest.update(block)
    return digest.hexdigest()[:16]
