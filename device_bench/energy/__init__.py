"""Energy per inference: the sources it is read from, and how it is measured."""
