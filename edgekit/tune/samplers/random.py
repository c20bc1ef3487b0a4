"""Independent random values: those of a trial depend on the seed and its number alone.

Bergstra and Bengio, "Random Search for Hyper-Parameter Optimization", 2012.
"""

from typing import Any

from optuna.samplers import RandomSampler

from edgekit.tune.space import Space


def sampler(seed: int) -> RandomSampler:
    """Uniform, or uniform in the logarithm."""
    return RandomSampler(seed=seed)


def count(space: Space) -> None:
    """There is no end."""


def fixed(space: Space, number: int) -> dict[str, Any]:
    """All are drawn."""
    return {}
