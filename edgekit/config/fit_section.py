"""The [fit] section: what `edgekit fit` looks for."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from edgekit.config.toml import LEAST, MOST, Duration, Section

Side = Annotated[int, Field(ge=LEAST, le=MOST)]


class FitSection(Section):
    """The most accurate network that meets a latency budget on every device. Used by `edgekit fit` alone."""

    max_ms: float = Field(gt=0, le=1e6, description="milliseconds that an inference may take on each device")
    percentile: Literal[50, 90, 99] = Field(
        50, description="of the times of an inference, what has to be within max_ms"
    )
    max_drop: float = Field(
        1.0, ge=0, le=100, description="percentage points of top-1 accuracy that may be lost against the whole network"
    )
    max_mb: float | None = Field(None, gt=0, le=1e6, description="megabytes that the file may have")
    max_rss: float | None = Field(None, gt=0, le=1e6, description="megabytes of memory that the process may take")
    models: list[str] | None = Field(
        None,
        max_length=8,
        description="other networks to try, pretrained and trained likewise (default: narrower versions of a "
        "pretrained one that are published)",
    )
    resolutions: list[Side] | None = Field(
        None,
        max_length=8,
        description="other input sides to try (default: the largest that needs no pruning for max_ms, and two more)",
    )
    candidates: int = Field(6, ge=1, le=8, description="pruned networks that training chooses from")
    time_budget: Duration | None = Field(None, description='how long the search may take, e.g. "2h"')
