"""Dumping: the chips that a bridge generates for fused tests, written to a folder with a manifest."""
