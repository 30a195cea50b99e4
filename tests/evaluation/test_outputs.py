"""The files of a run: same run, same bytes; hostile text stays text."""

from __future__ import annotations

import base64
import csv
import dataclasses
import hashlib
import html.parser
import io
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from evaluation_fakes import (
    CONTROL,
    DEFENSE,
    EXAMPLES,
    FakeTask,
    FunctionAttack,
    LexiconClassifier,
    SwapAttack,
    manifest,
    open_store,
    record,
    systems,
)

from robust_prefix.errors import ConfigError, ResourceError, StorageError
from robust_prefix.evaluation import (
    Attempt,
    Example,
    Results,
    System,
    evaluate,
    render_report,
    summarize,
    write_results,
)
from robust_prefix.evaluation.outputs import CSV_COLUMNS, records_csv

NAMES = ("results.csv", "summary.json", "report.html")
HOSTILE = {
    "script": "<script>alert(1)</script>",
    "end-of-style": "</style></script><script>alert(1)</script>",
    "image": "<img src=x onerror=alert(1)>",
    "attribute": '" onmouseover="alert(1)" \' autofocus onfocus=\'alert(1)',
    "template": "{{ 7 * 191 }} {% raw %} {{ runs }}",
    "comment": "<!-- ]]> -->",
    "entity": "&lt;script&gt; &amp;amp; &#x202e;",
    "override": "a \u202eevil\u202c film",
    "nul": "a \0 film",
    "escape": "a \x1b[31m film",
    "surrogate": "a \udc80 film",
    "right-to-left": "\u0641\u064a\u0644\u0645 \u0631\u0627\u0626\u0639",
}


def run_of(original: str, adversarial: str | None = None, message: str = "") -> Results:
    one = record(
        original=(original,),
        adversarial=None if adversarial is None else (adversarial,),
        message=message,
    )
    found = manifest(protocol="direct", n=1)
    return Results(found, (one,), summarize([one], found))


@dataclasses.dataclass
class Element:
    tag: str
    attributes: dict[str, str | None]
    text: str = ""


