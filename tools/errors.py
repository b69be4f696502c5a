"""Print the text of every error that the package raises, for proofreading: ``python -m tools.errors``.

Each line shows the place, the class and the text of one error. Braces hold expressions.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

PACKAGE = Path(__file__).parents[1] / "aioencrypt"


def text_of(node: ast.AST) -> str:
    """Return the text of an expression, as far as it is written in the source."""
    match node:
        case ast.Constant(value=str(text)):
            return text
        case ast.JoinedStr(values=values):
            return "".join(map(text_of, values))
        case ast.FormattedValue(value=value):
            return f"{{{ast.unparse(value)}}}"
        case ast.BinOp(op=ast.Add(), left=left, right=right):
            return text_of(left) + text_of(right)
        case ast.IfExp(body=body, orelse=orelse):
            return f"({text_of(body)}|{text_of(orelse)})"
        case _:
            return f"{{{ast.unparse(node)}}}"


def errors_of(tree: ast.AST) -> Iterator[tuple[int, str, str]]:
    """Yield line, class and text of each error that is made in a module."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and (name := ast.unparse(node.func)).endswith("Error") and node.args:
            yield node.lineno, name, "; ".join(map(text_of, node.args[:1]))


def main() -> None:
    """Print the list."""
    for path in sorted(PACKAGE.rglob("*.py")):
        for line, name, text in sorted(errors_of(ast.parse(path.read_text()))):
            sys.stdout.write(f"{path.relative_to(PACKAGE)}:{line}: {name}: {text}\n")


if __name__ == "__main__":
    main()
