"""What the tests of the report share: hostile texts, and a page taken apart."""

from __future__ import annotations

import dataclasses
import html.parser
from pathlib import Path

from evaluation_fakes import EXAMPLES, SwapAttack, manifest, open_store, record, systems

from robust_prefix.evaluation import Results, evaluate, summarize, write_results

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
    found = manifest(protocols=("direct",), n=1)
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
        evaluate(systems(), SwapAttack(), EXAMPLES, store, store.manifests[0])
        write_results(store, folder)
    return folder
