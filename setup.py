"""Builds the CPU kernels: a library for torch alone, and the extension fastrnn._C on top of it, for Python.

Everything else about the package stands in pyproject.toml.
"""

import sys
from pathlib import Path

from setuptools import setup
from torch.utils.cpp_extension import BuildExtension, CppExtension

CSRC = Path(__file__).parent / "csrc"

# Every instruction set is compiled on every machine; the choice falls at run time, so no -march flag belongs there.
FLAGS = (CSRC / "flags").read_text().split()

LIBRARY = "fastrnn.libfastrnn_torch"


def extension(name: str, folders: list[str]) -> CppExtension:
    return CppExtension(
        name,
        sorted(str(path) for folder in folders for path in Path("csrc", folder).glob("*.cpp")),
        depends=["csrc/flags", "fastrnn/ops/schemas.inc", *sorted(str(path) for path in Path("csrc").glob("*/*.h"))],
        # Not among the folders for <headers>, which would mix csrc/torch with torch's own.
        # No OpenMP run-time is linked, see csrc/runtime/threads.h.
        extra_compile_args=[*FLAGS, f"-iquote{CSRC.resolve()}"],
    )


library = extension(LIBRARY, ["kernels", "runtime", "torch"])
library.libraries.remove("torch_python")  # programs without Python load it

bindings = extension("fastrnn._C", ["python"])
bindings.libraries.insert(0, "fastrnn_torch")
bindings.extra_compile_args.append("-fvisibility=hidden")  # as pybind11 asks for
bindings.extra_link_args.append("-Wl,-rpath,@loader_path" if sys.platform == "darwin" else "-Wl,-rpath,$ORIGIN")


class Build(BuildExtension):
    def get_ext_filename(self, name: str) -> str:
        """The library has the name that linkers look for, and none of a Python version."""
        if name in (LIBRARY, LIBRARY.rpartition(".")[2]):
            return f"{name.replace('.', '/')}.so"
        return super().get_ext_filename(name)

    def build_extension(self, ext: CppExtension) -> None:
        if ext is bindings:
            ext.library_dirs.append(str(Path(self.get_ext_fullpath(LIBRARY)).parent))
        super().build_extension(ext)


setup(ext_modules=[library, bindings], cmdclass={"build_ext": Build})
