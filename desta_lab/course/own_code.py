"""A student's own cell: what it defines, uses and touches, read from its code, which does not run.

The code is read as Python (ast), so comments and texts are no offence. What is found says where a
person should look; code that means to deceive its judge has ways that no list holds.
"""

import ast
import re
import symtable
from collections.abc import Collection, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache

from IPython.core.inputtransformer2 import TransformerManager


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


# What no exercise needs: names wherever they stand, alone, behind a dot, imported or as a text.
NAMES = _words("""
    checks pieces load_checks judge Judgement _CHECKS _known _before _states builtins linecache
    _getframe _current_frames currentframe f_back f_locals f_globals f_builtins f_code tb_frame
    gi_frame cr_frame ag_frame settrace setprofile displayhook meta_path get_ipython user_ns
    input_transformers_post input_transformers_cleanup input_transformer_manager ast_transformers
    environ environb getenv putenv _exit popen read_text read_bytes write_text write_bytes
""")
# The same, but not behind a dot, where torch has an eval and a compile of its own.
BUILT_IN = _words("exec eval compile open globals locals vars setattr delattr breakpoint")
DOTTED = _words("sys.modules os.system desta_lab.course")
MODULES = _words("""
    ast atexit builtins codeop ctypes dis gc importlib inspect ipykernel linecache marshal mock
    multiprocessing pickle pkgutil runpy shutil signal socket subprocess tokenize traceback unittest
""")
KEPT = _words("lesson desta_lab")  # names that stay the course's
USED = _words("check use")  # of a lesson, which nobody replaces
SHARED = KEPT | _words("np numpy torch pd pandas math audio os sys")  # with the checks
PLAIN = _words("""
    __init__ __call__ __len__ __getitem__ __iter__ __next__ __repr__ __str__ __enter__ __exit__
    __name__ __version__ __doc__ __post_init__
""")
MAGICS = _words("run_line_magic run_cell_magic")
RUNNING = _words("time timeit prun capture")  # magics that run what follows
QUIET = _words("matplotlib pinfo pinfo2")  # magics that run nothing
UNREADABLE = (SyntaxError, ValueError, MemoryError)  # then it is no Python for the kernel, too
OPTIONS = re.compile(r"^\s*(?:-\w+\s*(?:\d+\s*)?)*")


@dataclass(frozen=True)
class OwnCode:
    """What a cell defines and uses at its top, and what it touches that no exercise needs."""

    defines: frozenset[str] = frozenset()
    uses: frozenset[str] = frozenset()
    touches: frozenset[str] = frozenset()


def read_own(code: str, theirs: Collection[str] = ()) -> OwnCode:
    """Read a cell.

    Args:
        theirs: the course's statements, as `list_statements` gives them; a statement of a student
            that is one of these touches nothing.
    """
    try:
        parts = _list_parts(code)
        symbols = [one for part in parts for one in _list_symbols(part)]
        defines = frozenset(name for name, given, _ in symbols if given)
        bodies = [one for part in parts for one in ast.parse(part).body]
        own = [one for one in bodies if _look_behind(one) is None and ast.dump(one) not in theirs]
        touches = {word for one in own for word in _judge_statement(one)}
        uses = frozenset(name for name, _, used in symbols if used)
        return OwnCode(defines, uses, frozenset(touches))
    except UNREADABLE:
        return OwnCode()
    except RecursionError:
        return OwnCode(touches=frozenset(["code too deep to read"]))


def list_statements(code: str) -> set[str]:
    """The statements of a cell of the course, in a form that does not depend on their layout."""
    return {ast.dump(one) for part in _list_parts(code) for one in ast.parse(part).body}


@lru_cache(1024)  # a magic may stand behind a magic, and each is asked twice
def _list_parts(code: str) -> tuple[str, ...]:
    """A cell's Python, and that behind its magics."""
    python = TransformerManager().transform_cell(code)
    behind = [part for one in ast.parse(python).body for part in _look_behind(one) or []]
    return (python, *(inner for part in behind for inner in _list_parts(part)))


