"""docs/suites.md is what the fields of suites, the shipped suites and the help texts say."""

from __future__ import annotations

import re
from dataclasses import fields

from palimpsest.benchmark.commands.cards import declared
from palimpsest.benchmark.suite_page import PAGE, PARTS, page
from palimpsest.benchmark.suites.config import suite_names


def test_the_page_is_up_to_date() -> None:
    assert PAGE.read_text("utf-8") == page(), "run `make docs`"


def test_every_field_suite_and_command_stands_there_with_what_it_is() -> None:
    told = dict(re.findall(r"^\| `(\w+)` \| .* \| (.*) \|$", page(), re.MULTILINE))
    assert {f.name for _, cls in PARTS for f in fields(cls)} <= told.keys()
    assert [name for _, cls in PARTS for name, _, comment in declared(cls) if not comment] == []
    assert re.findall(r"^\| \[`([\w-]+)`\]", page(), re.MULTILINE) == list(suite_names())
    commands = dict(re.findall(r"^\| `palimpsest ([a-z ]+)` \| (.*) \|$", page(), re.MULTILINE))
    assert {"run", "plan", "memories check", "store gc", "study"} <= commands.keys()
    assert all(commands.values())
