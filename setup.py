"""Builds fastrnn._C, the CPU kernels. Everything else about the package stands in pyproject.toml."""

import sys
from pathlib import Path

from setuptools import setup
from torch.utils.cpp_extension import BuildExtension, CppExtension

# Every instruction set is compiled on every machine; the choice falls at run time, so no -march flag belongs here.
FLAGS = [
    "-std=c++20",
    "-O3",
    "-fno-math-errno",
    "-fno-trapping-math",
    "-fvisibility=hidden",
    "-g0",
    "-Wall",
    "-Wno-psabi",
]
# With OpenMP the kernels share the thread pool that torch has already started. Apple's compiler does not have it.
OPENMP = [] if sys.platform == "darwin" else ["-fopenmp"]

setup(
    ext_modules=[
        CppExtension(
            "fastrnn._C",
            sorted(str(path) for path in Path("csrc").glob("*.cpp")),
            depends=sorted(str(path) for path in Path("csrc").glob("*.h")),
            extra_compile_args=FLAGS + OPENMP,
            extra_link_args=OPENMP,
        )
    ],
    cmdclass={"build_ext": BuildExtension},
)
