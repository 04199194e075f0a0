import pytest
import torch


@pytest.fixture
def single_thread():
    """For tests of many tiny operations, where a second thread only waits."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
