"""A report as data, and its renderers: HTML and Markdown."""
