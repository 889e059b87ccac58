"""Generated chips on disk: the manifest, and a folder opened, verified and matched to the chips it was made from."""
