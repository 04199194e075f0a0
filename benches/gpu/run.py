"""The parts in order: each fills a part of the record and saves it after every case."""

import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benches.cases import Case
from benches.gpu import barrier, checks, facts, public, speed
from benches.gpu.barrier import Barrier
from benches.gpu.cases import choose, label, plan_of, precision_of, spec_of
from benches.gpu.checks import Check, Layer
from benches.gpu.child import Broken, Child, Failed, Hung
from benches.gpu.clock import clock_for
from benches.gpu.precision import PRECISIONS
from benches.gpu.precompile import Precompiler
from benches.gpu.record import Record
from benches.gpu.table import format_barriers, format_cases, format_facts, format_means
from fastrnn.backends.triton.ahead import kernels_of
from fastrnn.backends.triton.kernel import Kernel
from fastrnn.backends.triton.plans import Device

__all__ = ["PARTS", "Options", "run"]

PARTS = ("checks", "barrier", "speed")

# Of one question to the child. A check may have to compile what compiling ahead has not reached, compiling a model
# takes longest.
_CHECK_SECONDS, _PUBLIC_SECONDS, _CASE_SECONDS, _OTHER_SECONDS = 40.0, 90.0, 60.0, 30.0
# What breaks the child in one case does so in every case of that regime, and each may cost the time above.
_MOST_BROKEN = 2
# Of the budget, when checks stop and when compiling does, so that they leave time for the benchmark.
_CHECKS_SHARE = 0.5
_COMPILING_SHARE = 0.65
# Of the table, which is printed last: the last 12,000 characters of the output are what some machines give back.
_LONGEST_TABLE = 10_000


@dataclass(frozen=True)
class Options:
    """Empty lists select everything. ``save`` is None for a name after the device."""

    parts: Sequence[str] = PARTS
    cells: Sequence[str] = ()
    precisions: Sequence[str] = ()
    hidden: Sequence[int] = ()
    batches: Sequence[int] = ()
    save: Path | None = None
    budget: float = 520.0

    def cases(self) -> list[Case]:
        return choose(list(self.cells), list(self.precisions), list(self.hidden), list(self.batches))


@dataclass
class _Run:
    options: Options
    child: Child
    record: Record
    device: Device
    path: Path
    start: float

    def left(self, share: float = 1.0) -> float:
        return self.start + share * self.options.budget - time.monotonic()

    def save(self) -> None:
        self.record.save(self.path)

    def wrong(self, what: str) -> None:
        self.record.wrong.append(what)
        _say(f"WRONG {what[:500]}")

    def leave_out(self, what: str, names: Sequence[str], why: str) -> None:
        if names:
            told = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
            self.record.left_out.append(f"{len(names)} {what}, {why}: {told}")
            _say(f"left out: {self.record.left_out[-1]}")


def _say(text: str) -> None:
    print(text, flush=True)


def run(options: Options, child: Child, precompiler_of: Callable[[Device], Precompiler] = Precompiler) -> int:
    """The exit status: 1 if anything that ran was wrong. ``child`` uses the device; this process does not."""
    start = time.monotonic()
    with ExitStack() as stack:
        stack.callback(child.close)
        device: Device = child.ask(facts.device_of_plans, seconds=_OTHER_SECONDS)
        layers = list(checks.layers(device, options.cells, options.precisions)) if "checks" in options.parts else []
        cases = options.cases() if "speed" in options.parts else []
        precompiler = stack.enter_context(precompiler_of(device))
        of_layers = {layer: _kernels_of_layer(layer, device) for layer in layers}
        of_cases = {case: _kernels_of_case(case, device) for case in cases}
        for kernels in (*of_layers.values(), *of_cases.values()):
            precompiler.start(kernels)

        record = Record(child.ask(facts.describe, seconds=_OTHER_SECONDS))
        name = record.facts["device"].lower().replace(" ", "-")
        path = options.save or Path(__file__).resolve().parents[1] / "out" / f"gpu-{name}.json"
        this = _Run(options, child, record, device, path, start)
        this.save()
        _say(format_facts(record))
        parts: dict[str, Callable[[], None]] = {
            "checks": lambda: _checks(this, of_layers, precompiler),
            "barrier": lambda: _barrier(this),
            "speed": lambda: _speed(this, of_cases, precompiler),
        }
        for part in (part for part in PARTS if part in options.parts):
            began = time.monotonic()
            parts[part]()
            record.seconds[part] = round(time.monotonic() - began, 1)
            this.save()
    for kernel, error in precompiler.errors().items():
        this.wrong(f"not compiled: {kernel}: {error}")
    this.save()
    _conclude(record, path)
    return 1 if record.failed else 0


def _kernels_of_layer(layer: Layer, device: Device) -> list[Kernel]:
    case, dtype = layer.case, PRECISIONS[layer.precision].dtype
    plan = checks.plan_of(layer, device)
    spec, ragged = case.spec(layer.cell), case.lengths is not None or case.padded or bool(case.reset)
    every_state = case.every_state and len(spec.facts.states) > 1
    return kernels_of(spec, plan, case.H, dtype, ragged=ragged, inference=False, every_state=every_state)


def _kernels_of_case(case: Case, device: Device) -> list[Kernel]:
    plan, dtype = plan_of(case, device), PRECISIONS[precision_of(case)].dtype
    return kernels_of(spec_of(case), plan, case.hidden_size, dtype, ragged=case.ragged, inference=True)


