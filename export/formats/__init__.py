"""File formats: how each kind of file is written from a model."""
