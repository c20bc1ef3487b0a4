"""Losses, each a module with ``criterion``: from logits and targets to the mean loss of a batch."""
