"""Files for apps: they take pixels, answer with named scores, and say so in their metadata."""
