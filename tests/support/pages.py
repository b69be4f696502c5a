"""The pages of the documentation as tests see them: snippets, links, headings and tables."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import attrs

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])

_FENCE = re.compile(r"^```(\S*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"\[[^\]]+\]\(([^)\s]+)\)")
_SPAN = re.compile(r"`([^`]+)`")


def name_of(page: Path) -> str:
    """Return a page's path from the root of the project: its name in test ids and messages."""
    return page.relative_to(ROOT).as_posix()


@attrs.frozen
class Snippet:
    """A fenced block: its language, its text, and the line of the page on which the text begins."""

    language: str
    text: str
    line: int


def snippets(page: Path, *languages: str) -> list[Snippet]:
    """Return the fenced blocks of a page, from top to bottom."""
    text = page.read_text()
    blocks = [
        Snippet(match[1], match[2], text.count("\n", 0, match.start()) + 2) for match in _FENCE.finditer(text)
    ]
    return [block for block in blocks if block.language in languages]


def prose(page: Path) -> str:
    """Return a page without its fenced blocks."""
    return _FENCE.sub("", page.read_text())


def links(page: Path) -> list[str]:
    """Return the targets of the links of a page."""
    return _LINK.findall(prose(page))


def anchors(page: Path) -> set[str]:
    """Return what the headings of a page are called in a link, as GitHub makes it."""
    headings = re.findall(r"^#+ (.+)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def section(page: Path, heading: str) -> str:
    """Return a section with everything below it, up to the next heading of its level."""
    text = page.read_text()
    level = heading.split(" ")[0]
    start = text.index(f"{heading}\n")
    end = re.compile(rf"^#{{1,{len(level)}}} ", re.MULTILINE).search(text, start + len(heading))
    return text[start : end.start() if end else None]


def rows(text: str) -> Iterator[list[str]]:
    """Yield the cells of the rows of all tables, without the headings."""
    for line in text.splitlines():
        if line.startswith("| ") and line != "| there | here |":
            yield [cell.strip() for cell in line.strip("|").split("|")]


def code_words(text: str) -> set[str]:
    """Return the identifiers inside code spans."""
    return {word for span in _SPAN.findall(text) for word in re.findall(r"[A-Za-z_][A-Za-z0-9_]*", span)}
