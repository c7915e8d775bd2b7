"""From picture files to the numbers a model is fed."""
