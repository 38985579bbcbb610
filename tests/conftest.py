"""What several tests need: a tiny detector, a seeded generator, and the recorded data where they are present."""

import logging
from pathlib import Path

import numpy as np
import pytest
from builders import TINY
from hypothesis import settings

from rmm_stream.detectors import DetectorSpec

settings.register_profile("fixed", derandomize=True, deadline=None)  # the same examples on every machine
settings.load_profile("fixed")

SHARED_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture
def tiny() -> DetectorSpec:
    """2 modules x 3 cells x 2 stages x 64 x 32 pixels with ASICs of 32 x 32 and an analogue gain indicator."""
    return TINY


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(20220711)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of recorded detector data; tests that need it are skipped where it is absent."""
    if not SHARED_DATA.is_dir():
        pytest.skip("needs the recorded detector data in ../shared/data")
    return SHARED_DATA


@pytest.fixture(autouse=True)
def _logging_as_before():
    """A command sets up logging for its process; here it must not outlive its test."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:], root.level = handlers, level
