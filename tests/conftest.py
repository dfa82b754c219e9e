"""Fixtures that several test files share."""

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def development_data() -> Path:
    """The folder of development pictures and metric weights that is not part of the repository.

    ``ONESTEP_TEST_DATA``, else ``../shared/data`` beside the checkout; the test is skipped without it.
    """
    named = os.environ.get("ONESTEP_TEST_DATA")
    folder = Path(named) if named else Path(__file__).parents[2] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("development data not found: set ONESTEP_TEST_DATA to its folder")
    return folder
