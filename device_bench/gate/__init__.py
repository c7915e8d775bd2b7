"""The regression gate: new files compared with a baseline, limit by limit."""
