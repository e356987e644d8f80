"""The plan of the house holds: who may import whom, how long things are, what words are used."""

import ast
import re
import statistics
from collections.abc import Iterator
from pathlib import Path

import pytest

import batchrunner

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "batchrunner"
MODULES = sorted(path for path in PACKAGE.rglob("*.py"))
FORBIDDEN_IN_CORE = {"asyncio", "aiohttp", "time", "random", "os", "pathlib", "logging", "tqdm", "uvloop", "socket", "threading"}
FORBIDDEN_WORDS = {
    "manager",
    "handler",
    "helper",
    "helpers",
    "util",
    "utils",
    "processor",
    "tracker",
    "common",
    "base",
    "data",
    "info",
}
TOP_LEVEL = {
    "pyproject.toml",
    "README.md",
    "README.zh.md",
    "batchrunner",
    "jobs",
    "tests",
    "scripts",
    "LICENSE",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "llms.txt",
}
ASYNCIO_NAMES = {"data_received"}  # asyncio.Protocol gave it


def name_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports_of(path: Path) -> Iterator[str]:
    """Modules of ours and of others that this one imports, wherever in the file."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            module = node.module or ""
            yield module
            yield from (f"{module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


GRAPH = {name_of(path): {module for module in imports_of(path) if module in {name_of(p) for p in MODULES}} for path in MODULES}


def functions(path: Path) -> Iterator[tuple[str, int]]:
    """Each function with the lines of its body, docstring excepted."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            body = node.body[1:] if ast.get_docstring(node) else node.body
            if body:
                yield f"{path.name}:{node.name}", (node.end_lineno or 0) - body[0].lineno + 1


@pytest.mark.parametrize("path", [path for path in MODULES if "core" in path.parts], ids=name_of)
def test_core_touches_no_clock_chance_file_or_socket(path: Path) -> None:
    roots = {module.split(".")[0] for module in imports_of(path)}
    assert not roots & FORBIDDEN_IN_CORE
    assert all(
        module.startswith(("batchrunner.core", "batchrunner.errors"))
        for module in imports_of(path)
        if module.startswith("batchrunner.")
    )


def test_no_import_circle() -> None:
    def reaches(start: str, target: str, seen: set[str]) -> bool:
        return any(
            after == target or (after not in seen and not seen.add(after) and reaches(after, target, seen))  # type: ignore[func-returns-value]
            for after in GRAPH[start]
            if after != "batchrunner"
        )

    circles = [name for name in GRAPH if name != "batchrunner" and reaches(name, name, set())]
    assert not circles


def test_only_the_wiring_knows_every_room() -> None:
    """engine, source, transport, journal, listeners do not know one another: batch introduces them."""
    shell = {"engine", "source", "transport", "journal", "resume", "meter", "progress", "simulator", "crew"}
    for room in shell:
        ours = {module.removeprefix("batchrunner.") for module in GRAPH[f"batchrunner.{room}"]}
        assert not (ours & shell) - KNOWS.get(room, set()), room


# What one shell room may know of another, with the reason.
KNOWS = {
    "progress": {"meter"},  # draws a snapshot of it
}


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_every_room_opens_with_its_rules(path: Path) -> None:
    assert ast.get_docstring(ast.parse(path.read_text()))


def test_bodies_are_short() -> None:
    sizes = {name: size for path in MODULES for name, size in functions(path)}
    assert statistics.median(sizes.values()) <= 8
    assert {name: size for name, size in sizes.items() if size > 60} == {}
    assert sorted(sizes.values())[int(len(sizes) * 0.95)] <= 40


def test_names_are_of_the_field() -> None:
    for path in MODULES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                if node.name in ASYNCIO_NAMES:
                    continue
                words = set(re.findall(r"[A-Z]?[a-z]+", node.name.replace("_", " ")))
                assert not {word.lower() for word in words} & FORBIDDEN_WORDS, f"{path.name}: {node.name}"
        assert not set(path.stem.split("_")) & FORBIDDEN_WORDS


def test_whoever_looks_for_a_room_finds_it_once() -> None:
    """CONTRIBUTING's "Where is …?" leads to every room, and to no other."""
    tables = (ROOT / "CONTRIBUTING.md").read_text().partition("## Where is")[2].partition("\n## ")[0]
    named = re.findall(r"`([a-z_/]+\.py)`", "\n".join(line for line in tables.splitlines() if line.startswith("|")))
    assert sorted(named) == sorted(path.relative_to(PACKAGE).as_posix() for path in MODULES if "__" not in path.name)


def test_the_public_surface_is_small() -> None:
    assert len(batchrunner.__all__) <= 14
    assert sorted(batchrunner.__all__) == sorted(set(batchrunner.__all__))
    assert all(hasattr(batchrunner, name) for name in batchrunner.__all__)


def test_the_top_level_is_what_the_design_says() -> None:
    visible = {path.name for path in ROOT.iterdir() if not path.name.startswith(".")}
    ignored = {"build", "dist", "batchrunner.egg-info", "__pycache__", "uv.lock"}
    assert visible - ignored <= TOP_LEVEL


def test_scripts_are_short() -> None:
    for script in (ROOT / "scripts").iterdir():
        assert len(script.read_text().splitlines()) <= 20, script.name
