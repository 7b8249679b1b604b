"""The report shows what is kept: all of it, as it is, and nothing from elsewhere."""

import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from experiments.program import ROOT
from experiments.report.kept import experiments
from experiments.report.pages import html, markdown
from experiments.report.tables import cell, facts, table

VOID = {"meta", "img"}


def test_the_kept_page_is_that_of_the_kept_results():
    kept = (ROOT / "README.md").read_text()
    assert kept == markdown(experiments()), "run python -m experiments.report --keep"


def test_every_result_and_every_picture_is_shown_once():
    shown = [each for experiment in experiments() for each in experiment.results]
    assert sorted(result.path for result, _ in shown) == sorted(ROOT.rglob("*.json"))
    pictures = [path for _, beside in shown for path in beside if path.suffix == ".png"]
    assert sorted(pictures) == sorted(ROOT.rglob("*.png"))


def test_links_of_the_kept_page_lead_somewhere():
    page = (ROOT / "README.md").read_text()
    heads = re.findall(r"^## (.*)$", page, re.M)
    anchors = {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}
    links = re.findall(r"\]\(([^)]+)\)", page)
    assert len(anchors) == len(heads)
    assert {link[1:] for link in links if link.startswith("#")} == anchors
    assert all((ROOT / link).is_file() for link in links if not link.startswith("#"))


def test_both_pages_tell_what_was_found():
    shown = [result for each in experiments() for result, _ in each.results]
    told = sum(len(result.findings) for result in shown)
    assert told > len(shown)
    assert len(re.findall(r"^- ", (ROOT / "README.md").read_text(), re.M)) == told
    assert html(experiments()).count("<li>") == len(experiments()) + told


class Page(HTMLParser):
    """Reads a page, and fails where its tags do not close in turn."""

    def __init__(self):
        super().__init__()
        self.open, self.links, self.names = [], [], set()

    def handle_starttag(self, tag, attrs):
        attributes = dict(attrs)
        self.links += [attributes[name] for name in ("src", "href") if name in attributes]
        self.names.add(attributes.get("id"))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_the_html_is_well_formed_and_needs_nothing_else():
    page, text = Page(), html(experiments())
    page.feed(text)
    page.close()
    assert not page.open
    pictures = [link for link in page.links if link.startswith("data:image/png;base64,")]
    assert len(pictures) == len(list(ROOT.rglob("*.png")))
    inside = [link for link in page.links if link not in pictures]
    assert all(link.startswith("#") and link[1:] in page.names for link in inside)
    assert not re.search(r"@import|url\(", text)


@pytest.mark.parametrize(
    "value, text",
    [
        ({"mean": 1.23456, "low": 1, "high": 2.5}, "1.23 (1 to 2.5)"),
        ({"mean": 0.5, "interval": [0.25, 0.75]}, "0.5 (0.25 to 0.75)"),
        ({"median": 0.0, "interval": [None, None]}, "0"),
        (None, "-"),
        (True, "yes"),
        (1234.5, "1230"),
        (1e-7, "1e-07"),
        (1000000, "1000000"),
        ([8, 16], "8, 16"),
        ([3, 1, 2, 5, 4], "1 to 5"),
        ([[1, 2, 3], [4, 5, 6]], "1 to 6"),
        ([0.5] * 5, "5 times 0.5"),
    ],
)
def test_a_cell_is_the_value_as_people_read_it(value, text):
    assert cell(value) == text


def test_a_list_of_records_is_a_table_without_what_never_differs():
    rows = [{"depth": n, "kind": "a", "error": {"mean": n, "low": 0, "high": n}} for n in (1, 2)]
    shown = table({"command": "x", "seconds": 3, "epochs": 7, "rows": rows})
    assert shown is not None and shown.head == ("depth", "error")
    assert shown.rows == (("1", "1 (0 to 1)"), ("2", "2 (0 to 2)"))
    assert facts({"command": "x", "seconds": 3, "epochs": 7, "rows": rows}) == {"epochs": "7"}


def test_records_of_records_are_rows_with_their_names():
    shown = table({"result": {k: {"error": v, "time": None} for k, v in (("a", 1), ("b", 2))}})
    assert shown is not None and shown.head == ("", "error")
    assert shown.rows == (("a", "1"), ("b", "2"))
    sets = {s: {k: {"error": e, "w": e} for k, e in (("a", 1), ("b", 2))} for s in ("p", "q")}
    shown = table({"sets": sets})
    assert shown is not None
    assert [row[0] for row in shown.rows] == ["p, a", "p, b", "q, a", "q, b"]


def test_a_program_may_say_what_its_table_shows():
    rows = [{"depth": n, "error": n, "other": -n} for n in (1, 2)]
    shown = table({"rows": rows}, ("rows", ("error",)))
    assert shown is not None and shown.rows == (("1",), ("2",))
    with pytest.raises(KeyError, match="TABLE must name what is in the result"):
        table({"rows": rows}, ("rows", ("missing",)))


def test_a_planted_result_is_found_with_its_program(tmp_path: Path):
    (tmp_path / "one.py").write_text(
        '"""How many?\n\n    python -m experiments.one\n\nWrites one.json."""\n'
        'if __name__ == "__main__":\n    pass\n'
    )
    rows = ", ".join(f'{{"n": {n}, "x": null, "y": {n * n}}}' for n in range(40))
    (tmp_path / "one.json").write_text(f'{{"seconds": 2.5, "rows": [{rows}]}}')
    found = experiments(tmp_path)
    assert [each.question for each in found] == ["How many?"]
    page = markdown(found, tmp_path)
    assert "Command: not recorded; now `python -m experiments.one`" in page
    assert (
        "Time: 2.5 seconds. Machine: not recorded. Versions: not recorded. [one.json](one.json) (32"
        in page
    )
    assert "| n | y |" in page and "| 7 | 49 |" in page and "| 8 | 64 |" not in page
