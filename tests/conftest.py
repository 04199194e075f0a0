from collections.abc import Iterator

import pytest
import torch

from fastrnn import _C


@pytest.fixture
def isa(request) -> Iterator[str]:
    before = _C.isa()
    _C.force_isa(request.param)
    yield request.param
    _C.force_isa(before)


@pytest.fixture(autouse=True)
def restore_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture
def single_thread():
    """For tests of many tiny operations, where a second thread only waits."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
