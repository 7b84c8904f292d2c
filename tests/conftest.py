"""Fixtures shared by all tests."""

from pathlib import Path

import pytest

PROJECT_DIR = Path(__file__).resolve().parent.parent
SHARED_DIR = PROJECT_DIR.parent / "shared"


@pytest.fixture(scope="session")
def shared_dir() -> Path:
    """The folder with real data and recorded reference values; tests that need it skip where it is absent."""
    if not (SHARED_DIR / "data").is_dir():
        pytest.skip("needs ../shared (development data and recorded reference values)")
    return SHARED_DIR


@pytest.fixture(scope="session")
def golden_dir(shared_dir: Path) -> Path:
    """Inputs and outputs recorded from the reference implementation."""
    return shared_dir / "golden"
