"""Tree search over pruning actions: branch-and-bound (DL-DFBnB) and greedy."""
