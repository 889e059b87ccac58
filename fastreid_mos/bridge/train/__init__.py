"""Training of a Brownian bridge: pairs, batches, the trainer and the program."""
