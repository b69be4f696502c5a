"""The table of the specification's requirements and the tests that name them agree."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.rows import each_row
from tools.requirements import (
    NOT_APPLICABLE,
    SECTIONS,
    Section,
    Standing,
    count,
    main,
    markers,
    named_by_tests,
    read,
    read_reasons,
    sections_of,
    write,
)

PAGE = """# A keyring

MUST of the page, which MUST
NOT end here, and MUST NOT end there.

## Inputs

### Structure

One MUST. A lowercase must, and MUSTARD.

```
# not a heading, and no MUST
```

<!--
# nor this MUST
-->

## Structure

It MUST.

## `Branch Key` (version 2.0)

## Changelog

MUST be of no interest.

#### Conventions used in this document

"MUST", "MUST NOT".
"""


# The real thing


def test_every_requirement_has_a_test_or_a_reason() -> None:
    reasons = read_reasons(NOT_APPLICABLE.read_text())
    standing = Standing(read(SECTIONS.read_text()), named_by_tests(), reasons)
    assert list(standing.problems()) == []


def test_the_command_prints_every_page_and_section_and_is_content() -> None:
    output = subprocess.run(
        [sys.executable, "-m", "tools.requirements"],
        cwd=Path(__file__).parents[1],
        capture_output=True,
        text=True,
    )
    assert (output.returncode, output.stderr) == (0, "")
    for section in read(SECTIONS.read_text()).values():
        assert section.page in output.stdout
        assert not section.musts or f"  {section.anchor} " in output.stdout
    for reason in read_reasons(NOT_APPLICABLE.read_text()).values():
        assert reason in output.stdout


def test_the_table_says_which_version_of_the_specification_it_counts() -> None:
    assert "167041bbc054173e2c008e66bf2f5f424a8f3fe2" in SECTIONS.read_text()


@each_row("text", read_reasons(NOT_APPLICABLE.read_text()).values())
def test_a_reason_is_a_sentence(text: str) -> None:
    assert len(text.split()) > 3


# Counting


def test_requirements_are_counted_by_section_and_named_as_in_links() -> None:
    assert list(sections_of("page.md", PAGE)) == [
        Section("page.md", "a-keyring", 3, 2),
        Section("page.md", "inputs", 0, 0),
        Section("page.md", "structure", 1, 0),
        Section("page.md", "structure-1", 1, 0),
        Section("page.md", "branch-key-version-20", 0, 0),
    ]


def test_pages_that_ask_for_nothing_are_left_out(tmp_path: Path) -> None:
    folder = tmp_path / "framework/aws-kms"
    folder.mkdir(parents=True)
    (folder / "b.md").write_text("# B\nMUST\n")
    (folder / "a.md").write_text("# A\nmay\n")
    (tmp_path / "framework/c.md").write_text("# C\nMUST\n## D\n")
    (tmp_path / "framework/test-vectors").mkdir()
    (tmp_path / "framework/test-vectors/d.md").write_text("# D\nMUST\n")
    assert [section.name for section in count(tmp_path)] == [
        "framework/c.md#c",
        "framework/c.md#d",
        "framework/aws-kms/b.md#b",
    ]


def test_the_table_is_read_as_it_was_written() -> None:
    sections = [Section("a.md", "one", 2, 1), Section("a.md", "two", 0, 0), Section("b/c.md", "one", 1, 0)]
    text = write(sections, "0123abc", "2026-02-27")
    assert read(text) == {section.name: section for section in sections}
    assert 'commit = "0123abc"\ndate = 2026-02-27\n' in text


def test_counting_anew_writes_the_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "framework").mkdir()
    (tmp_path / "framework/a.md").write_text("# A\nMUST NOT\n")
    table = tmp_path / "sections.toml"
    monkeypatch.setattr("tools.requirements.SECTIONS", table)
    assert main([str(tmp_path), "0123abc", "2026-02-27"]) == 0
    assert read(table.read_text()) == {"framework/a.md#a": Section("framework/a.md", "a", 1, 1)}
    assert 'commit = "0123abc"\ndate = 2026-02-27\n' in table.read_text()


# Markers

SOURCE = """
import pytest

@pytest.mark.anyio
@pytest.mark.spec("a.md#one", "a.md#two")
def test_one(): pass

@pytest.mark.spec("a.md#one")
async def test_two(): pass

@pytest.mark.parametrize("x", [pytest.param(1, marks=pytest.mark.spec("b.md#one"))])
def test_three(x): pass

