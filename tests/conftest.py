"""Fixtures that every test may use."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def shared() -> Path:
    """Folder with real weights and images; tests that need it are skipped where it is absent."""
    folder = Path(os.environ.get("EDGEKIT_TEST_DATA", Path(__file__).parents[2] / "shared"))
    if not folder.is_dir():
        pytest.skip(f"no test data in {folder} (set EDGEKIT_TEST_DATA)")
    return folder
