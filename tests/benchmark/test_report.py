"""Pages that open anywhere, say what was measured, and let nothing in a text act as markup."""

from __future__ import annotations

import csv
import io
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import pandas as pd
import pytest
from rich.console import Console

from palimpsest.benchmark.common.errors import UserError
from palimpsest.benchmark.common.types import Excerpt, Results, TrainingEvaluation
from palimpsest.leaderboard.report import render, write_report
from palimpsest.leaderboard.terminal import print_table

from ..synthetic import results

NASTY = "<script>alert('x')</script> & 50% of $x_1$ | `a` *b* \\end{document}"


@pytest.fixture(scope="module")
def made() -> Results:
    return results(bits={"weak": 1.05, "strong": 1.10, "none": 1.01, "retrain": 1.9})


@pytest.fixture(scope="module")
def page(made: Results) -> str:
    return render(made, "html")


@pytest.fixture(scope="module")
def nasty() -> Results:
    small = results(("none", "a_b%<i>"), seeds=(0,), memories=9)
    excerpt = Excerpt("m<1>", "forget", 0, NASTY, NASTY, {"none": NASTY})
    return replace(small, suite=NASTY, excerpts=[excerpt], facts={NASTY: NASTY}, warnings=[NASTY], docs={"none": NASTY})


def test_pages_tables_figures_and_records_are_written(made: Results, tmp_path: Path):
    written = write_report(made, tmp_path / "new" / "folder")
    texts = ["report.md", "report.html", "table.csv", "table.tex"]
    figures = ["quality.svg", "curves.svg", "lengths-0.svg"]
    data = ["records.parquet", "values.parquet", "evaluations.parquet", "quality.jsonl", "run.json"]
    assert [p.name for p in written] == [*texts, *figures, *data]
    assert all(p.stat().st_size > 200 for p in written)


def test_a_figure_is_also_a_file_that_needs_no_page_around_it(made: Results, page: str, tmp_path: Path):
    write_report(made, tmp_path)
    for file in tmp_path.glob("*.svg"):
        svg = file.read_text("utf-8")
        assert ElementTree.fromstring(svg).tag == "{http://www.w3.org/2000/svg}svg"
        assert "currentColor" not in svg
        assert "var(--" not in svg
        assert max(re.findall(r' d="([^"]*)"', svg), key=len) in page, "the same curves"


def test_the_page_loads_nothing_from_elsewhere(page: str):
    assert not re.search(r"""(src|href)\s*=\s*["'](?!#)""", page)
    assert "@import" not in page
    assert not re.search(r"url\((?!#)", page)


def test_the_page_holds_figures_and_every_id_once(page: str):
    assert len(re.findall("<svg(?! class=.spark)", page)) == 3  # damage, curves, shifted windows by prompt length
    ids = re.findall(r'\bid="([^"]+)"', page)
    assert len(ids) == len(set(ids))
    assert set(re.findall(r'href="#([^"]+)"', page)) | set(re.findall(r"url\(#([^)]+)\)", page)) <= set(ids)


def test_the_style_sheet_arrives_unescaped_and_follows_the_reader(page: str):
    style = page[page.index("<style>") : page.index("</style>")]
    assert "&gt;" not in style
    assert "prefers-color-scheme: dark" in style
    assert "currentColor" in page


def test_tags_are_balanced(page: str):
    open_tags: list[str] = []

    class Balance(HTMLParser):
        def handle_starttag(self, tag, attrs):
            if tag not in ("meta", "br"):
                open_tags.append(tag)

        def handle_endtag(self, tag):
            assert open_tags.pop() == tag

    Balance().feed(page)
    assert open_tags == []


def test_the_same_results_give_the_same_page(made: Results, page: str):
    assert render(made, "html") == page


def test_the_page_states_facts_warnings_and_who_is_best(page: str):
    assert "<dt>model</dt><dd>tiny</dd>" in page
    assert "<p>coverage is 90%</p>" in page
    assert "strong holds back best" in page
    assert "retrain †" in page  # collapsed


