"""A run and its JSON file, which is written anew after every case."""

import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from benches.gpu.barrier import Barrier
from benches.gpu.checks import Check
from benches.gpu.speed import Measured
from benches.results import result_of

__all__ = ["Record"]


@dataclass
class Record:
    """
    Attributes:
        facts: device, versions, commit; ``rates`` of large products and of a copy.
        wrong: cases of the benchmark that were not timed, and why.
        left_out: what the time did not suffice for.
        seconds: spent on each part.
    """

    facts: dict[str, Any]
    checks: list[Check] = field(default_factory=list)
    barriers: list[Barrier] = field(default_factory=list)
    speed: list[Measured] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)

    @property
    def failed(self) -> list[str]:
        return [f"{check.case}: {'; '.join(check.problems)}" for check in self.checks if check.problems] + self.wrong

    def save(self, path: Path) -> None:
        """A reader, or a run that is cut off here, finds the file of before or the new one, whole."""
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_name(f".{path.name}.unfinished")
        unfinished.write_text(json.dumps(asdict(self), indent=1) + "\n")
        os.replace(unfinished, path)

    @classmethod
    def load(cls, path: Path) -> "Record":
        data = json.loads(path.read_text())
        data["checks"] = [Check(**entry) for entry in data["checks"]]
        data["barriers"] = [Barrier(**entry) for entry in data["barriers"]]
        data["speed"] = [result_of(entry, Measured) for entry in data["speed"]]
        return cls(**data)
