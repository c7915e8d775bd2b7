"""Models of timm that have no plan: they are converted by the makers' own converters, whole."""
