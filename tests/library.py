"""libfastrnn, installed, and programs on it: for this machine, or for 64-bit Arm in an emulator."""

import os
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import arm
import numpy as np
import torch
from torch import Tensor

from fastrnn.exporting.chain import Chain

ROOT = Path(__file__).parent.parent


@dataclass
class Library:
    """``prefix`` is where it is installed, ``programs`` the folder of what is compiled against it."""

    prefix: Path
    programs: Path
    compiler: str = "cc"
    flags: Sequence[str] = ()
    runner: Sequence[str] = ()
    built: dict[Path, Path] = field(default_factory=dict)

    def program(self, source: Path) -> Path:
        if source not in self.built:
            strict = ["-std=c99", "-pedantic", "-Wall", "-Wextra", "-Werror", "-O1"]
            output = self.programs / source.stem
            run(self.compiler, *strict, source, "-o", output, *self.flags)
            self.built[source] = output
        return self.built[source]

    def call(self, source: Path, *arguments: Any, given: bytes = b"", isa: str | None = None) -> Any:
        environment = os.environ | ({"FASTRNN_CPU_ISA": isa} if isa else {})
        command = [*self.runner, self.program(source), *map(str, arguments)]
        return subprocess.run(command, input=given, capture_output=True, timeout=120, env=environment)

    def drive(self, path: Path, x: Tensor, chunk: int, chain: Chain, isa: str | None = None) -> tuple[Tensor, Tensor]:
        """Output, as the chain gives it, and state, flat, of an input [B, T, ...]."""
        by_step = x.transpose(0, 1)
        given = (by_step if x.is_floating_point() else by_step.int()).contiguous().numpy().tobytes()
        batch, steps = x.shape[:2]
        done = self.call(ROOT / "tests/library_driver.c", path, batch, steps, chunk, given=given, isa=isa)
        assert done.returncode == 0, done.stderr.decode()
        values = torch.from_numpy(np.frombuffer(done.stdout, np.float32).copy())
        with torch.no_grad():
            shape = chain(x)[0].shape
        y, state = values[: shape.numel()], values[shape.numel() :]
        return y.view(shape) if chain.pools else y.view(steps, batch, -1).transpose(0, 1), state


def run(*command: Any) -> str:
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, f"{' '.join(map(str, command))}\n{done.stdout}{done.stderr}"
    return done.stdout


def install(name: str, prefix: Path, compiler: str) -> None:
    """What ``make library`` builds, under ``build/``, so that a second run compiles nothing."""
    make = ["make", f"-j{os.cpu_count()}", "-f", "csrc/library.mk", f"OUT=build/{name}", f"CXX={compiler}"]
    run(*make, "install", f"PREFIX={prefix}")


def here(folder: Path) -> Library:
    prefix = folder / "here"
    install("library", prefix, os.environ.get("CXX", "c++"))
    os.environ["PKG_CONFIG_PATH"] = str(prefix / "lib/pkgconfig")
    flags = run("pkg-config", "--cflags", "--libs", "fastrnn").split()
    return Library(prefix, folder, os.environ.get("CC", "cc"), [*flags, f"-Wl,-rpath,{prefix}/lib", "-ldl", "-pthread"])


def on_arm(folder: Path) -> Library:
    """Linked with the static library."""
    prefix, programs = folder / "on-arm", folder / "arm-programs"
    programs.mkdir()
    install("library-arm", prefix, arm.COMPILER)
    flags = [f"-I{prefix}/include", "-static", f"{prefix}/lib/libfastrnn.a", "-lstdc++", "-lm"]
    return Library(prefix, programs, arm.COMPILER.replace("g++", "gcc"), flags, [arm.EMULATOR])