def _look_behind(statement: ast.stmt) -> list[str] | None:
    """The code that a harmless magic runs; None where the statement is no such magic."""
    match statement:
        case ast.Expr(
            ast.Call(
                ast.Attribute(ast.Call(ast.Name("get_ipython")), magic),
                [ast.Constant(str(name)), ast.Constant(str(line)), *rest],
            )
        ) if magic in MAGICS and not set("{$") & set(line):  # IPython computes what is in these
            if name in QUIET:
                return []
            parts = [OPTIONS.sub("", line)]
            parts += [str(one.value) for one in rest if isinstance(one, ast.Constant)]
            with suppress(*UNREADABLE):  # else what ran before it would go unread
                if name in RUNNING and all(map(_list_parts, parts)):
                    return parts
    return None


def _list_symbols(python: str) -> Iterator[tuple[str, bool, bool]]:
    """Name, whether the top of this code gives it a value, and whether it is read from there."""
    with suppress(SyntaxError):  # of a statement; the kernel runs those before it
        top = symtable.symtable(python, "cell", "exec")
        tables = [top]
        for table in tables:
            tables += table.get_children()
            for one in table.get_symbols():
                given = table is top and (one.is_assigned() or one.is_imported())
                yield one.get_name(), given, one.is_global() and one.is_referenced()


def _is_odd(name: str) -> bool:
    hidden = name.startswith("__") and name.endswith("__") and name not in PLAIN
    return name in NAMES or hidden


def _judge_statement(statement: ast.stmt) -> Iterator[str]:
    inner = _list_inner(statement)
    for node in ast.walk(statement):
        match node:
            case ast.Name(name) | ast.FunctionDef(name) if name in inner:
                continue
        yield from _judge_node(node)


def _list_inner(statement: ast.stmt) -> set[str]:
    """The names that stand for a function's own variable wherever they stand in a statement."""
    inner, outer = set[str](), set[str]()
    try:
        tables = [symtable.symtable(ast.unparse(statement), "cell", "exec")]
    except SyntaxError:  # such as a return that stands in no function
        return inner
    for table in tables:
        tables += table.get_children()
        for one in table.get_symbols():
            own = table.get_type() == "function" and not one.is_global()
            (inner if own else outer).add(one.get_name())
    return inner - outer


def _judge_node(node: ast.AST) -> Iterator[str]:
    """The words for what a piece of code touches."""
    match node:
        case ast.Name(name):
            rebound = name in KEPT and isinstance(node.ctx, ast.Store)
            if _is_odd(name) or name in BUILT_IN or rebound:
                yield name
        case ast.Attribute(value, name):
            root = value.id if isinstance(value, ast.Name) else ""
            whole = f"{root}.{name}"
            kind = name == "__class__" and isinstance(node.ctx, ast.Load)  # as type(…) says it
            if (_is_odd(name) and not kind) or whole in DOTTED:
                yield whole
            elif isinstance(node.ctx, ast.Store) and (name in USED or root in SHARED):
                yield f"{whole} ="
        case ast.FunctionDef(name) | ast.AsyncFunctionDef(name) | ast.ClassDef(name):
            if _is_odd(name) or name in KEPT:
                yield name
        case ast.alias(_, str(name)) if name in KEPT:
            yield name
        case ast.Import(names):
            yield from (one.name for one in names if _is_odd_module(one.name))
        case ast.ImportFrom("__future__") | ast.Constant("__main__"):
            return
        case ast.ImportFrom(module, names):
            wholes = [f"{module or ''}.{one.name}" for one in names]
            yield from (one for one in wholes if _is_odd_module(one))
        case ast.Call(ast.Name("getattr"), [_, name, *_]):
            if not isinstance(name, ast.Constant):
                yield "getattr"
            elif name.value in BUILT_IN:
                yield str(name.value)
        case ast.Constant(str(text)) if _is_odd(text) or text.startswith("DESTA_LAB_"):
            yield repr(text)


def _is_odd_module(whole: str) -> bool:
    """Whether an import brings what no exercise needs; `whole` is module.name, or a module."""
    parts = whole.split(".")
    inside = any(".".join(parts[: i + 1]) in DOTTED for i in range(len(parts)))
    shell = parts[0] == "IPython" and parts[1:2] != ["display"]
    return inside or shell or parts[0] in MODULES or any(map(_is_odd, parts))