def _checks(this: _Run, layers: dict[Layer, list[Kernel]], precompiler: Precompiler) -> None:
    record, broken = this.record, dict.fromkeys(checks.REGIMES, 0)
    share = _CHECKS_SHARE if "speed" in this.options.parts else 1.0
    queue = list(layers)
    while queue:
        if this.left(share) < 0:
            this.leave_out("checks", [str(layer) for layer in queue], "the time is used up")
            break
        layer = queue.pop(0)
        precompiler.wait(layers[layer], this.left(share))
        found, broke = _checked(this.child, str(layer), checks.check, layer, seconds=_CHECK_SECONDS)
        record.checks.append(found)
        broken[layer.regime] += broke
        if broke and broken[layer.regime] == _MOST_BROKEN:
            same = [other for other in queue if other.regime == layer.regime]
            queue = [other for other in queue if other.regime != layer.regime]
            this.leave_out("checks", [str(other) for other in same], f"{_MOST_BROKEN} of this regime broke the process")
        this.save()
    if not this.options.cells or public.CELL in this.options.cells:
        for name in public.CHECKS:
            if this.left(share) > 0:
                record.checks.append(_checked(this.child, name, public.check, name, seconds=_PUBLIC_SECONDS)[0])
                this.save()
            else:
                this.leave_out("checks of modules", [name], "the time is used up")
    wrong = sum(bool(check.problems) for check in record.checks)
    _say(f"checks: {len(record.checks) - wrong} right, {wrong} wrong")
    measured = [check for check in record.checks if check.worst is not None]
    if measured:
        worst = max(measured, key=lambda check: check.worst or 0.0)
        _say(f"the largest error is {worst.worst:.0%} of what is allowed: {worst.case}, {worst.worst_at}")


def _checked(
    child: Child, name: str, function: Callable[..., Check], subject: object, seconds: float
) -> tuple[Check, bool]:
    """What came of a check, and whether it broke the child. A line is printed where it is not right."""
    broke = False
    try:
        found = child.ask(function, subject, seconds=seconds)
    except Failed as error:
        broke = isinstance(error, Broken)
        found = Check(name, [str(error)])
    if found.problems:
        _say(f"WRONG {found.case}: {'; '.join(found.problems)[:500]}")
    return found, broke


def _barrier(this: _Run) -> None:
    for programs in (size for size in barrier.SIZES if size <= this.device.multiprocessors):
        # Alone, and as many groups as fit.
        for groups in dict.fromkeys((1, this.device.multiprocessors // programs)):
            try:
                found = this.child.ask(measure_barrier, programs, groups, seconds=_OTHER_SECONDS)
            except Failed as error:
                this.wrong(f"barrier of {groups} x {programs} programs: {error}")
                if isinstance(error, Hung):
                    return
            else:
                this.record.barriers.append(found)
            this.save()
    _say(format_barriers(this.record))


def measure_barrier(programs: int, groups: int) -> Barrier:
    """In the child."""
    return barrier.measure(clock_for("cuda"), programs, groups)


def measure_rates() -> dict[str, Any]:
    """In the child."""
    return facts.rates(clock_for("cuda"))


def _speed(this: _Run, cases: dict[Case, list[Kernel]], precompiler: Precompiler) -> None:
    record = this.record
    # Processors that compile would slow down the host, which starts the work of both contenders.
    compiled = {case: precompiler.wait(kernels, this.left(_COMPILING_SHARE)) for case, kernels in cases.items()}
    precompiler.stop()
    this.leave_out("cases", [label(case) for case in cases if not compiled[case]], "their kernels were not compiled")
    try:
        record.facts["rates"] = this.child.ask(measure_rates, seconds=_OTHER_SECONDS)
    except Failed as error:
        this.wrong(f"rates of the device: {error}")
        return
    queue = [case for case in cases if compiled[case]]
    broken = dict.fromkeys(checks.REGIMES, 0)
    while queue:
        if this.left() < 0:
            this.leave_out("cases", [label(case) for case in queue], "the time is used up")
            break
        case = queue.pop(0)
        arguments = (case, this.device, record.facts, record.barriers)
        try:
            found = this.child.ask(speed.measure, *arguments, seconds=_CASE_SECONDS)
        except Failed as error:
            this.wrong(f"{label(case)}: {error}")
            regime = plan_of(case, this.device).regime
            broken[regime] += isinstance(error, Broken)
            if isinstance(error, Broken) and broken[regime] == _MOST_BROKEN:
                same = [other for other in queue if plan_of(other, this.device).regime == regime]
                queue = [other for other in queue if other not in same]
                this.leave_out("cases", [label(other) for other in same], f"{_MOST_BROKEN} {regime} broke the process")
        else:
            record.speed += found
            ratios = ", ".join(f"{result.mode} {result.ratios['torch'].median:.2f}" for result in found)
            _say(f"{label(case)}: {ratios}")
        this.save()


def _conclude(record: Record, path: Path) -> None:
    sections = [format_facts(record)]
    if record.barriers:
        sections.append(format_barriers(record))
    if record.speed:
        sections.append(format_cases(record.speed, longest=_LONGEST_TABLE))
        sections.append(format_means(record.speed))
    seconds = ", ".join(f"{part} {seconds:.0f} s" for part, seconds in record.seconds.items())
    wrong = sum(bool(check.problems) for check in record.checks) + len(record.wrong)
    left_out = f"; left out: {'; '.join(record.left_out)}" if record.left_out else ""
    sections.append(f"{len(record.checks)} checks, {wrong} wrong{left_out}\n{seconds}; written: {path}")
    _say("\n" + "\n\n".join(sections))
