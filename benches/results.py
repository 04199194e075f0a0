"""Measured results and their JSON file."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from benches.cases import MODES, Case
from fastrnn.bench.timing import Quartiles

__all__ = ["Group", "Report", "Result", "groups", "result_of", "save"]


@dataclass(frozen=True)
class Result:
    """One case in one mode. ``ratios`` are a peer's time over fastrnn's: above 1, fastrnn is faster."""

    case: Case
    mode: str
    rounds: int
    calls: dict[str, int]
    seconds: dict[str, Quartiles]
    ratios: dict[str, Quartiles]
    floor_seconds: float | None

    @property
    def share_of_limit(self) -> float | None:
        return self.floor_seconds and self.floor_seconds / self.seconds["fastrnn"].median


R = TypeVar("R", bound=Result)


def save(name: str, machine: dict[str, object], results: Sequence[Any]) -> Path:
    """Writes ``benches/results/NAME.json`` of results that are dataclasses."""
    path = Path(__file__).resolve().parent / "results" / f"{name}.json"
    path.write_text(json.dumps({"machine": machine, "results": [asdict(r) for r in results]}, indent=1) + "\n")
    return path


@dataclass
class Report:
    """A run. ``refused`` names the tests that failed, so were not timed; ``absent`` the providers not installed.

    ``rates`` are the machine's by dtype, in FLOP/s: ``multiply_adds`` alone, and of the ``tile`` that is the limit. A
    run without them had the first as its limit.
    """

    machine: dict[str, object]
    absent: list[str] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)
    results: list[Result] = field(default_factory=list)
    rates: dict[str, dict[str, float]] = field(default_factory=dict)

    def save(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(asdict(self), indent=1) + "\n")

    @classmethod
    def load(cls, path: Path) -> Report:
        data = json.loads(path.read_text())
        data["results"] = [result_of(entry, Result) for entry in data["results"]]
        return cls(**data)


def result_of(data: dict, kind: type[R]) -> R:
    """From its entry in a JSON file."""
    data["case"] = Case(**data["case"])
    for key in ("seconds", "ratios"):
        data[key] = {name: Quartiles(**value) for name, value in data[key].items()}
    return kind(**data)


@dataclass(frozen=True)
class Group:
    """The ratios to one peer of the cases of one family, in one mode."""

    family: str
    mode: str
    count: int
    geometric_mean: float
    minimum: float


def groups(
    results: Iterable[Result],
    peer: str = "torch",
    family_of: Callable[[Result], str] = lambda result: result.case.family,
) -> list[Group]:
    """By family in the order of the cases, then all together; groups without a result are left out."""
    results = [result for result in results if peer in result.ratios]
    families = dict.fromkeys(map(family_of, results))
    found = []
    for family in (*families, "all"):
        for mode in MODES:
            ratios = [r.ratios[peer].median for r in results if r.mode == mode and family in (family_of(r), "all")]
            if ratios:
                mean = math.exp(sum(map(math.log, ratios)) / len(ratios))
                found.append(Group(family, mode, len(ratios), mean, min(ratios)))
    return found
