"""Labelled pictures: where they come from, how they are split, checked, augmented and batched."""
