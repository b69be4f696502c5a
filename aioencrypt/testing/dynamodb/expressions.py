"""Parse DynamoDB condition expressions and evaluate them on an item.

Supported are `attribute_exists`, `attribute_not_exists`, `begins_with`, comparisons, AND, OR, NOT and
parentheses, over top-level attributes of the item. Everything else is a ValidationException.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Mapping
from decimal import Decimal
from typing import Any

from aioencrypt.testing.kms.errors import Refusal

Item = Mapping[str, Mapping[str, Any]]
Condition = Callable[[Item], bool]
_Operand = Callable[[Item], "Mapping[str, Any] | None"]

_TOKEN = re.compile(r"\s*(#?[A-Za-z_][A-Za-z0-9_]*|#[A-Za-z0-9_]+|:[A-Za-z0-9_]+|<>|<=|>=|[=<>(),])")
_COMPARISONS: dict[str, Callable[[Any, Any], bool]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
_WORDS = ("AND", "OR", "NOT")


def parse_condition(
    what: str, text: str, names: Mapping[str, str] | None, values: Mapping[str, Any] | None
) -> Condition:
    """Parse a condition expression.

    `what` is the name of the parameter. Raises a refusal (ValidationException) for expressions that AWS
    rejects, and for names and values that the expression does not use.
    """
    return _Parser(what, text, names or {}, values or {}).parse()


class _Parser:
    def __init__(self, what: str, text: str, names: Mapping[str, str], values: Mapping[str, Any]) -> None:
        self._what = what
        self._names = names
        self._values = values
        self._unused = {*names, *values}
        self._tokens = self._tokenized(text)

    def parse(self) -> Condition:
        condition = self._either()
        if self._tokens:
            raise self._syntax_error()
        if self._unused:
            unused = ", ".join(sorted(self._unused))
            kind = "Values" if unused.startswith(":") else "Names"
            raise Refusal(
                "ValidationException",
                f"Value provided in ExpressionAttribute{kind} unused in expressions: keys: {{{unused}}}",
            )
        return condition

    def _tokenized(self, text: str) -> list[str]:
        """Return the tokens, the last one first."""
        tokens: list[str] = []
        position, text = 0, text.rstrip()
        while position < len(text):
            match = _TOKEN.match(text, position)
            if match is None:
                tokens = [text[position:].strip()[:1]]
                raise self._syntax_error(tokens)
            tokens.append(match[1])
            position = match.end()
        return tokens[::-1]

    def _syntax_error(self, tokens: list[str] | None = None) -> Refusal:
        token = [*(tokens or self._tokens or ["<EOF>"])][-1]
        return Refusal(
            "ValidationException", f"Invalid {self._what}: Syntax error; token: {token!r}".replace("'", '"')
        )

    def _next(self) -> str:
        if not self._tokens:
            raise self._syntax_error()
        return self._tokens.pop()

    def _accept(self, *words: str) -> str | None:
        if self._tokens and self._tokens[-1].upper() in words:
            return self._tokens.pop()
        return None

    def _expect(self, word: str) -> None:
        if self._accept(word) is None:
            raise self._syntax_error()

    def _either(self) -> Condition:
        conditions = [self._both()]
        while self._accept("OR"):
            conditions.append(self._both())
        return lambda item: any(condition(item) for condition in conditions)

    def _both(self) -> Condition:
        conditions = [self._negation()]
        while self._accept("AND"):
            conditions.append(self._negation())
        return lambda item: all(condition(item) for condition in conditions)

    def _negation(self) -> Condition:
        if self._accept("NOT"):
            condition = self._negation()
            return lambda item: not condition(item)
        if self._accept("("):
            condition = self._either()
            self._expect(")")
            return condition
        if len(self._tokens) > 1 and self._tokens[-2] == "(":
            return self._function(self._next())
        return self._comparison()

    def _function(self, name: str) -> Condition:
        self._expect("(")
        left = self._operand()
        if name == "begins_with":
            self._expect(",")
            right = self._operand()
            self._expect(")")
            return lambda item: _begins_with(left(item), right(item))
        self._expect(")")
        if name == "attribute_exists":
            return lambda item: left(item) is not None
        if name == "attribute_not_exists":
            return lambda item: left(item) is None
        raise Refusal("ValidationException", f"Invalid {self._what}: Invalid function name; function: {name}")

    def _comparison(self) -> Condition:
        left = self._operand()
        sign = self._next()
        if sign == "=":
            right = self._operand()
            return lambda item: _equal(left(item), right(item))
        if sign == "<>":
            right = self._operand()
            return lambda item: not _equal(left(item), right(item))
        if sign not in _COMPARISONS:
            raise self._syntax_error([sign])
        compare, right = _COMPARISONS[sign], self._operand()
        return lambda item: _ordered(compare, left(item), right(item))

    def _operand(self) -> _Operand:
        token = self._next()
        if token.startswith(":"):
            if token not in self._values:
                raise self._undefined("value", token)
            self._unused.discard(token)
            value = self._values[token]
            return lambda item: value
        if token.startswith("#"):
            if token not in self._names:
                raise self._undefined("name", token)
            self._unused.discard(token)
            token = self._names[token]
        elif not token[0].isalpha() or token.upper() in _WORDS:
            raise self._syntax_error([token])
        return lambda item: item.get(token)

    def _undefined(self, kind: str, token: str) -> Refusal:
        return Refusal(
            "ValidationException",
            f"Invalid {self._what}: An expression attribute {kind} used in the document path is not defined; "
            f"attribute {kind}: {token}",
        )


def _content(value: Mapping[str, Any]) -> tuple[str, Any]:
    ((kind, content),) = value.items()
    return kind, Decimal(content) if kind == "N" else content


def _equal(left: Mapping[str, Any] | None, right: Mapping[str, Any] | None) -> bool:
    return left is not None and right is not None and _content(left) == _content(right)


def _ordered(
    compare: Callable[[Any, Any], bool], left: Mapping[str, Any] | None, right: Mapping[str, Any] | None
) -> bool:
    if left is None or right is None:
        return False
    (left_kind, left_content), (right_kind, right_content) = _content(left), _content(right)
    if left_kind != right_kind or left_kind not in ("S", "N", "B"):
        return False
    if left_kind == "S":
        left_content, right_content = left_content.encode(), right_content.encode()
    return compare(left_content, right_content)


def _begins_with(left: Mapping[str, Any] | None, right: Mapping[str, Any] | None) -> bool:
    if left is None or right is None:
        return False
    (left_kind, left_content), (right_kind, right_content) = _content(left), _content(right)
    return left_kind == right_kind and left_kind in ("S", "B") and left_content.startswith(right_content)
