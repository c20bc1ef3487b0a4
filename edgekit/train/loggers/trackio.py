"""Runs in Trackio, the local dashboard with the interface of Weights & Biases."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from edgekit.errors import need


class _Run:
    def __init__(self, settings: dict[str, Any]) -> None:
        import trackio

        self._trackio: Any = trackio
        trackio.init(project="edgekit", name=str(settings.get("name") or "run"), config=settings)

    def log(self, epoch: int, values: dict[str, float]) -> None:
        self._trackio.log(values, step=epoch)

    def close(self) -> None:
        self._trackio.finish()


def start(folder: Path, settings: dict[str, Any]) -> _Run:
    """A run of Trackio; see `edgekit.train.port.Logger`.

    Raises:
        MissingPackage: trackio is not installed.
    """
    need("trackio", extra="trackio", purpose='train.loggers = ["trackio"]')
    return _Run(settings)
