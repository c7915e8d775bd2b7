"""Models in the layout of Hugging Face: a folder or repository with a ``config.json`` and its weights."""
