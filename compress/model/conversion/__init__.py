"""Parts of timm's models in the form of ``SlicedViT``."""
