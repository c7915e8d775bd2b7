"""Units of work of a study: processes here, or on a Ray cluster."""
