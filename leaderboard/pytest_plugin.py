"""A pytest plug-in: in the repository of a method, "no worse than the baseline" is a test of a few lines.

pytest loads this module in every session of every project, so nothing but the standard library and pytest is imported before a
test asks for the fixture.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

BASELINE, REPORT = "palimpsest-baseline.json", "palimpsest-report/smoke"


def pytest_addoption(parser: pytest.Parser) -> None:
    """Each setting is an option, and an ini field that the option overrides; paths are relative to pytest's root folder."""
    group = parser.getgroup("palimpsest", "palimpsest: no worse than a baseline")
    group.addoption("--palimpsest-baseline", metavar="FILE", help="What runs are compared with: a baseline file or a report folder")
    group.addoption("--palimpsest-report", metavar="FOLDER", help="The report folder to compare, where a test does not run one itself")
    group.addoption("--palimpsest-margin", metavar="MEASURE=NUMBER", action="append", help="As of palimpsest diff; repeatable")
    group.addoption("--palimpsest-update", action="store_true", help="Write the baseline anew from the report, and compare nothing")
    parser.addini("palimpsest_baseline", f"baseline file or report folder ({BASELINE})", default=BASELINE)
    parser.addini("palimpsest_report", f"report folder ({REPORT})", default=REPORT)
    parser.addini("palimpsest_margins", "margins, one measure=number a line", type="linelist", default=[])


@dataclass
class Baseline:
    """What a test does with the committed baseline."""

    root: Path
    baseline: Path
    report: Path
    margins: tuple[str, ...] = ()
    update: bool = False

    def run(self, *overrides: str, store: str | Path = "palimpsest-store") -> Path:
        """Run a suite as `palimpsest run` does, with finished stages from the store; its report is what is compared from now on."""
        command = [sys.executable, "-m", "palimpsest.benchmark.cli", "run", *overrides, "--store", str(self.root / store)]
        done = subprocess.run([*command, "--report", str(self.report.parent)], cwd=self.root, capture_output=True, text=True)
        if done.returncode:
            pytest.fail(f"palimpsest run {' '.join(overrides)} failed:\n{done.stdout[-2000:]}{done.stderr[-2000:]}", pytrace=False)
        return self.report

    def no_worse(self, *methods: str, margins: Iterable[str] = (), renamed: Mapping[str, str] | None = None) -> Any:
        """Fail with the table of `palimpsest diff` if the report is significantly worse than the baseline, or cannot be compared with it.

        All methods but `none` and `retrain`, or those named, as the new run calls them; `renamed` maps a name of the baseline to
        one of the report. Returns the comparison.
        """
        from ..benchmark.common.errors import UserError
        from .diff import compare, margins_from
        from .diff_text import text
        from .side import side, write_baseline

        try:
            new = side(self.report)
            if self.update:
                write_baseline(new, self.baseline)
                pytest.skip(f"{self.baseline} was written anew from {self.report}")
            if not self.baseline.exists():
                raise UserError(
                    f"There is no baseline {self.baseline}. Run pytest with --palimpsest-update, look at the file and commit it."
                )
            found = compare(side(self.baseline), new, methods, renamed, margins_from([*self.margins, *margins]))
        except UserError as error:
            pytest.fail(str(error), pytrace=False)
        if found.exit:
            pytest.fail(f"worse than {self.baseline}\n\n{text(found)}", pytrace=False)
        return found


@pytest.fixture(scope="session")
def palimpsest_baseline(pytestconfig: pytest.Config) -> Baseline:
    """The committed baseline: `palimpsest_baseline.no_worse()` fails with a table if the report is significantly worse."""
    root, option = pytestconfig.rootpath, pytestconfig.getoption
    paths = [root / str(option(f"palimpsest_{name}") or pytestconfig.getini(f"palimpsest_{name}")) for name in ("baseline", "report")]
    margins = tuple(option("palimpsest_margin") or pytestconfig.getini("palimpsest_margins"))
    return Baseline(root, paths[0], paths[1], margins, bool(option("palimpsest_update")))
