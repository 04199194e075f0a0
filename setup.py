"""Builds fastrnn._C, the CPU kernels. Everything else about the package stands in pyproject.toml."""

import sys
from pathlib import Path

from setuptools import setup
from torch.utils.cpp_extension import BuildExtension, CppExtension

CSRC = Path(__file__).parent / "csrc"

# Every instruction set is compiled on every machine; the choice falls at run time, so no -march flag belongs there.
FLAGS = (CSRC / "flags").read_text().split()
# With OpenMP the kernels share the thread pool that torch has already started. Apple's compiler does not have it.
if sys.platform == "darwin":
    FLAGS.remove("-fopenmp")

setup(
    ext_modules=[
        CppExtension(
            "fastrnn._C",
            sorted(str(path) for path in Path("csrc").glob("*/*.cpp")),
            depends=["csrc/flags", *sorted(str(path) for path in Path("csrc").glob("*/*.h"))],
            # Not among the folders for <headers>, which would mix csrc/torch with torch's own.
            extra_compile_args=[*FLAGS, f"-iquote{CSRC.resolve()}"],
            extra_link_args=[flag for flag in FLAGS if flag == "-fopenmp"],
        )
    ],
    cmdclass={"build_ext": BuildExtension},
)
