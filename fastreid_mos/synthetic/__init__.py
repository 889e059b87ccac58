"""Generated chips on disk: their manifest, and a folder opened, verified and matched to the source chips."""
