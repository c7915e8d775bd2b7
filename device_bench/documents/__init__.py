"""The files a benchmark leaves in a run folder, as dataclasses."""
