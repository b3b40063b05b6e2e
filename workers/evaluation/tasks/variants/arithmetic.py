"""Small arithmetic of a template's slots, read as a syntax tree and never executed as Python."""

from __future__ import annotations

import ast
import math
import operator
from collections.abc import Callable, Mapping

Number = int | float

_BINARY: Mapping[type[ast.operator], Callable[[Number, Number], Number]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.Pow: operator.pow,
}
_FUNCTIONS: Mapping[str, Callable[..., Number]] = {"min": min, "max": max, "abs": abs, "round": round}
_LONGEST, _MOST, _HIGHEST_POWER = 200, 1e15, 16
"""Characters of an expression, size of any number on the way, and exponent: no answer of a question is beyond them, and
without them one line of a file could keep a process busy for ever."""


class NoNumber(ValueError):
    """An expression has no finite value of a sensible size at these numbers."""


def names_in(expression: str) -> set[str]:
    """The slots that an expression speaks of. Raises ValueError where it is not arithmetic."""
    tree = _parsed(expression)
    called = {id(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
    return {node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and id(node) not in called}


def evaluate(expression: str, values: Mapping[str, Number]) -> Number:
    """The value of an expression: + - * / // % **, parentheses, min, max, abs, round. Raises NoNumber where it has none
    at these values, ValueError for anything else in it."""
    try:
        return _value(_parsed(expression).body, values)
    except (ZeroDivisionError, OverflowError, TypeError) as error:
        raise NoNumber(f"{expression!r}: {error}") from None


def number_text(value: Number) -> str:
    """A number as an answer has it: whole ones without a point, others to ten digits."""
    return str(int(value)) if value == int(value) else f"{value:.10g}"


def _parsed(expression: str) -> ast.Expression:
    if len(expression) > _LONGEST:
        raise ValueError(f"an expression of {len(expression)} characters; at most {_LONGEST}")
    try:
        tree = ast.parse(expression.strip(), mode="eval")
    except (SyntaxError, MemoryError, RecursionError):
        raise ValueError(f"{expression!r} is no arithmetic expression") from None
    for node in ast.walk(tree):
        if not isinstance(node, _KNOWN) or (isinstance(node, ast.Constant) and type(node.value) not in (int, float)):
            raise ValueError(
                f"{expression!r}: {type(node).__name__} is no arithmetic; use + - * / // % ** and {_CALLS}"
            )
        if isinstance(node, ast.Call) and not (_called(node) in _FUNCTIONS and node.args and not node.keywords):
            raise ValueError(f"{expression!r} calls something other than {_CALLS}")
    return tree


_CALLS = ", ".join(_FUNCTIONS)
_KNOWN = (ast.Expression, ast.BinOp, ast.UnaryOp, ast.USub, ast.Call, ast.Name, ast.Load, ast.Constant, *_BINARY)


def _called(node: ast.Call) -> str:
    return node.func.id if isinstance(node.func, ast.Name) else ""


def _value(node: ast.expr, values: Mapping[str, Number]) -> Number:
    result: Number
    match node:
        case ast.Constant(value=int() | float() as result):
            pass
        case ast.Name(id=name) if name in values:
            result = values[name]
        case ast.UnaryOp(operand=operand):
            result = -_value(operand, values)
        case ast.BinOp(left=left, op=op, right=right):
            a, b = _value(left, values), _value(right, values)
            if isinstance(op, ast.Pow) and abs(b) > _HIGHEST_POWER:
                raise NoNumber(f"an exponent of {b}; at most {_HIGHEST_POWER}")
            result = _BINARY[type(op)](a, b)
        case ast.Call(args=args):
            result = _FUNCTIONS[_called(node)](*(_value(a, values) for a in args))
        case _:
            raise ValueError(f"{ast.unparse(node)} is no slot with numbers")
    if isinstance(result, complex) or not math.isfinite(result) or abs(result) > _MOST:
        raise NoNumber(f"{ast.unparse(node)} is {result}, which is no answer")
    return result
