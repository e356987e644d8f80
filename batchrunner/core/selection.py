"""Which lines of the input a run is about: a condition on the line, and a piece of the whole.

Rules:

1. A condition is a comparison in Python's own spelling, over the fields of the line: `body.model == "x" and line > 100`. It is
   parsed, never evaluated as code: names, constants, comparisons, and, or, not; nothing can be called.
2. A field that is not there is null, and values that cannot be compared do not fit: a condition never fails on a line.
   But a name that no line has is a mistake (`names_of`): of `line`, or of a text without its quotation marks.
3. A line belongs to one piece by its id alone, so that lines may be added and moved between runs.
"""

import ast
import operator
import re
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any
from zlib import crc32

Fields = Mapping[str, Any]
Read = Callable[[Fields], Any]
LINE = "line"  # the number of a line, beside its own fields
_WORDS = {"true": True, "false": False, "null": None}
_COMPARED: Mapping[type[ast.cmpop], Callable[[Any, Any], bool]] = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.In: lambda value, within: value in within,
    ast.NotIn: lambda value, within: value not in within,
    ast.Is: operator.eq,
    ast.IsNot: operator.ne,
}
_DEEP = 50  # levels of a condition


@lru_cache(maxsize=64)
def condition(text: str) -> Callable[[Fields], bool] | None:
    """What a condition says of the fields of a line; None for "". ValueError with the end of a sentence: it is none."""
    if not text.strip():
        return None
    try:
        tree = ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        equals = "; to compare, write ==" if re.search(r"(?<![=!<>])=(?!=)", text) else ""
        raise ValueError(f"is no condition{equals}") from None
    read = _compiled(tree, _DEEP)
    return lambda fields: bool(read(fields))


@lru_cache(maxsize=64)
def names_of(text: str) -> frozenset[str]:
    """The fields at the top of a line that a condition names; `line` itself is none."""
    nodes = ast.walk(ast.parse(text.strip(), mode="eval")) if text.strip() else ()
    return frozenset(node.id for node in nodes if isinstance(node, ast.Name)) - {*_WORDS, LINE}


def _compiled(node: ast.expr, deep: int) -> Read:
    compile_ = _COMPILERS.get(type(node))
    if compile_ is None or not deep:
        raise ValueError(f"may not hold {ast.unparse(node)[:40] if deep else 'so much in one another'}")
    return compile_(node, deep - 1)


def _constant(node: Any, _deep: int) -> Read:
    value = node.value
    return lambda fields: value


def _name(node: Any, _deep: int) -> Read:
    name = node.id
    if name in _WORDS:
        return lambda fields: _WORDS[name]
    return lambda fields: fields.get(name)


def _attribute(node: Any, deep: int) -> Read:
    return _step(_compiled(node.value, deep), node.attr)


def _subscript(node: Any, deep: int) -> Read:
    key = node.slice.operand if isinstance(node.slice, ast.UnaryOp) and isinstance(node.slice.op, ast.USub) else node.slice
    if not isinstance(key, ast.Constant) or not isinstance(key.value, int | str):
        raise ValueError("takes a number or a text in brackets")
    value = -key.value if key is not node.slice and isinstance(key.value, int) else key.value
    return _step(_compiled(node.value, deep), value)


def _step(whole: Read, key: str | int) -> Read:
    def read(fields: Fields) -> Any:
        try:
            return whole(fields)[key]
        except (LookupError, TypeError):
            return None

    return read


def _compare(node: Any, deep: int) -> Read:
    reads = [_compiled(each, deep) for each in (node.left, *node.comparators)]
    steps = list(zip(reads, map(_COMPARED.__getitem__, map(type, node.ops)), reads[1:], strict=False))

    def read(fields: Fields) -> bool:
        try:
            return all(compared(left(fields), right(fields)) for left, compared, right in steps)
        except TypeError:
            return False

    return read


def _both(node: Any, deep: int) -> Read:
    parts, together = [_compiled(each, deep) for each in node.values], all if isinstance(node.op, ast.And) else any
    return lambda fields: together(part(fields) for part in parts)


def _unary(node: Any, deep: int) -> Read:
    part = _compiled(node.operand, deep)
    if isinstance(node.op, ast.Not):
        return lambda fields: not part(fields)
    if isinstance(node.op, ast.USub) and isinstance(node.operand, ast.Constant) and isinstance(node.operand.value, int | float):
        return lambda fields: -part(fields)
    raise ValueError(f"may not hold {ast.unparse(node)[:40]}")


def _list(node: Any, deep: int) -> Read:
    parts = [_compiled(each, deep) for each in node.elts]
    return lambda fields: [part(fields) for part in parts]


_COMPILERS: Mapping[type[ast.expr], Callable[[Any, int], Read]] = {
    ast.Constant: _constant,
    ast.Name: _name,
    ast.Attribute: _attribute,
    ast.Subscript: _subscript,
    ast.Compare: _compare,
    ast.BoolOp: _both,
    ast.UnaryOp: _unary,
    ast.List: _list,
    ast.Tuple: _list,
}


# ---- pieces ----


_PIECE = re.compile(r"([0-9]{1,6})/([0-9]{1,6})")


@lru_cache(maxsize=64)
def piece(text: str) -> tuple[int, int] | None:
    """`"3/8"` as (3, 8): the third of eight; None for "". ValueError with the end of a sentence: it is none."""
    if not text or text.partition("/")[0] == "auto":
        return None
    found = _PIECE.fullmatch(text)
    if not found:
        raise ValueError("is not I/N, such as 3/8 for the third of eight")
    index, count = int(found[1]), int(found[2])
    if not 1 <= index <= count:
        raise ValueError(f"is no piece: they are 1/{count} to {count}/{count}")
    return index, count


def array_piece(text: str, environ: Mapping[str, str]) -> str:
    """`auto` or `auto/N` as the piece of this task of a Slurm array or an indexed Kubernetes job; any other text as it is.

    Sources: slurm.schedmd.com/job_array.html; kubernetes.io, Indexed Job. Kubernetes does not tell a task how many there are.
    """
    named, _, count = text.partition("/")
    if named != "auto":
        return text
    if task := environ.get("SLURM_ARRAY_TASK_ID"):
        first, step = int(environ.get("SLURM_ARRAY_TASK_MIN") or 0), int(environ.get("SLURM_ARRAY_TASK_STEP") or 1)
        count = count or environ.get("SLURM_ARRAY_TASK_COUNT", "")
        index = (int(task) - first) // step
    elif task := environ.get("JOB_COMPLETION_INDEX"):
        index = int(task)
    else:
        raise ValueError("knows neither SLURM_ARRAY_TASK_ID nor JOB_COMPLETION_INDEX")
    if not count:
        raise ValueError(f"does not know how many pieces there are; say it: {named}/8")
    return f"{index + 1}/{count}"


def belongs(name: str, piece: tuple[int, int]) -> bool:
    """Whether the line with this id is of this piece."""
    index, count = piece
    return crc32(name.encode("utf-8", "surrogatepass")) % count == index - 1
