"""Trains every trial to its end."""

from optuna.pruners import NopPruner

STOPS = False


def pruner() -> NopPruner:
    """Never stops."""
    return NopPruner()