class Page(html.parser.HTMLParser):
    """Every element of a page, and the text directly in or below it."""

    VOID = frozenset({"meta", "line", "rect", "br"})

    def __init__(self, page: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[Element] = []
        self.open: list[Element] = []
        self.feed(page)
        self.close()
        assert self.open == [], "every element is closed"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        element = Element(tag, dict(attrs))
        self.elements.append(element)
        if tag not in self.VOID:
            self.open.append(element)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append(Element(tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.VOID:
            assert self.open.pop().tag == tag

    def handle_data(self, data: str) -> None:
        for element in self.open:
            element.text += data

    def all(self, tag: str) -> list[Element]:
        return [element for element in self.elements if element.tag == tag]


def evaluated(folder: Path) -> Path:
    with open_store(folder) as store:
        evaluate(systems(), SwapAttack(), EXAMPLES, store, "worst", 7)
        write_results(store, folder)
    return folder


def test_equal_runs_leave_equal_bytes(tmp_path: Path) -> None:
    first, second = evaluated(tmp_path / "a"), evaluated(tmp_path / "b")
    for name in NAMES:
        assert (first / name).read_bytes() == (second / name).read_bytes(), name


def test_writing_again_changes_nothing(tmp_path: Path) -> None:
    folder = evaluated(tmp_path)
    before = {name: (folder / name).read_bytes() for name in NAMES}
    with open_store(folder) as store:
        write_results(store, folder)
    assert {name: (folder / name).read_bytes() for name in NAMES} == before
    assert sorted(path.name for path in folder.iterdir()) == sorted([*NAMES, "run.sqlite"])


def test_seconds_are_in_no_output(tmp_path: Path) -> None:
    for name, seconds in (("a", 1.25), ("b", 77.5)):
        with open_store(tmp_path / name, n=1) as store:
            store.add(record(seconds=seconds))
            write_results(store, tmp_path / name)
    for name in NAMES:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_csv_has_a_row_for_each_record(tmp_path: Path) -> None:
    text = (evaluated(tmp_path) / "results.csv").read_text(encoding="utf-8")
    rows = list(csv.DictReader(io.StringIO(text)))
    assert len(rows) == 30
    assert tuple(rows[0]) == CSV_COLUMNS
    assert "seconds" not in rows[0]
    first = rows[0]
    assert (first["example"], first["defense"], first["outcome"]) == ("10", "none", "succeeded")
    assert json.loads(first["adversarial"]) == ["a lovely , clever film"]
    assert (first["margin_original"], first["dynamic"]) == ("3.950000", "false")
    assert rows[1]["adversarial"] == ""


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_csv_gives_every_text_back(text: str) -> None:
    written = records_csv([record(original=(text, 'b\r\n,"'), adversarial=None)])
    written.encode("utf-8")
    (row,) = csv.DictReader(io.StringIO(written))
    assert json.loads(row["original"]) == [text, 'b\r\n,"']


def test_csv_of_a_crash_has_no_traceback_and_no_address() -> None:
    message = 'Traceback:\n  File "/home/me/x.py", line 3\nValueError: <Model at 0x7f3a9c> broke\n'
    (row,) = csv.DictReader(io.StringIO(records_csv([record(message=message)])))
    assert row["message"] == "ValueError: <Model at 0x> broke"


def test_summary_json_is_the_headline_and_the_rows(tmp_path: Path) -> None:
    found = json.loads((evaluated(tmp_path) / "summary.json").read_text(encoding="utf-8"))
    assert (found["defense"], found["protocol"]) == (DEFENSE, "worst")
    assert found["robust_accuracy"] == pytest.approx(5 / 6, abs=1e-6)
    assert found["control_robust_accuracy"] == 0.5
    assert found["manifest"]["settings"] == {"dtype": "float32"}
    assert [(row["defense"], row["protocol"]) for row in found["rows"]] == [
        ("none", "direct"),
        *(
            (spec, protocol)
            for spec in (DEFENSE, CONTROL)
            for protocol in ("replay", "direct", "worst")
        ),
    ]


def test_several_runs_share_one_report(tmp_path: Path) -> None:
    with open_store(tmp_path / "a") as a, open_store(tmp_path / "b", attack="other") as b:
        evaluate(systems(), SwapAttack(), EXAMPLES, a, "worst", 7)
        evaluate(systems(), SwapAttack("other"), EXAMPLES[:2], b, "worst", 7)
        write_results([a, b], tmp_path)
    found = json.loads((tmp_path / "summary.json").read_text(encoding="utf-8"))
    assert [run["attack"] for run in found["runs"]] == ["swap(words=all)", "other"]
    page = Page((tmp_path / "report.html").read_text(encoding="utf-8"))
    assert [h1.text for h1 in page.all("h1")] == [
        "2 attacks",
        "swap against thesaurus",
        "other against thesaurus",
    ]
    overview = [a.text for a in page.all("a") if "run-" in (a.attributes["href"] or "")]
    assert overview == ["swap", "other"]
    assert len(page.all("article")) == 30 + 10
    options = [option.attributes["value"] for option in page.all("option")]
    assert len(options) == len(set(options)) == 1 + 5 + 5
    assert {a.attributes["data-system"] for a in page.all("article")} <= set(options)


def test_a_run_without_records(tmp_path: Path) -> None:
    with open_store(tmp_path) as store, pytest.raises(ConfigError, match="without any"):
        write_results(store, tmp_path)


def test_a_run_stopped_before_its_defense_still_reports(tmp_path: Path) -> None:
    with open_store(tmp_path) as store:
        store.add(record())
        write_results(store, tmp_path)
    found = json.loads((tmp_path / "summary.json").read_text(encoding="utf-8"))
    assert "robust_accuracy" not in found
    assert found["flags"] == [f"incomplete: nothing yet about {DEFENSE}"]
    page = Page((tmp_path / "report.html").read_text(encoding="utf-8"))
    assert len(page.all("article")) == 1


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("a file")
    with open_store(tmp_path) as store:
        store.add(record())
        with pytest.raises(StorageError):
            write_results(store, tmp_path / "out")
    assert (tmp_path / "out").read_text() == "a file"


def test_without_jinja2(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "jinja2", None)
    with open_store(tmp_path) as store:
        store.add(record())
        with pytest.raises(ResourceError, match=re.escape('pip install "robust-prefix[attacks]"')):
            write_results(store, tmp_path)
    assert (tmp_path / "results.csv").is_file()
    assert (tmp_path / "summary.json").is_file()


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_hostile_text_is_text(text: str) -> None:
    """As text, as message, as name of a system: no element and no attribute comes of it."""
    harmless = Page(render_report([run_of("x y", "x z", "note")]))
    one = record(
        original=(text,), adversarial=(f"{text} z",), message=text, defense=text, role="defense"
    )
    found = manifest(protocol="direct", n=1, model=text, labels=(text, f"not {text}"))
    page_text = render_report([Results(found, (one,), summarize([one], found))])
    page = Page(page_text)
    assert len(page.all("script")) == len(harmless.all("script")) == 1
    assert len(page.all("style")) == 1
    assert page.all("img") == []
    names = {name for element in page.elements for name in element.attributes}
    assert not any(name.startswith("on") or name in ("style", "src", "autofocus") for name in names)
    assert "1337" not in page_text  # 7 * 191: no template was run
    shown = [element.text for element in page.all("bdi")]
    visible = re.sub(r"[\0\x1b\u202e\u202c\udc80]", lambda found: f"U+{ord(found[0]):04X}", text)
    assert shown == [visible, f"{visible} z"]


def test_texts_show_no_control_character() -> None:
    page = render_report([run_of(HOSTILE["override"], HOSTILE["nul"], HOSTILE["escape"])])
    assert not re.search(r"[\0\x1b\u202a-\u202e\u2066-\u2069]", page)
    assert "U+202E" in page
    assert 'title="U+202E RIGHT-TO-LEFT OVERRIDE"' in page


def test_policy_admits_this_style_and_this_script_alone() -> None:
    page = Page(render_report([run_of("a", "b")]))
    policy = next(
        meta.attributes["content"]
        for meta in page.all("meta")
        if meta.attributes.get("http-equiv") == "Content-Security-Policy"
    )
    assert policy is not None
    directives = dict(part.strip().split(" ", 1) for part in policy.split(";"))
    assert directives["default-src"] == "'none'"
    for directive, tag in (("style-src", "style"), ("script-src", "script")):
        (element,) = page.all(tag)
        digest = base64.b64encode(hashlib.sha256(element.text.encode()).digest()).decode()
        assert directives[directive] == f"'sha256-{digest}'"


def test_the_page_needs_nothing_else() -> None:
    page = render_report([run_of("a", "b")])
    assert not re.search(r"https?:|url\(|@import|<link|<iframe|<base", page)


def test_the_page_says_what_was_found(tmp_path: Path) -> None:
    page = Page((evaluated(tmp_path) / "report.html").read_text(encoding="utf-8"))
    assert page.all("h1")[0].text == "swap against thesaurus"
    cells = [cell.text.split()[0] for cell in page.all("td")]
    assert "83.3%" in cells
    assert len(page.all("svg")) == 9  # three systems at three protocols
    assert all(svg.attributes["aria-label"] for svg in page.all("svg"))
    flags = [b.text for b in page.all("b")]
    assert "no better than the equal-norm control" in flags
    assert "dynamic: optimises at inference; replay alone is no evidence" in flags
    articles = page.all("article")
    assert len(articles) == 30
    shown = [a.attributes["data-outcome"] for a in articles]
    assert (shown.count("succeeded"), shown.count("skipped")) == (3 + 2 + 2, 5)
    assert "Not attacked: the original is misclassified already." in articles[20].text
    assert page.all("html")[0].attributes["lang"] == "en"
    assert {p.attributes.get("dir") for p in page.all("p")} == {None, "auto"}


def test_changed_words_are_marked_on_both_sides() -> None:
    page = Page(render_report([run_of("a fine film", "a okay film")]))
    assert [element.text for element in page.all("del")] == ["fine"]
    assert [element.text for element in page.all("ins")] == ["okay"]


def test_a_pair_shows_both_columns(tmp_path: Path) -> None:
    task = FakeTask(columns=("premise", "hypothesis"))
    columns = {"columns": task.columns, "protocol": "direct", "n": 1, "defense": "none"}
    with open_store(tmp_path, **columns) as store:
        evaluate(
            [System("undefended", LexiconClassifier(task=task))],
            FunctionAttack(lambda fields: Attempt((fields[0], "it is dull"), 1)),
            [Example(0, ("a play opens", "it is witty"), 1)],
            store,
            "direct",
            7,
        )
        (run,) = write_results(store, tmp_path)
    assert run.records[0].outcome == "succeeded"
    page = Page((tmp_path / "report.html").read_text(encoding="utf-8"))
    assert page.all("h1")[0].text == "swap against the undefended model"
    assert [bdi.text for bdi in page.all("bdi")] == [
        "a play opens",
        "it is witty",
        "a play opens",
        "it is dull",
    ]
    named = [p.text for p in page.all("p") if p.attributes.get("class") == "column"]
    assert named == ["premise", "hypothesis"] * 2


CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser"))), None)


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium to render the page with")
def test_a_browser_runs_our_script_and_no_other(tmp_path: Path) -> None:
    """The filters appear, so our script ran; nothing in the texts did."""
    hostile = [
        record(
            example=place,
            original=(text,),
            adversarial=(f"{text} <script>document.title='owned'</script>",),
        )
        for place, text in enumerate(HOSTILE.values())
    ]
    found = manifest(protocol="direct", n=len(hostile))
    page = tmp_path / "report.html"
    page.write_text(render_report([Results(found, tuple(hostile), summarize(hostile, found))]))
    assert CHROMIUM is not None
    dumped = subprocess.run(
        [
            CHROMIUM,
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            f"--user-data-dir={tmp_path / 'profile'}",
            "--dump-dom",
            page.as_uri(),
        ],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert f"{len(hostile)} of {len(hostile)} shown" in dumped
    assert "<title>swap against thesaurus, reviews</title>" in dumped
    assert dumped.count("<script") == 1
    assert "<img" not in dumped
