"""The weights that timm and torchvision publish, and the preprocessing that they expect."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import timm
from huggingface_hub import HfApi, try_to_load_from_cache
from torch import Tensor
from torchvision import models as zoo

from edgekit.errors import InputError
from edgekit.types import ModelSpec

TORCHVISION = "torchvision/"
"""What the names of its networks begin with."""


def fetch(spec: ModelSpec) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Download (or find in the cache) the published weights of `spec`, and their preprocessing.

    Raises:
        InputError: none are published, or there is no connection.
    """
    if ".py:" in spec.name:
        raise InputError(f'model.weights = "pretrained": {spec.name} has none; give a weights file or "none"')
    preprocessing = expected(spec)
    with _downloads(spec.name):
        if spec.name.startswith(TORCHVISION):
            weights = _torchvision_weights(spec.name)
            if weights is None:
                raise _unpublished(spec)
            return dict(weights.get_state_dict(progress=False, check_hash=True)), preprocessing
        config = timm.get_pretrained_cfg(spec.name)
        if config is None or not config.has_weights:
            raise _unpublished(spec)
        if config.hf_hub_id and not isinstance(try_to_load_from_cache(config.hf_hub_id, "model.safetensors"), str):
            HfApi().model_info(config.hf_hub_id, timeout=20)  # fails at once; the download would retry for a minute
        source = timm.create_model(spec.name, pretrained=True, **timm_options(spec))
        return dict(source.state_dict()), preprocessing


def _unpublished(spec: ModelSpec) -> InputError:
    return InputError(f'model.weights = "pretrained": none are published for {spec.name}; give a file or "none"')


def _torchvision_weights(name: str) -> Any:
    """The best published weights of a torchvision network, or None."""
    return getattr(zoo.get_model_weights(name.removeprefix(TORCHVISION)), "DEFAULT", None)


@contextmanager
def _downloads(name: str) -> Iterator[None]:
    """Report a failed download in one line; suppress the hub's own retry messages."""
    logger = logging.getLogger("huggingface_hub")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    except InputError:
        raise
    except Exception as error:  # the hub, urllib and httpx each have their own exceptions
        reason = str(error).strip().partition("\n")[0]
        raise InputError(
            f"model.weights: the pretrained weights of {name} could not be downloaded ({reason}): "
            'check the connection, or give model.weights a local .safetensors or .pth file, or "none"'
        ) from error
    finally:
        logger.setLevel(level)


def narrower(name: str) -> list[str]:
    """Narrower versions of a timm network that have published weights, the widest first.

    Their names end with their width in per cent: mobilenetv3_small_075 and mobilenetv3_small_050, for one.
    """
    match = re.fullmatch(r"(?P<stem>\w+?)(_(?P<width>\d{3}))?(\.\w+)?", name)
    if match is None:
        return []
    width = int(match["width"] or 100)
    found = timm.list_models(f"{match['stem']}_[0-9][0-9][0-9]*", pretrained=True)
    names = {each.partition(".")[0] for each in found}
    widths = {int(each[-3:]): each for each in names if re.fullmatch(r"_\d{3}", each.removeprefix(match["stem"]))}
    return [widths[each] for each in sorted(widths, reverse=True) if each < width]


def plain() -> dict[str, Any]:
    """Preprocessing if no weights expect a particular one: [0, 1] to [-1, 1]."""
    return {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}


def expected(spec: ModelSpec) -> dict[str, Any]:
    """Preprocessing of the weights published under this name; [0, 1] to [-1, 1] for a user's file."""
    if ".py:" in spec.name:
        return plain()
    if spec.name.startswith(TORCHVISION):
        weights = _torchvision_weights(spec.name)
        if weights is None:
            return plain()
        transform = weights.transforms()
        return {
            "mean": tuple(transform.mean),
            "std": tuple(transform.std),
            "crop": transform.crop_size[0] / transform.resize_size[0],
            "interpolation": transform.interpolation.value,
        }
    config = timm.get_pretrained_cfg(spec.name)
    if config is None:
        return plain()
    return {
        "mean": tuple(config.mean),
        "std": tuple(config.std),
        "crop": config.crop_pct,
        "interpolation": config.interpolation,
    }


def timm_options(spec: ModelSpec) -> dict[str, Any]:
    """Keyword arguments of `timm.create_model`."""
    return dict(spec.options) if spec.channels == 3 else {"in_chans": spec.channels, **spec.options}
