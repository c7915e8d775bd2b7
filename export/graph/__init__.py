"""A model as a graph of operators, and the exact rewrites of it."""
