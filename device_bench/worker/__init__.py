"""Jobs of measuring in worker processes."""
