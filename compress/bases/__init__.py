"""Pruning in the best basis: a model is rotated so that what matters least stands last, and cut there.

No label and no training is needed. ``analyse`` looks at a model on unlabelled images, and ``cut`` removes what a
search chose.
"""
