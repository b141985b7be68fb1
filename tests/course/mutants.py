"""Mutants of the course's own solutions: each has one operator, number, axis or word changed."""

import ast
import copy
import re
from collections.abc import Iterator
from functools import cache
from typing import Any

from desta_lab.course import notebooks

SWAPS: dict[type, list[type]] = {
    ast.Add: [ast.Sub],
    ast.Sub: [ast.Add],
    ast.Mult: [ast.Div],
    ast.Div: [ast.Mult, ast.FloorDiv],
    ast.Pow: [ast.Mult],
    ast.BitAnd: [ast.BitOr],
    ast.Lt: [ast.LtE, ast.Gt],
    ast.LtE: [ast.Lt, ast.Gt],
    ast.Gt: [ast.GtE, ast.Lt],
    ast.GtE: [ast.Gt, ast.Lt],
    ast.Eq: [ast.NotEq],
    ast.NotEq: [ast.Eq],
    ast.In: [ast.NotIn],
    ast.NotIn: [ast.In],
}
NAMES = {"mean": ["sum", "median"], "sum": ["mean"], "min": ["max"], "max": ["min"]}
NAMES |= {"any": ["all"], "all": ["any"], "log_softmax": ["softmax"], "ones": ["zeros"]}
NAMES |= {"round": ["int"], "int": ["round"], "std": ["var"], "sorted": ["list"], "pow": ["mul"]}


@cache
def read_solutions() -> dict[str, tuple[ast.FunctionDef, dict[str, Any]]]:
    """Exercise → its solution, and what its notebook has imported and defined."""
    found = {}
    for source in notebooks.find_sources():
        code = re.sub(r"^[%!].*$", "", source.read_text(encoding="utf-8"), flags=re.MULTILINE)
        names: dict[str, Any] = {}
        for node in ast.parse(code).body:
            if isinstance(node, ast.Import | ast.ImportFrom | ast.FunctionDef):
                exec(compile(ast.Module([node], []), source.name, "exec"), names)
        for name in re.findall(r'lesson\.check\("(\w+)"', code):
            cell = re.search(rf"^def {name}\(.*?### END SOLUTION", code, re.DOTALL | re.MULTILINE)
            assert cell is not None, name
            found[name] = (ast.parse(cell[0]).body[0], names)
    return found  # type: ignore[return-value]


def build(function: ast.FunctionDef, names: dict[str, Any]) -> Any:
    """The function that a tree says, among the names of its notebook."""
    module = ast.fix_missing_locations(ast.Module([function], []))
    own = dict(names)
    exec(compile(module, "<mutant>", "exec"), own)
    return own[function.name]


def mutate(function: ast.FunctionDef) -> Iterator[tuple[str, ast.FunctionDef]]:
    """Every mutant of a function once, with the changed line: "before → after"."""
    seen = {ast.unparse(function)}
    for index, node in enumerate(ast.walk(function)):
        for field, value in _changes(node):
            mutant = copy.deepcopy(function)
            changed = list(ast.walk(mutant))[index]
            setattr(changed, field, value)
            text = ast.unparse(ast.fix_missing_locations(mutant))
            if text not in seen:
                seen.add(text)
                yield _difference(ast.unparse(function), text), mutant


def _difference(before: str, after: str) -> str:
    lines, others = before.splitlines(), after.splitlines()
    gone = [line.strip() for line in lines if line not in others]
    new = [line.strip() for line in others if line not in lines]
    return f"{' ; '.join(gone)} → {' ; '.join(new) or 'nothing'}"


def _changes(node: ast.AST) -> Iterator[tuple[str, Any]]:
    """The fields of a node that can be changed, with what they become."""
    match node:
        case ast.BinOp(op=op):
            yield from (("op", other()) for other in SWAPS.get(type(op), []))
        case ast.Compare(ops=[op, *rest]):
            yield from (("ops", [other(), *rest]) for other in SWAPS.get(type(op), []))
            for i, other in enumerate(rest):
                for kind in SWAPS.get(type(other), []):
                    yield "ops", [op, *rest[:i], kind(), *rest[i + 1 :]]
        case ast.UnaryOp(op=ast.USub()):
            yield "op", ast.UAdd()
        case ast.UnaryOp(op=ast.Invert()):
            yield "op", ast.UAdd()
        case ast.Constant(value=bool(value)):
            yield "value", not value
        case ast.Constant(value=int(value)):
            yield from (("value", value + step) for step in (1, -1))
        case ast.Constant(value=float(value)):
            yield from (("value", value * factor) for factor in (1.1, 0.9))
        case ast.Constant(value=str(value)) if value:
            yield "value", value + "x"
        case ast.Attribute(attr=name) if name in NAMES:
            yield from (("attr", other) for other in NAMES[name])
        case ast.Name(id=name) if name in NAMES:
            yield from (("id", other) for other in NAMES[name])
        case ast.Slice(lower=lower, upper=upper):
            yield from (("lower", None) for _ in [lower] if lower is not None)
            yield from (("upper", None) for _ in [upper] if upper is not None)
    yield from _omissions(node)


def _omissions(node: ast.AST) -> Iterator[tuple[str, Any]]:
    """Arguments, calls and statements that can be left out."""
    if isinstance(node, ast.Call):
        for i, _ in enumerate(node.keywords):
            yield "keywords", node.keywords[:i] + node.keywords[i + 1 :]
        if len(node.args) == 1 and isinstance(node.func, ast.Attribute):
            yield "args", []
    for field, value in ast.iter_fields(node):
        if isinstance(value, ast.Call) and isinstance(value.func, ast.Attribute):
            yield field, value.func.value  # x.copy() → x
        if field == "body" and isinstance(value, list) and len(value) > 1:
            for i, one in enumerate(value):
                if isinstance(one, ast.Expr | ast.Assign | ast.AugAssign | ast.If):
                    yield field, value[:i] + value[i + 1 :]
