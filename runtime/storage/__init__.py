"""Files on disk: atomic writes, checked dataclasses, JSON documents and JSON lines."""