def helper(): pass
"""


def test_markers_of_functions_and_of_single_parameters_count_once() -> None:
    assert sorted(markers(SOURCE)) == [("a.md#one", 1), ("a.md#one", 1), ("a.md#two", 1), ("b.md#one", 1)]


@pytest.mark.parametrize("value", ['pytest.mark.spec("c.md#one")', '[x, pytest.mark.spec("c.md#one")]'])
def test_a_marker_of_a_file_counts_for_all_its_tests(value: str) -> None:
    assert ("c.md#one", 3) in markers(f"{SOURCE}\npytestmark = {value}\n")


def test_a_marker_may_name_the_page_by_a_constant() -> None:
    for constant in ('PAGE = "a.md"', 'PAGE, OTHER = "a.md", "b.md"'):
        source = f'{constant}\n@pytest.mark.spec(f"{{PAGE}}#one", "a.md#two")\ndef test_one(): pass\n'
        assert list(markers(source)) == [("a.md#one", 1), ("a.md#two", 1)]


@pytest.mark.parametrize("argument", ["SECTION", "PAGE + '#one'", "name(1)", "f'{page()}#one'", "1"])
def test_a_marker_that_cannot_be_read_names_what_does_not_exist(argument: str) -> None:
    named = dict(markers(f'PAGE = "a.md"\npytest.mark.spec({argument})'))
    [problem] = Standing(TABLE, named, {"a.md": "because"}).problems()
    assert problem.startswith("tests name ")
    assert problem.endswith(", which does not exist")


def test_only_files_with_tests_are_searched(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep/test_a.py").write_text(SOURCE)
    (tmp_path / "test_b.py").write_text(SOURCE)
    (tmp_path / "support.py").write_text(SOURCE)
    assert named_by_tests(tmp_path) == {"a.md#one": 4, "a.md#two": 2, "b.md#one": 2}


# What is open

ONE, TWO, THREE = (Section("a.md", name, musts, 0) for name, musts in (("one", 2), ("two", 0), ("three", 1)))
TABLE = {section.name: section for section in (ONE, TWO, THREE)}


@pytest.mark.parametrize(
    ("named", "reasons", "expected"),
    [
        ({"a.md#one": 1, "a.md#three": 2}, {}, []),
        ({"a.md#one": 1, "a.md#two": 1, "a.md#three": 2}, {}, []),
        ({"a.md#one": 1}, {"a.md#three": "because"}, []),
        ({"a.md#one": 1}, {"a.md#one": "in part", "a.md#three": "because"}, []),
        ({}, {"a.md": "because"}, []),
        ({"a.md#one": 1}, {}, ["a.md#three has neither test nor reason"]),
        (
            {},
            {"a.md#one": ""},
            ["a.md#one has neither test nor reason", "a.md#three has neither test nor reason"],
        ),
        (
            {"a.md#four": 1, "b.md#one": 1},
            {"a.md": "because"},
            ["tests name a.md#four, which does not exist", "tests name b.md#one, which does not exist"],
        ),
        (
            {},
            {"a.md": "because", "a.md#two": "x", "b.md": "x"},
            [
                "a reason is given for a.md#two, where nothing is asked",
                "a reason is given for b.md, where nothing is asked",
            ],
        ),
    ],
)
def test_what_is_open_or_does_not_exist_is_named(
    named: dict[str, int], reasons: dict[str, str], expected: list[str]
) -> None:
    assert list(Standing(TABLE, named, reasons).problems()) == expected


def test_reasons_stand_for_sections_or_for_a_page() -> None:
    text = '["a.md"]\none = "because"\n["b.md"]\n"*" = "why"\n'
    assert read_reasons(text) == {"a.md#one": "because", "b.md": "why"}


def test_the_report_has_a_line_for_each_section_that_asks() -> None:
    standing = Standing(TABLE, {"a.md#one": 3}, {"a.md#one": "but for this", "a.md": "all else"})
    *table, asked, tested, excused = standing.report()
    assert [line.split() for line in table] == [
        ["a.md"],
        ["not", "applicable:", "all", "else"],
        ["one", "2", "MUST", "3", "tests"],
        ["in", "part", "not", "applicable:", "but", "for", "this"],
        ["three", "1", "MUST", "no", "tests"],
        [],
    ]
    assert asked == "asked: 3 MUSTs in 2 sections of 1 pages"
    assert tested == "tested: 2 MUSTs in 1 sections of 1 pages"
    assert excused == "not applicable: 1 MUSTs in 1 sections of 1 pages"


def test_what_forbids_is_counted_beside_it() -> None:
    section = Section("a.md", "one", 5, 2)
    [line] = [line for line in Standing({section.name: section}, {}, {}).report() if "MUST " in line]
    assert line.split() == ["one", "5", "MUST", "(2", "not)", "no", "tests"]


@pytest.mark.parametrize(
    ("reason", "code", "says"), [("because of this", 0, ""), ("", 1, "neither test nor reason")]
)
def test_the_command_fails_where_something_is_open(
    reason: str,
    code: int,
    says: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    sections = [Section("a.md", "one", 1, 0)]
    (tmp_path / "SECTIONS").write_text(write(sections, "0", "2026-02-27"))
    (tmp_path / "NOT_APPLICABLE").write_text(f'["a.md"]\none = "{reason}"')
    for name in ("SECTIONS", "NOT_APPLICABLE"):
        monkeypatch.setattr(f"tools.requirements.{name}", tmp_path / name)
    monkeypatch.setattr("tools.requirements.named_by_tests", dict)
    assert main([]) == code
    assert says in capsys.readouterr().err
