"""Lets the better fourth of the trials go on at each rung; rungs are 1, 4, 16, ... epochs.

Li et al., "A System for Massively Parallel Hyperparameter Tuning", 2020 (asynchronous successive halving).
"""

from optuna.pruners import SuccessiveHalvingPruner

STOPS = True


def pruner() -> SuccessiveHalvingPruner:
    """The first rung is after the first epoch."""
    return SuccessiveHalvingPruner(min_resource=1, reduction_factor=4)
