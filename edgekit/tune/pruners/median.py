"""Stops a trial whose best epoch so far is worse than the median of the others after as many epochs.

Golovin et al., "Google Vizier: A Service for Black-Box Optimization", 2017, section 3.2.1 (the median stopping rule).
"""

from optuna.pruners import MedianPruner

STOPS = True


def pruner() -> MedianPruner:
    """Five trials are trained to their end first, and each at least for two epochs."""
    return MedianPruner(n_startup_trials=5, n_warmup_steps=2)
