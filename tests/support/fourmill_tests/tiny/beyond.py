"""Tiny random models of labels that 4M-21 has not, in the publishers' own classes, as folders that a user would have:
open-vocabulary detectors and vision-language models."""

from __future__ import annotations

import string
from pathlib import Path
from typing import Any

import torch

from .dense import stir

WORDS = ("cat", "dog", "red", "car", "a", "photo", "of", "traffic", "sign")


def _save(folder: Path, model: Any, processor: Any) -> Path:
    stir(model)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def _clip_tokenizer() -> Any:
    import transformers as hf

    letters = [*string.ascii_lowercase, *string.digits]
    names = ["<|startoftext|>", "<|endoftext|>", *letters, *(f"{letter}</w>" for letter in letters)]
    # OWL tells padding by id 0.
    return hf.CLIPTokenizer(
        vocab={name: i for i, name in enumerate(["!", *names])}, merges=[], pad_token="!", model_max_length=32
    )


def owl(folder: Path, kind: str = "owlv2", side: int = 64) -> Path:
    """OWLv2, which sees images in a square with bars, or OWL-ViT, which squeezes them."""
    import transformers as hf

    torch.manual_seed(0)
    tokenizer = _clip_tokenizer()
    text = {
        "vocab_size": len(tokenizer), "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2,
        "num_attention_heads": 2, "max_position_embeddings": 32, "bos_token_id": 1, "eos_token_id": 2,
    }  # fmt: skip
    vision = {
        "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2,
        "image_size": side, "patch_size": 16,
    }  # fmt: skip
    shared: dict[str, Any] = {"text_config": text, "vision_config": vision, "projection_dim": 16}
    size = {"height": side, "width": side}
    if kind == "owlv2":
        return _save(
            folder, hf.Owlv2ForObjectDetection(hf.Owlv2Config(**shared)),
            hf.Owlv2Processor(hf.Owlv2ImageProcessor(size=size), tokenizer),
        )  # fmt: skip
    return _save(
        folder, hf.OwlViTForObjectDetection(hf.OwlViTConfig(**shared)),
        hf.OwlViTProcessor(hf.OwlViTImageProcessor(size=size, do_center_crop=False), tokenizer),
    )  # fmt: skip


def grounding_dino(folder: Path) -> Path:
    """Grounding DINO on a small Swin."""
    import transformers as hf

    torch.manual_seed(1)
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", ".", *WORDS, *string.ascii_lowercase]
    vocabulary = {piece: i for i, piece in enumerate([*pieces, *(f"##{c}" for c in string.ascii_lowercase)])}
    backbone = hf.SwinConfig(
        image_size=64, patch_size=4, embed_dim=8, depths=[1, 1, 1, 1], num_heads=[1, 1, 2, 2], window_size=4,
        out_features=["stage2", "stage3", "stage4"],
    )  # fmt: skip
    text = {
        "model_type": "bert", "vocab_size": len(vocabulary), "hidden_size": 16, "num_hidden_layers": 1,
        "num_attention_heads": 2, "intermediate_size": 16, "max_position_embeddings": 64,
    }  # fmt: skip
    heads = {"encoder_attention_heads": 4, "decoder_attention_heads": 4}
    config = hf.GroundingDinoConfig(
        backbone_config=backbone, text_config=text, num_queries=12, encoder_layers=1, decoder_layers=2, d_model=32,
        encoder_ffn_dim=16, decoder_ffn_dim=16, encoder_n_points=2, decoder_n_points=2, max_text_len=64,
        disable_custom_kernels=True, num_feature_levels=4, **heads,
    )  # fmt: skip
    images = hf.GroundingDinoImageProcessor(size={"shortest_edge": 64, "longest_edge": 128})
    processor = hf.GroundingDinoProcessor(images, hf.BertTokenizer(vocab=vocabulary))
    return _save(folder, hf.GroundingDinoForObjectDetection(config), processor)


_LLAMA: dict[str, Any] = {
    "model_type": "llama", "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2,
    "num_key_value_heads": 1, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
_CHAT = (
    "{% for m in messages %}{{ m['role'] }}:{% for c in m['content'] %}{% if c['type'] == 'image' %}<image>{% else %}"
    "{{ c['text'] }}{% endif %}{% endfor %}<end_of_utterance>\n{% endfor %}assistant:"
)


def letters_tokenizer(special: list[str]) -> Any:
    """A tokenizer of bytes, with tokens of its own for `special`."""
    import tokenizers as tk
    import transformers as hf

    alphabet = sorted(tk.pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {piece: i for i, piece in enumerate(["<pad>", "<s>", "</s>", *special, *alphabet])}
    inner = tk.Tokenizer(tk.models.BPE(vocab=vocabulary, merges=[]))
    inner.pre_tokenizer = tk.pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = tk.decoders.ByteLevel()
    return hf.PreTrainedTokenizerFast(
        tokenizer_object=inner, pad_token="<pad>", bos_token="<s>", eos_token="</s>", additional_special_tokens=special
    )


def smolvlm(folder: Path) -> Path:
    """Idefics 3, which SmolVLM is: it chats, and sees an image in tiles and as a whole."""
    import transformers as hf

    torch.manual_seed(2)
    tiles = [f"<row_{row}_col_{column}>" for row in range(1, 7) for column in range(1, 7)]
    tokenizer = letters_tokenizer(
        ["<image>", "<fake_token_around_image>", "<global-img>", "<end_of_utterance>", *tiles]
    )
    vision = {
        "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 32,
        "patch_size": 8,
    }  # fmt: skip
    config = hf.Idefics3Config(
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"), vision_config=vision, scale_factor=2,
        text_config={**_LLAMA, "vocab_size": len(tokenizer)}, pad_token_id=0,
    )  # fmt: skip
    images = hf.Idefics3ImageProcessor(size={"longest_edge": 64}, max_image_size={"longest_edge": 32})
    processor = hf.Idefics3Processor(images, tokenizer, image_seq_len=4, chat_template=_CHAT)
    return _save(folder, hf.Idefics3ForConditionalGeneration(config), processor)


def blip(folder: Path) -> Path:
    """BLIP: captions without a question."""
    import transformers as hf

    torch.manual_seed(3)
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS, *string.ascii_lowercase]
    vocabulary = {piece: i for i, piece in enumerate(pieces)}
    text = {
        "vocab_size": len(pieces), "hidden_size": 16, "encoder_hidden_size": 16, "intermediate_size": 24,
        "num_hidden_layers": 1, "num_attention_heads": 2, "max_position_embeddings": 64, "bos_token_id": 2,
        "eos_token_id": 3, "sep_token_id": 3, "pad_token_id": 0,
    }  # fmt: skip
    vision = {
        "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 32,
        "patch_size": 8,
    }  # fmt: skip
    config = hf.BlipConfig(text_config=text, vision_config=vision, projection_dim=16)
    images = hf.BlipImageProcessor(size={"height": 32, "width": 32})
    processor = hf.BlipProcessor(images, hf.BertTokenizer(vocab=vocabulary))
    return _save(folder, hf.BlipForConditionalGeneration(config), processor)
