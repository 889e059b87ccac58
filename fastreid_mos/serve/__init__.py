"""A local web page on an index: drop a chip, see the most similar ones."""
