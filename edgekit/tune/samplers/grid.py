"""Every combination once, the last key of the space varying fastest."""

import math
from typing import Any

from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.samplers import RandomSampler

from edgekit.errors import InputError
from edgekit.tune.space import WHERE, Space


def sampler(seed: int) -> RandomSampler:
    """Draws nothing, as every value is fixed."""
    return RandomSampler(seed=seed)


def count(space: Space) -> int:
    """The number of combinations."""
    return math.prod(_size(key, each) for key, each in space.distributions.items())


def fixed(space: Space, number: int) -> dict[str, Any]:
    """The combination with that number: its digits in a system whose bases are the sizes of the lists."""
    values = {}
    for key, each in reversed(space.distributions.items()):
        number, place = divmod(number, _size(key, each))
        values[key] = _value(each, place)
    return dict(reversed(values.items()))


def _size(key: str, each: BaseDistribution) -> int:
    if isinstance(each, CategoricalDistribution):
        return len(each.choices)
    assert isinstance(each, IntDistribution | FloatDistribution)
    if each.log or each.step is None:
        raise InputError(f'{WHERE}: "{key}": a grid needs a list of values, or a range with a step')
    return round((each.high - each.low) / each.step) + 1


def _value(each: BaseDistribution, place: int) -> Any:
    if isinstance(each, CategoricalDistribution):
        return each.choices[place]
    assert isinstance(each, IntDistribution | FloatDistribution)
    assert each.step is not None
    return each.low + place * each.step
