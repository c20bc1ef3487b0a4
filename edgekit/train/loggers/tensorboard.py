"""Event files for TensorBoard: ``tensorboard --logdir runs`` shows all runs beside each other."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from edgekit.errors import need


class _Writer:
    def __init__(self, folder: Path) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer: Any = SummaryWriter(str(folder))

    def log(self, epoch: int, values: dict[str, float]) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, epoch)
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()


def start(folder: Path, settings: dict[str, Any]) -> _Writer:
    """Event files in ``tensorboard`` beside the checkpoint; see `edgekit.train.port.Logger`.

    Raises:
        MissingPackage: tensorboard is not installed.
    """
    need("tensorboard", extra="tensorboard", purpose='train.loggers = ["tensorboard"]')
    return _Writer(folder / "tensorboard")
