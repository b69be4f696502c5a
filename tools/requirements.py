"""Which requirements of the specification have tests.

python -m tools.requirements          prints every page and section; fails where something is open
python -m tools.requirements CHECKOUT COMMIT DATE
                                              counts anew in a checkout of the specification

A test says what it shows with ``@pytest.mark.spec("framework/raw-aes-keyring.md#ondecrypt")``. How many
requirements a section has stands in ``tests/spec/sections.toml``, and what of them does not apply here, and
why, in ``tests/spec/not_applicable.toml``. A section counts without the sections below it.
"""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from collections import Counter
from collections.abc import Iterator, Mapping
from itertools import groupby
from pathlib import Path

import attrs

TESTS = Path(__file__).parents[1] / "tests"
SECTIONS = TESTS / "spec/sections.toml"
NOT_APPLICABLE = TESTS / "spec/not_applicable.toml"

# What the library implements. Test vectors have pages of their own that ask nothing of it.
_FOLDERS = ("client-apis", "data-format", "framework", "framework/aws-kms")
# Sections that speak about the page, not about the library.
_ABOUT_THE_PAGE = ("changelog", "conventions-used-in-this-document")


@attrs.frozen
class Section:
    """One section: its place, how many requirements it has, and how many of them forbid something."""

    page: str
    anchor: str
    musts: int
    must_nots: int

    @property
    def name(self) -> str:
        return f"{self.page}#{self.anchor}"


# The table


def count(checkout: Path) -> list[Section]:
    """Return all sections of the pages that ask for anything."""
    found = []
    for folder in _FOLDERS:
        for path in sorted((checkout / folder).glob("*.md")):
            sections = list(sections_of(path.relative_to(checkout).as_posix(), path.read_text()))
            found += sections if any(section.musts for section in sections) else []
    return found


def sections_of(page: str, text: str) -> Iterator[Section]:
    """Yield the sections of a page, named as GitHub names them in links."""
    text = re.sub(r"^```.*?^```|<!--.*?-->", "", text, flags=re.MULTILINE | re.DOTALL)
    headings: Counter[str] = Counter()
    for part in re.split(r"^#+ ", text, flags=re.MULTILINE)[1:]:
        heading, _, body = part.partition("\n")
        anchor = re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")
        headings[anchor] += 1
        if anchor in _ABOUT_THE_PAGE:
            continue
        if headings[anchor] > 1:
            anchor = f"{anchor}-{headings[anchor] - 1}"
        yield Section(
            page, anchor, len(re.findall(r"\bMUST\b", body)), len(re.findall(r"\bMUST\s+NOT\b", body))
        )


def write(sections: list[Section], commit: str, date: str) -> str:
    """Return the table as TOML."""
    lines = [
        "# Sections of https://github.com/awslabs/aws-encryption-sdk-specification: how many MUSTs each has,",
        "# and how many of them are MUST NOTs. Made by python -m tools.requirements.",
        f'commit = "{commit}"',
        f"date = {date}",
    ]
    page = None
    for section in sections:
        if section.page != page:
            page = section.page
            lines += ["", f'[pages."{page}"]']
        lines.append(f"{section.anchor} = [{section.musts}, {section.must_nots}]")
    return "\n".join(lines) + "\n"


def read(text: str) -> dict[str, Section]:
    """Return the sections of the table by name."""
    pages = tomllib.loads(text)["pages"]
    sections = [Section(page, anchor, *numbers) for page in pages for anchor, numbers in pages[page].items()]
    return {section.name: section for section in sections}


def read_reasons(text: str) -> dict[str, str]:
    """Return why a section does not apply, wholly or in part; a page may stand for all its sections."""
    pages = tomllib.loads(text)
    return {
        page if anchor == "*" else f"{page}#{anchor}": reason
        for page, reasons in pages.items()
        for anchor, reason in reasons.items()
    }


# The tests


