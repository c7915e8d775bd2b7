"""SVG figures of the report."""
