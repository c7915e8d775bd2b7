"""Files measured in browsers: a page that any phone or computer opens, and that sends its results back."""
