"""Ctrl-C: one message and status 130, whatever the code does that it strikes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

HEAD = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell that starts tests in the background has it ignored
from palimpsest.benchmark.commands import interruption as module
module.GRACE, module.SHORTLY = 0.3, 0.01
interruption = module.interruption
press = lambda: signal.raise_signal(signal.SIGINT)
"""

CASES = {
    "in plain code": "press()",
    "turned into an exit": """
        try: press()
        except KeyboardInterrupt: sys.exit(1)""",
    "turned into an error": """
        try: press()
        except KeyboardInterrupt: raise RuntimeError("not connected")""",
    "swallowed, and the work goes on": """
        try: press()
        except KeyboardInterrupt: pass
        while True: pass""",
    "while an object is being disposed of": """
        class Engine:
            def __del__(self): press()
        engine = Engine()
        del engine
        while True: pass""",
    "twice, the second time while the first is cleaned up": """
        try: press()
        finally: press()""",
    "as an exception of a library's own": "raise KeyboardInterrupt",
    "inside another command's watch": "interruption.around(press)",
}


def python(code: str, **environment: str) -> tuple[int, str, str]:
    command = [sys.executable, "-c", HEAD + code]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | environment, timeout=120)
    return done.returncode, done.stdout, done.stderr


def interrupted(body: str, **environment: str) -> tuple[int, str, str]:
    return python(f"def command():\n        {body.strip()}\ninterruption.around(command)\nprint('went on')", **environment)


@pytest.mark.parametrize("body", CASES.values(), ids=CASES)
def test_it_is_one_message_and_status_130(body: str) -> None:
    assert interrupted(body) == (130, "", "Interrupted. What is finished is kept; the same command continues.\n")


def test_only_the_first_of_several_processes_speaks() -> None:
    assert interrupted("press()", RANK="1") == (130, "", "")


def test_a_command_says_what_it_keeps() -> None:
    assert interrupted("interruption.kept = lambda: 'Two stages are kept.'\n        press()")[2] == "Interrupted. Two stages are kept.\n"


@pytest.mark.parametrize(("body", "status"), [("sys.exit(3)", 3), ("sys.exit(0)", 0), ("pass", 0)])
def test_what_was_not_interrupted_ends_as_it_ends(body: str, status: int) -> None:
    assert interrupted(body)[0] == status


def test_a_command_that_had_just_come_to_its_end_counts_as_finished() -> None:
    assert interrupted("try: press()\n        except KeyboardInterrupt: sys.exit(0)")[0] == 0


def test_the_signal_means_afterwards_what_it_meant_before() -> None:
    before = signal.getsignal(signal.SIGINT)
    code = "interruption.around(lambda: None)\nprint(signal.getsignal(signal.SIGINT) is signal.default_int_handler)"
    assert python(code)[1] == "True\n"
    assert signal.getsignal(signal.SIGINT) is before


def test_who_was_told_to_ignore_it_ignores_it() -> None:
    assert python("signal.signal(signal.SIGINT, signal.SIG_IGN)\ninterruption.around(press)\nprint('went on')")[:2] == (0, "went on\n")


def test_the_watch_begins_before_the_command_line_is_imported() -> None:
    code = """
import builtins
plain = builtins.__import__
def strike(name, *rest, **named):
    if name == "typer":
        press()
    return plain(name, *rest, **named)
builtins.__import__ = strike
from palimpsest.benchmark.start import main
main()
"""
    assert python(code) == (130, "", "Interrupted. What is finished is kept; the same command continues.\n")
