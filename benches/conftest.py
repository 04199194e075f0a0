"""Options, a line per case while it runs, and the report at the end."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from benches.limits import rates
from benches.machine import describe
from benches.results import Report, Result
from benches.table import HEADER, format_report, format_row, row
from fastrnn.bench.engines import ENGINES
from fastrnn.bench.timing import Budget

_HERE = Path(__file__).resolve().parent
_REPORT = pytest.StashKey[Report]()


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("fastrnn benchmarks")
    group.addoption("--threads", type=int, default=torch.get_num_threads(), help="threads of every provider")
    group.addoption("--quick", action="store_true", help="few rounds: a rough look")
    group.addoption("--save", metavar="NAME", help="write benches/results/NAME.json and .png")


def pytest_configure(config: pytest.Config) -> None:
    threads = config.getoption("threads")
    torch.set_num_threads(threads)
    absent = [name for name, engine in ENGINES.items() if not engine.available]
    config.stash[_REPORT] = Report(describe(threads), absent)
    config.option.benchmark_quiet = True  # our table says more than pytest-benchmark's


@pytest.fixture(scope="session")
def threads(pytestconfig: pytest.Config) -> int:
    return pytestconfig.getoption("threads")


@pytest.fixture(scope="session")
def budget(pytestconfig: pytest.Config) -> Budget:
    return Budget(seconds=0.03, min_rounds=3, max_rounds=10) if pytestconfig.getoption("quick") else Budget()


@pytest.fixture
def record(request: pytest.FixtureRequest):
    """Takes a ``Result`` and shows it at once."""
    report = request.config.stash[_REPORT]
    items = request.session.items

    def keep(result: Result) -> None:
        if not report.results:
            _say(request.config, "\n" + " " * 10 + format_row(HEADER))
        report.results.append(result)
        place = f"[{items.index(request.node) + 1:>3}/{len(items)}]"
        _say(request.config, f"{place:<9} {format_row(row(result, report.absent))}")

    return keep


def _say(config: pytest.Config, line: str) -> None:
    with config.pluginmanager.getplugin("capturemanager").global_and_fixture_disabled():
        print(line, flush=True)


def pytest_report_teststatus(report: pytest.TestReport) -> tuple[str, str, str] | None:
    ours = report.when == "call" and report.passed and report.nodeid.startswith(f"{_HERE.name}/")
    return ("passed", "", "") if ours else None


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item):
    report = yield
    if report.failed:
        item.config.stash[_REPORT].refused.append(item.callspec.id if hasattr(item, "callspec") else item.name)
    return report


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    report = config.stash[_REPORT]
    if not report.results:
        return
    report.rates = rates(config.getoption("threads"))
    name = config.getoption("save")
    base = _HERE / "results" / name if name else _HERE / "out" / "latest"
    paths = [base.with_name(f"{base.name}.json")]
    report.save(paths[0])
    try:
        from benches.picture import draw
    except ImportError:
        terminalreporter.write_line("no picture: matplotlib is absent")
    else:
        paths.append(base.with_name(f"{base.name}.png"))
        draw(report, paths[1])
    terminalreporter.section("fastrnn benchmarks")
    terminalreporter.write_line(format_report(report))
    terminalreporter.write_line("\nwritten: " + ", ".join(map(str, paths)))
