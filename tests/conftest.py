import importlib.util
import io
import os
import sys
import warnings
from collections.abc import Iterator
from types import ModuleType

# Before anything imports Triton, which reads it once: its kernels run without a GPU then, on tensors of the CPU.
os.environ.setdefault("TRITON_INTERPRET", "1")

import pytest  # noqa: E402
import torch  # noqa: E402
from machines import ZEN4  # noqa: E402

from fastrnn import _C  # noqa: E402


def pytest_configure(config) -> None:
    # Of Triton's interpreter.
    message = "Conversion of an array with ndim > 0 to a scalar"
    config.addinivalue_line("filterwarnings", f"ignore:{message}:DeprecationWarning")
    if importlib.util.find_spec("triton"):
        importlib.import_module("interpreter").patch_once_a_launch()


@pytest.fixture(params=["cpu", "triton"])
def operators(request) -> ModuleType:
    """What has layer_forward and layer_backward for tensors of the CPU: C++, and Triton in its interpreter."""
    if request.param == "cpu":
        return importlib.import_module("fastrnn.ops")
    pytest.importorskip("triton")
    if not importlib.import_module("fastrnn.backends.triton.launch").interpreted:
        pytest.skip("needs TRITON_INTERPRET=1")
    return importlib.import_module("fastrnn.backends.triton.operators")


@pytest.fixture
def isa_as_before() -> Iterator[None]:
    before, machine = _C.isa(), _C.machine()
    yield
    _C.force_isa(before)
    _C.force_machine(machine)


@pytest.fixture
def isa(request, isa_as_before) -> str:
    """And plans for one machine, wherever the tests run: the cases are chosen so that they meet all of its plans."""
    _C.force_isa(request.param)
    _C.force_machine(ZEN4)
    return request.param


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


@pytest.fixture
def no_warnings_unless_expected():
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        yield


@pytest.fixture
def run(monkeypatch, capsys):
    """The command line in this process: exit code, standard output and standard error."""
    from fastrnn.__main__ import main  # which most tests do without

    def run(*arguments, stdin=""):
        raw = stdin if isinstance(stdin, bytes) else stdin.encode()
        monkeypatch.setattr(sys, "argv", ["fastrnn", *map(str, arguments)])
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BufferedReader(io.BytesIO(raw))))
        code = 0
        try:
            main()
        except SystemExit as exit:
            code = exit.code or 0
            if isinstance(code, str):  # what Python prints when it ends with a message
                print(code, file=sys.stderr)
                code = 1
        return code, *capsys.readouterr()

    return run
