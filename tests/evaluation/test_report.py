"""The page: what it says, what it leaves out, and that hostile text stays text."""

from __future__ import annotations

import base64
import hashlib
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from evaluation_fakes import (
    ALONE,
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
from pages import HOSTILE, Page, evaluated, run_of

from robust_prefix.evaluation import (
    Attempt,
    Example,
    Record,
    Results,
    System,
    evaluate,
    render_report,
    summarize,
    write_results,
)
from robust_prefix.evaluation.quality import Quality, pair_key
from robust_prefix.evaluation.records import RECORDED


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_hostile_text_is_text(text: str) -> None:
    """As text, as message, as name of a system: no element and no attribute comes of it."""
    harmless = Page(render_report([run_of("x y", "x z", "note")]))
    one = record(
        original=(text,), adversarial=(f"{text} z",), message=text, defense=text, role="defense"
    )
    found = manifest(protocols=("direct",), n=1, model=text, labels=(text, f"not {text}"))
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
    figures = [svg for svg in page.all("svg") if svg.attributes.get("role") == "img"]
    # three systems at three protocols, the curves of the defence, replay against direct
    assert len(figures) == 9 + 1 + 1
    assert all(svg.attributes["aria-label"] for svg in figures)
    flags = [b.text for b in page.all("b")]
    assert "no better than its random control" in flags
    assert "dynamic: optimises at inference; replay alone is no evidence" in flags
    articles = page.all("article")
    assert len(articles) == 30
    shown = [a.attributes["data-outcome"] for a in articles]
    assert (shown.count("succeeded"), shown.count("skipped")) == (3 + 2 + 2, 5)
    assert shown[:6] == ["succeeded"] * 3 + ["failed"] * 2 + ["skipped"]  # the undefended system
    assert "Not attacked: the original is misclassified already." in articles[5].text
    assert page.all("html")[0].attributes["lang"] == "en"
    assert {p.attributes.get("dir") for p in page.all("p")} == {None, "auto"}


def test_changed_words_are_marked_on_both_sides() -> None:
    page = Page(render_report([run_of("a fine film", "a okay film")]))
    assert [element.text for element in page.all("del")] == ["fine"]
    assert [element.text for element in page.all("ins")] == ["okay"]


def test_a_pair_shows_both_columns(tmp_path: Path) -> None:
    task = FakeTask(columns=("premise", "hypothesis"))
    with open_store(tmp_path, columns=task.columns, n=1, **ALONE) as store:
        evaluate(
            [System("undefended", LexiconClassifier(task=task))],
            FunctionAttack(lambda fields: Attempt((fields[0], "it is dull"), 1)),
            [Example(0, ("a play opens", "it is witty"), 1)],
            store,
            store.manifests[0],
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


def many(count: int, **changes: object) -> list[Record]:
    """Texts that held, with every tenth fooled, and the last."""
    return [
        record(
            example=place,
            outcome="succeeded" if place % 10 == 9 else "failed",
            adversarial=("a okay film",) if place % 10 == 9 else None,
            **changes,
        )
        for place in range(count)
    ]


def results_of(records: list[Record], **changes: object) -> Results:
    found = manifest(n=len({r.example for r in records}), **changes)
    return Results(found, tuple(records), summarize(records, found))


def test_of_many_examples_those_that_were_fooled_come_first() -> None:
    run = results_of(many(200), **ALONE)
    page = Page(render_report([run]))
    shown = [article.attributes["data-outcome"] for article in page.all("article")]
    assert shown == ["succeeded"] * 20 + ["failed"] * 20
    (note,) = (p.text for p in page.all("p") if "results.csv" in p.text)
    assert "160 more records are in results.csv" in note


def test_a_page_of_many_cells_shows_few_of_each() -> None:
    attacks = [f"attack-{place}" for place in range(60)]
    runs = [results_of(many(6, attack=attack), attack=attack, **ALONE) for attack in attacks]
    text = render_report(runs)
    page = Page(text)
    assert len(page.all("article")) == 60 * 4
    assert "120 more records (attack-0: 2; attack-1: 2;" in text
    assert len(page.all("details")) == 2 * 60  # each cell folded


def test_seeds_of_a_control_are_shown_once() -> None:
    controls = tuple(f"random-prefix(rms=0.2, seed={seed})" for seed in range(3))
    records = (
        many(5)
        + [one for spec in controls for one in many(5, defense=spec, role="control")]
        + many(5, defense=DEFENSE, role="defense")
    )
    run = results_of(records, protocols=("direct",), controls={DEFENSE: controls})
    page = Page(render_report([run]))
    systems_shown = [article.attributes["data-system"] for article in page.all("article")]
    assert systems_shown == ["undefended"] * 5 + ["thesaurus"] * 5 + ["control of thesaurus"] * 5
    assert "10 more records" in " ".join(p.text for p in page.all("p"))


def test_an_adversary_says_what_it_changed() -> None:
    one = record()
    run = results_of([one], **ALONE)
    measured = Results(
        run.manifest, run.records, run.summary, {pair_key(one): Quality(3, 1, 0.914, 50.0, 160.0)}
    )
    facts = [
        p.text
        for p in Page(render_report([measured])).all("p")
        if p.attributes.get("class") == "facts"
    ]
    assert facts == ["3 queries · 1 of 3 words changed · similarity 0.91 · 3.2x perplexity"]


def test_the_threat_model_is_said_in_words() -> None:
    settings = {
        "dtype": "float32",
        "threat.knowledge": "gradient",
        "threat.columns": "text",
        "threat.edits": "one letter a word",
        "threat.max_queries": 60,
        "goal": "misclassify",
        "deviation": "greedy, not a beam",
        "resource.wordnet": "data-dir 12ab",
    }
    page = Page(render_report([results_of(many(3), settings=settings, **ALONE)]))
    told = dict(
        zip((e.text for e in page.all("dt")), (e.text for e in page.all("dd")), strict=True)
    )
    assert told["Sees"] == "the weights, and gradients through the defence"
    assert told["Edits"] == "one letter a word"
    assert told["Queries an example"] == "at most 60"
    assert told["Differs from its paper"] == "greedy, not a beam"
    assert told["Needs"] == "wordnet (data-dir 12ab)"


def test_the_cost_of_one_change_for_all_texts_is_told() -> None:
    run = results_of(many(3), **ALONE)
    state = {"state": "{}", "queries": 1200, "forward_passes": 1200.0, "backward_passes": 300.0}
    found = Results(run.manifest, run.records, run.summary, {}, {("none", "direct"): state})
    text = " ".join(p.text for p in Page(render_report([found])).all("p"))
    assert "Against the undefended model that took 1,200 queries and 1,500 passes" in text


def test_a_search_that_crashed_is_told() -> None:
    """As it is stored where the process died: there is nothing to count."""
    run = results_of(many(3), **ALONE)
    found = Results(
        run.manifest, run.records, run.summary, {}, {("none", "direct"): {"error": "killed"}}
    )
    text = " ".join(p.text for p in Page(render_report([found])).all("p"))
    assert "Against the undefended model that search crashed" in text


def test_what_a_goal_to_keep_the_answer_means_is_told() -> None:
    settings = {"dtype": "float32", "goal": "keep"}
    run = results_of(many(3), **{**ALONE, "settings": settings})
    page = Page(render_report([run]))
    said = " ".join(element.text for element in page.elements)
    assert "finds nothing that keeps the answer" in said
    assert "brings accuracy from" not in said
    assert "fool the undefended model" not in said


def test_recorded_adversaries_were_crafted_on_no_model_here() -> None:
    """With a defence and without one; nobody was attacked."""
    settings = {"dtype": "float32", RECORDED: "ab"}
    for protocols, defenses in ((("replay",), ()), (("replay",), (DEFENSE,))):
        found = manifest(
            protocols=protocols, defenses=defenses, controls={}, n=1, settings=settings
        )
        records = [
            record(role=role, defense=spec, protocol="replay")
            for role, spec in (("undefended", "none"), ("defense", DEFENSE))[: 1 + len(defenses)]
        ]
        run = Results(found, tuple(records), summarize(records, found))
        assert run.summary.protocols == ("replay",)
        said = " ".join(element.text for element in Page(render_report([run])).elements)
        assert "recorded" in said
        assert "crafted on the undefended model" not in said
        assert "queries each system itself" not in said


def test_a_matrix_comes_first(tmp_path: Path) -> None:
    with open_store(tmp_path / "a") as a, open_store(tmp_path / "b", attack="other") as b:
        evaluate(systems(), SwapAttack(), EXAMPLES, a, a.manifests[0])
        evaluate(systems(), SwapAttack("other"), EXAMPLES, b, b.manifests[0])
        write_results([a, b], tmp_path)
    page = Page((tmp_path / "report.html").read_text(encoding="utf-8"))
    assert [h1.text for h1 in page.all("h1")] == ["2 attacks against 1 defence"]
    rows = [th.text for th in page.all("th") if th.attributes.get("scope") == "row"][:2]
    assert [row.split("6")[0] for row in rows] == ["swap", "other"]
    (entry, *_) = (
        td.text.split() for td in page.all("td") if td.attributes["data-label"] == "thesaurus"
    )
    assert entry[0] == "83.3%"
    assert entry[-1] == "50.0%"  # the control's
    links = {a.attributes["href"] for a in page.all("a")}
    anchors = {
        f"#{element.attributes['id']}" for element in page.elements if "id" in element.attributes
    }
    assert {"#cell-1", "#cell-2"} <= links <= anchors
    assert {article.attributes["data-attack"] for article in page.all("article")} == {
        "swap",
        "other",
    }


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_a_hostile_matrix_is_text(text: str) -> None:
    """As name of an attack, a defence and a task, and as the reason for a missing cell."""
    runs = [
        results_of(
            [*many(10, attack=attack), *many(10, attack=attack, defense=text, role="defense")],
            attack=attack,
            task=text,
            defenses=(text,),
            controls={},
            protocols=("direct",),
        )
        for attack in (text, f"other {text}")
    ]
    page = Page(render_report(runs, {text: text}))
    assert (len(page.all("script")), len(page.all("style")), page.all("img")) == (1, 1, [])
    names = {name for element in page.elements for name in element.attributes}
    assert not any(name.startswith("on") or name in ("style", "src", "autofocus") for name in names)


CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser"))), None)
in_a_browser = pytest.mark.skipif(CHROMIUM is None, reason="no chromium to render the page with")


def rendered(page: Path, *options: str) -> Page:
    """The page as a browser has it once its script has run."""
    assert CHROMIUM is not None
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom", *options]
    profile = f"--user-data-dir={page.parent / 'profile'}"
    found = subprocess.run(
        [*command, profile, page.as_uri()], capture_output=True, text=True, check=True, timeout=120
    )
    return Page(found.stdout)


@in_a_browser
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
    path = tmp_path / "report.html"
    path.write_text(render_report([results_of(hostile, protocols=("direct",))]), encoding="utf-8")
    page = rendered(path)
    assert [title.text for title in page.all("title")] == ["swap against thesaurus, reviews"]
    (shown,) = (p.text for p in page.all("p") if p.attributes.get("id") == "shown")
    assert shown == f"{len(hostile)} of {len(hostile)} shown"
    assert len(page.all("script")) == 1
    assert page.all("img") == []
    hidden = re.compile(r"[\0\x1b\u202e\u202c\udc80]")
    visible = [hidden.sub(lambda c: f"U+{ord(c[0]):04X}", text) for text in HOSTILE.values()]
    texts = [bdi.text for bdi in page.all("bdi")]
    assert texts[::2] == visible
    assert texts[1::2] == [f"{text} <script>document.title='owned'</script>" for text in visible]


@in_a_browser
@pytest.mark.parametrize("script", [True, False], ids=["with-script", "without"])
def test_a_browser_filters_and_without_script_shows_all(tmp_path: Path, script: bool) -> None:
    path = evaluated(tmp_path) / "report.html"
    if not script:
        text = path.read_text(encoding="utf-8")
        path.write_text(re.sub(r"<script>.*</script>", "", text, flags=re.DOTALL), encoding="utf-8")
    page = rendered(path)
    (filters,) = (div for div in page.all("div") if div.attributes.get("id") == "filters")
    assert ("hidden" in filters.attributes) is not script
    seen = [
        (article.attributes["data-system"], article.attributes["data-protocol"])
        for article in page.all("article")
        if "hidden" not in article.attributes
    ]
    assert len(page.all("article")) == 30
    assert len(seen) == (6 if script else 30)
    assert not script or set(seen) == {("thesaurus", "direct")}
