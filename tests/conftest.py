"""Every test runs on one torch thread, as a training run does; processes share the bytecode of what they import."""

from pathlib import Path

import pytest

from pipeline.jobs import keep_bytecode

keep_bytecode(
    Path(__file__).resolve().parents[1] / ".scratch" / "bytecode"
)  # before PyTorch, and for every process that is started

import torch  # noqa: E402


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
