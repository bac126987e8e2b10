"""The device of the tests that need a GPU, and a rehearsal of them without one."""

from __future__ import annotations

import os

import pytest
import torch

REHEARSAL = "SMT_RAY_GPU_REHEARSAL"
"""The environment variable that, if it is 1, runs these tests on the CPU, to try the tests out."""


@pytest.fixture(scope="session")
def device() -> torch.device:
    """CUDA; the CPU in a rehearsal."""
    if os.environ.get(REHEARSAL) == "1":
        return torch.device("cpu")
    if not torch.cuda.is_available():
        pytest.skip("needs a GPU; SMT_RAY_GPU_REHEARSAL=1 tries the test out on the CPU")
    return torch.device("cuda")


@pytest.fixture(scope="session")
def is_gpu(device: torch.device) -> bool:
    """Whether this is no rehearsal."""
    return device.type == "cuda"
