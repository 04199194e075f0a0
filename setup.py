"""Builds the CPU kernels: a library for torch alone, and the extension fastrnn._C on top of it, for Python.

Everything else about the package stands in pyproject.toml.
"""

import sys
from pathlib import Path

import torch
from setuptools import setup
from setuptools.command.egg_info import egg_info
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


class Metadata(egg_info):
    """Takes --pin-torch, for a wheel that is passed on: what is compiled fits one minor version of torch.

    Built where it is installed, the package asks for what pyproject.toml says, and is built again with another torch.
    """

    user_options = [*egg_info.user_options, ("pin-torch", None, "ask for the minor version of torch that is installed")]
    boolean_options = [*egg_info.boolean_options, "pin-torch"]

    def initialize_options(self) -> None:
        super().initialize_options()
        self.pin_torch = False

    def finalize_options(self) -> None:
        if self.pin_torch:
            minor = ".".join(torch.__version__.split(".")[:2])
            self.tag_build = f"+torch{minor}"  # the local part of the version
            project = self.distribution
            # The first is written to requires.txt, the second to the wheel's METADATA.
            project.install_requires = [*project.install_requires, f"torch=={minor}.*"]
            project.metadata.install_requires = project.install_requires
        super().finalize_options()


setup(ext_modules=[library, bindings], cmdclass={"build_ext": Build, "egg_info": Metadata})
