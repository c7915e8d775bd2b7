"""Training that can be stopped at any moment and continued with the same result."""
