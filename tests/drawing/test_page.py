"""Pages: what stands in them is escaped, whole, and works in a real browser."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import browser
import pytest
from matplotlib.figure import Figure as Drawing

from wna_ray.drawing.page import Figure, Number, Page, Section, Table, Verdict, render
from wna_ray.drawing.sheets import png

EVIL = "<script>alert(1)</script>\"'&<img src=x onerror=alert(1)>"
EMPTY = {"meta", "link", "img", "br"}


def picture(width: float = 8) -> bytes:
    drawing = Drawing(figsize=(width, 3))
    drawing.subplots().plot([0, 1])
    return png(drawing)


def gallery(n: int = 20) -> Page:
    data = picture()
    sections = tuple(
        Section(
            f"e{i}",
            f"Experiment {i}",
            "Does it hold?",
            list(Verdict)[i % 4],
            (
                (
                    "A paragraph of some length, which has to be broken on a phone, whatever it"
                    " says of 0.123 and of 1e-300."
                ),
            )
            * 2,
            (Number("accuracy", "0.55 ± 0.03", "0.3555", Verdict.REPRODUCED),),
            (Figure(data, "A line, N = 2.", "A rising line"),),
            (
                Table(
                    ("class", "count", "what it is"),
                    (("one", "1,000", "x" * 40), ("two", "2,000", "y" * 40)),
                    "Counts",
                ),
            ),
            (("N", "1,000"), ("fingerprint", "f" * 64)),
            (("The spec", "model: bundled:mnist-cnn\n" + "#" * 200),),
        )
        for i in range(1, n + 1)
    )
    return Page("All experiments", "Twenty of them.", sections)


class Parsed(HTMLParser):
    """Tags in order, with their attributes; fails where they do not nest."""

    def __init__(self, page: bytes) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(page.decode())
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in EMPTY:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def test_tags_nest_and_ids_are_unique() -> None:
    parsed = Parsed(render(gallery()))
    assert parsed.open == []
    ids = Counter(attributes["id"] for _, attributes in parsed.tags if "id" in attributes)
    assert max(ids.values()) == 1
    targets = {
        str(attributes["href"]).removeprefix("#") for tag, attributes in parsed.tags if tag == "a"
    }
    assert targets <= set(ids)
    assert {f"e{i}" for i in range(1, 21)} <= targets


def test_headings_go_down_by_one_and_pictures_have_words() -> None:
    parsed = Parsed(render(gallery()))
    levels = [int(tag[1]) for tag, _ in parsed.tags if tag in ("h1", "h2", "h3")]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(b - a <= 1 for a, b in itertools.pairwise(levels))
    assert all(attributes["alt"] for tag, attributes in parsed.tags if tag == "img")


def test_nothing_comes_from_elsewhere_and_nothing_runs() -> None:
    parsed = Parsed(render(gallery()))
    assert not [tag for tag, _ in parsed.tags if tag in ("script", "iframe", "object", "form")]
    sources = [
        str(a.get("src") or a.get("href"))
        for tag, a in parsed.tags
        if tag in ("img", "link", "a") and (a.get("src") or a.get("href"))
    ]
    assert all(source.startswith(("data:", "#")) for source in sources)
    policy = next(
        a["content"]
        for tag, a in parsed.tags
        if tag == "meta" and a.get("http-equiv") == "Content-Security-Policy"
    )
    assert policy is not None
    assert policy.startswith("default-src 'none'")


def test_words_of_strangers_stay_words() -> None:
    section = Section(
        "a",
        EVIL,
        EVIL,
        Verdict.PARTLY,
        (EVIL,),
        (Number(EVIL, EVIL, EVIL),),
        (Figure(picture(), EVIL, EVIL),),
        (Table((EVIL,), ((EVIL,),), EVIL),),
        ((EVIL, EVIL),),
        ((EVIL, EVIL),),
    )
    page = render(Page(EVIL, EVIL, (section, Section("b", "B"))))
    parsed, plain = Parsed(page), Parsed(render(gallery(2)))
    assert {tag for tag, _ in parsed.tags} <= {tag for tag, _ in plain.tags} | {"ul", "li"}
    assert not [a for _, a in parsed.tags if any(name.startswith("on") for name in a)]
    assert parsed.text.count(EVIL) >= 14


def test_the_same_page_has_the_same_bytes() -> None:
    assert render(gallery()) == render(gallery())


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: Figure(b"GIF89a", "", ""), "PNG"),
        (lambda: Table(("a", "b"), (("1",),)), "2 cells each"),
        (lambda: Section("A b", "x"), "small letters"),
        (lambda: Page("t", "l", (Section("a", "x"), Section("a", "y"))), "stands twice"),
    ],
)
def test_parts_that_make_no_page(make: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()  # type: ignore[operator]


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[browser.Browser, Path]]:
    """A browser, and a page of twenty sections."""
    folder = tmp_path_factory.mktemp("page")
    (folder / "page.html").write_bytes(render(gallery()))
    with browser.chromium(folder / "profile") as running:
        yield running, folder / "page.html"


@pytest.mark.parametrize("width", [360, 1280])
def test_in_a_browser_pictures_load_and_nothing_complains(
    opened: tuple[browser.Browser, Path], width: int
) -> None:
    running, page = opened
    question = (
        "[document.images.length, [...document.images].filter(i => i.complete && i.naturalWidth >"
        " 0).length]"
    )
    found, said = running.ask(page, question, width)
    assert found == [20, 20]
    assert said == []


@pytest.mark.parametrize("width", [320, 360, 768, 1280])
def test_in_a_browser_nothing_is_wider_than_the_window(
    opened: tuple[browser.Browser, Path], width: int
) -> None:
    running, page = opened
    found, _ = running.ask(page, "document.documentElement.scrollWidth", width)
    assert found <= width


def test_in_a_browser_all_that_scrolls_or_opens_can_be_reached_by_keyboard(
    opened: tuple[browser.Browser, Path],
) -> None:
    running, page = opened
    question = """[...document.querySelectorAll('*')].filter(e => (e.scrollWidth > e.clientWidth + 1
        && getComputedStyle(e).overflowX === 'auto' && e.tabIndex < 0))
        .map(e => e.outerHTML.slice(0, 80))"""
    assert running.ask(page, question, 360)[0] == []
    assert (
        running.ask(page, "document.querySelectorAll('a, summary, [tabindex=\"0\"]').length", 360)[
            0
        ]
        >= 100
    )


@pytest.mark.parametrize("dark", [False, True])
def test_in_a_browser_words_have_contrast(opened: tuple[browser.Browser, Path], dark: bool) -> None:
    """WCAG 2.2, 1.4.3: the ratio of luminances of every text and its ground is at least 4.5."""
    running, page = opened
    question = """(() => {
        const rgb = c => c.match(/[\\d.]+/g).map(Number);
        const light = c => { const [r, g, b] = rgb(c).slice(0, 3).map(v => v / 255)
            .map(v => v <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4);
            return .2126 * r + .7152 * g + .0722 * b; };
        const ground = e => { while (e) { const c = getComputedStyle(e).backgroundColor;
            if (rgb(c).length === 3 || rgb(c)[3] === 1) return c; e = e.parentElement; }
            return 'rgb(255, 255, 255)'; };
        const found = [];
        for (const e of document.querySelectorAll('body *')) {
            if (![...e.childNodes].some(n => n.nodeType === 3 && n.textContent.trim())) continue;
            const [a, b] = [light(getComputedStyle(e).color), light(ground(e))];
            found.push([(Math.max(a, b) + .05) / (Math.min(a, b) + .05), e.tagName, e.className]);
        }
        return found.sort((x, y) => x[0] - y[0])[0];
    })()"""
    worst, _ = running.ask(page, question, 1280, dark)
    assert worst[0] >= 4.5, worst
