"""Runs in MLflow, wherever its own settings point: MLFLOW_TRACKING_URI, MLFLOW_EXPERIMENT_NAME."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from edgekit.errors import InputError, need


class _Run:
    def __init__(self, settings: dict[str, Any]) -> None:
        import mlflow

        self._mlflow: Any = mlflow
        try:
            mlflow.start_run(run_name=str(settings.get("name") or "edgekit"))
            mlflow.log_params({key: str(value)[:500] for key, value in settings.items()})
        except Exception as error:  # of many types, from a server that is away to a name that is taken
            reason = str(error).strip().partition("\n")[0]
            raise InputError(
                f'train.loggers: "mlflow" cannot be used ({mlflow.get_tracking_uri()}): {reason}'
            ) from error

    def log(self, epoch: int, values: dict[str, float]) -> None:
        self._mlflow.log_metrics(values, step=epoch)

    def close(self) -> None:
        self._mlflow.end_run()


def start(folder: Path, settings: dict[str, Any]) -> _Run:
    """A run of MLflow; see `edgekit.train.port.Logger`.

    Raises:
        MissingPackage: mlflow is not installed.
        InputError: its server cannot be used.
    """
    need("mlflow", extra="mlflow", purpose='train.loggers = ["mlflow"]')
    return _Run(settings)