def markers(source: str) -> Iterator[tuple[str, int]]:
    """Yield the sections that the tests of a file name, with how many tests name them."""
    tree = ast.parse(source)
    assigned = dict(_assigned(tree))
    tests = [node for node in ast.walk(tree) if _is_test(node)]
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "pytest.mark.spec":
            of_file = "pytestmark" in assigned and node in ast.walk(assigned["pytestmark"])
            for argument in node.args:
                yield _text(argument, assigned), len(tests) if of_file else 1


def _assigned(tree: ast.Module) -> Iterator[tuple[str, ast.expr]]:
    for node in tree.body:
        match node:
            case ast.Assign(targets=[ast.Tuple(elts=names)], value=ast.Tuple(elts=values)):
                yield from zip(map(ast.unparse, names), values, strict=True)
            case ast.Assign(targets=[ast.Name(id=name)], value=value):
                yield name, value


def _text(node: ast.expr, assigned: Mapping[str, ast.expr]) -> str:
    """Return a text as the source has it, with constants of the file put in."""
    match node:
        case ast.Constant(value=value):
            return str(value)
        case ast.JoinedStr(values=parts):
            return "".join(_text(part, assigned) for part in parts)
        case ast.FormattedValue(value=ast.Name(id=name)) if name in assigned:
            return _text(assigned[name], assigned)
    return ast.unparse(node)


def _is_test(node: ast.AST) -> bool:
    return isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_")


def named_by_tests(folder: Path = TESTS) -> Counter[str]:
    """Return how many tests name each section."""
    named: Counter[str] = Counter()
    for path in folder.rglob("test_*.py"):
        for section, tests in markers(path.read_text()):
            named[section] += tests
    return named


# What both say together


@attrs.frozen
class Standing:
    """What is asked, how many tests name each section, and what does not apply."""

    sections: Mapping[str, Section]
    named: Mapping[str, int]
    reasons: Mapping[str, str]

    @property
    def asking(self) -> list[Section]:
        return [section for section in self.sections.values() if section.musts]

    def tested(self, section: Section) -> bool:
        return bool(self.named.get(section.name))

    def excused(self, section: Section) -> bool:
        return bool(self.reasons.get(section.name) or self.reasons.get(section.page))

    def problems(self) -> Iterator[str]:
        """Yield what is open, and what is named and does not exist."""
        for name in sorted(self.named.keys() - self.sections.keys()):
            yield f"tests name {name}, which does not exist"
        places = {name for section in self.asking for name in (section.name, section.page)}
        for name in sorted(self.reasons.keys() - places):
            yield f"a reason is given for {name}, where nothing is asked"
        for section in self.asking:
            if not self.tested(section) and not self.excused(section):
                yield f"{section.name} has neither test nor reason"

    def report(self) -> Iterator[str]:
        """Yield the lines of the report."""
        for page, sections in groupby(self.asking, key=lambda section: section.page):
            yield page
            if page in self.reasons:
                yield f"  not applicable: {self.reasons[page]}"
            for section in sections:
                yield self._line(section)
                if section.name in self.reasons:
                    part = "in part " if self.tested(section) else ""
                    yield f"    {part}not applicable: {self.reasons[section.name]}"
            yield ""
        excused = [s for s in self.asking if not self.tested(s) and self.excused(s)]
        tested = [s for s in self.asking if self.tested(s)]
        for what, some in (("asked", self.asking), ("tested", tested), ("not applicable", excused)):
            musts, pages = sum(section.musts for section in some), {section.page for section in some}
            yield f"{what}: {musts} MUSTs in {len(some)} sections of {len(pages)} pages"

    def _line(self, section: Section) -> str:
        forbids = f"({section.must_nots} not)" if section.must_nots else ""
        tests = self.named.get(section.name, 0) or "no"
        return f"  {section.anchor:55} {section.musts:3} MUST {forbids:8} {tests:>3} tests"


def main(arguments: list[str]) -> int:
    if arguments:
        checkout, commit, date = arguments
        SECTIONS.write_text(write(count(Path(checkout)), commit, date))
        return 0
    standing = Standing(
        read(SECTIONS.read_text()), named_by_tests(), read_reasons(NOT_APPLICABLE.read_text())
    )
    print(*standing.report(), sep="\n")
    found = list(standing.problems())
    for problem in found:
        print(problem, file=sys.stderr)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
