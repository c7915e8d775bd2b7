"""Makes a Vision Transformer physically smaller: checkpoint in, smaller checkpoint out."""