def test_where_nothing_was_learnt_the_report_says_so_first_and_names_no_winner():
    blank = results(memories=9, seeds=(0,), length=lambda m, role, a, d: d.randrange(8))
    for page in (render(blank, "md"), render(blank, "html")):
        first = page.index("Nothing was learnt: after injection the exact opening brings back 0.0%")
        assert first < page.rindex("Does the text come back?")
        assert "holds back best" not in page
    out = io.StringIO()
    print_table(blank, Console(file=out, width=120))
    assert out.getvalue().startswith("Nothing was learnt")
    elsewhere = replace(blank, facts={**blank.facts, "injection": "none: the held model knew the memories when it came"})
    page = render(elsewhere, "md")
    assert "The held model does not know these memories: the exact opening brings back 0.0%" in page
    assert "injection.occurrences" not in page


def test_a_model_of_weights_that_are_no_numbers_is_not_named_best():
    page = render(results(("none", "nan"), seeds=(0,), memories=9, bits={"nan": float("nan")}), "md")
    assert "holds back best" not in page
    assert (
        "No method of this suite stayed within the budgets (damage at most 10%, collateral at most 25 points) and could be ranked." in page
    )


def test_the_matched_part_of_a_text_is_marked(page: str):
    assert "<mark>the quick brown </mark>cat" in page
    assert "<p>a different tale</p>" in page


def test_html_escapes_everything(nasty: Results):
    page = render(nasty, "html")
    assert "<script" not in page
    assert "a_b%<i>" not in page
    assert page.count("&lt;script&gt;") >= 6


def test_markdown_and_latex_escape_everything(nasty: Results):
    text, tex = render(nasty, "md"), render(nasty, "latex")
    assert not re.search(r"(?<!\\)<script", text)
    assert r"\`a\` \*b\*" in text
    tables = re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE)
    assert len(tables) >= 4
    for table in tables:  # every row has as many cell borders as its header
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in table.splitlines()}) == 1
    assert r"a\_b\%\textless{}i\textgreater{}" in tex
    assert tex.count(r"\begin{tabular}") == tex.count(r"\end{tabular}") > 0


def test_latex_rows_have_as_many_cells_as_the_header(made: Results):
    for body in re.findall(r"\\toprule\n(.*?)\\bottomrule", render(made, "latex"), re.DOTALL):
        counts = {len(re.findall(r"(?<!\\)&", line)) for line in body.splitlines() if line.endswith(r"\\")}
        assert len(counts) == 1


def test_csv_has_a_line_per_method_and_raw_numbers(made: Results):
    lines = list(csv.DictReader(io.StringIO(render(made, "csv"))))
    assert [line["method"] for line in lines] == ["none", "weak", "strong", "retrain"]
    assert float(lines[1]["worst_rate"]) > 0.9


def test_an_unknown_format_is_answered_with_the_known_ones(made: Results):
    with pytest.raises(UserError, match="html"):
        render(made, "htm")  # pyright: ignore[reportArgumentType]


def test_square_brackets_in_names_are_not_read_as_styles():
    out = io.StringIO()
    small = results(("none", "[red]x"), seeds=(0,), memories=9)
    print_table(replace(small, suite="[bold]s"), Console(file=out, width=120))
    assert "[red]x" in out.getvalue()
    assert "[bold]s" in out.getvalue()


def test_evaluations_of_methods_in_training_are_plotted_and_kept(made: Results, tmp_path: Path):
    seen = [TrainingEvaluation("weak", seed, step, 1 / (1 + step), 3 + seed + step / 10) for seed in (0, 1) for step in (0, 5, 10)]
    page = render(replace(made, evaluations=seen), "html")
    assert len(re.findall("<svg(?! class=.spark)", page)) == 4
    figure = page[page.index('aria-label="Exact-prefix rate') :]
    assert "weak" in figure[: figure.index("</svg>")]
    write_report(replace(made, evaluations=seen), tmp_path)
    assert [TrainingEvaluation(**row) for row in pd.read_parquet(tmp_path / "evaluations.parquet").to_dict("records")] == seen  # type: ignore[arg-type]
