"""Short programs that use an exported file, one template for each runtime and language."""
