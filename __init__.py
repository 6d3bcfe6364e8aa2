"""fourmill: image-text shards to aligned multimodal tokens, and 4M trained on them."""

__version__ = "0.1.0"
