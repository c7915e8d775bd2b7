"""The Vision Transformer: built from a plan, loaded from a checkpoint, sliced, saved."""
