"""Modules of timm in models that are exported whole."""
