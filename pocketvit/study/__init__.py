"""Studies: many methods on the same models, data and seeds, each made alike, and told side by side."""
