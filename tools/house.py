"""The rules of the house that no linter knows. ``python tools/house.py [ROOT]`` names every breach.

    length       a file of the package or of the tests has at most 500 lines
    body         a function's body has at most 60 lines, its docstring apart (not in benchmarks
                 and jobs, whose main functions are lists of steps)
    late import  only the command line imports rooms inside functions
    kind         only kinds/ tells kinds of jobs apart: by isinstance, match, comparison or a table
    circle       no module imports another that imports it again

`make lint` runs it. Which room may import which is said in ``.importlinter``.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

MOST_LINES = 500
MOST_BODY = 60
PACKAGE = "wna_ray"
FOLDERS = (PACKAGE, "tests", "benchmarks", "tools", "jobs", "examples")
LENGTH_FOLDERS = (PACKAGE, "tests")
BODY_FOLDERS = (PACKAGE, "tests", "tools", "examples")


def breaches(root: Path) -> Iterator[str]:
    """Every breach of a rule, as ``path:line: rule: what``."""
    kinds = kind_words(root)
    trees = dict(parsed(root))
    for path, tree in trees.items():
        inside = path.parts[0] == PACKAGE
        if path.parts[0] in LENGTH_FOLDERS:
            yield from long_file(root, path)
        if path.parts[0] in BODY_FOLDERS:
            yield from long_bodies(path, tree)
        if inside and path.parts[1] != "cli":
            yield from late_imports(path, tree)
        if inside and path.parts[1] != "kinds":
            yield from told_apart(path, tree, kinds)
    yield from circles(trees)


def parsed(root: Path) -> Iterator[tuple[Path, ast.Module]]:
    """Path (from the root) and syntax tree of each Python file."""
    for folder in FOLDERS:
        for path in sorted((root / folder).rglob("*.py")):
            yield path.relative_to(root), ast.parse(path.read_text())


def kind_words(root: Path) -> frozenset[str]:
    """Names of classes, and formats on disk, that only one kind of job has: as its `Kind` says."""
    words = set[str]()
    for path in (root / PACKAGE / "kinds").glob("*/__init__.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.keyword) and isinstance(node.value, ast.Constant):
                said = str(node.value.value)
                if node.arg in ("spec", "opened"):
                    words.add(said.rpartition(":")[2])
                elif node.arg == "ask":
                    words.add(said.rpartition(":")[2].partition(".")[0])
                elif node.arg == "format":
                    words.add(said)
    return frozenset(words)


def long_file(root: Path, path: Path) -> Iterator[str]:
    """The file, where it has too many lines."""
    lines = len((root / path).read_text().splitlines())
    if lines > MOST_LINES:
        yield f"{path}:1: length: {lines} lines; at most {MOST_LINES}"


def long_bodies(path: Path, tree: ast.Module) -> Iterator[str]:
    """Functions whose bodies have too many lines."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            body = node.body[1:] if ast.get_docstring(node) is not None else node.body
            if body and (lines := (node.end_lineno or 0) - body[0].lineno + 1) > MOST_BODY:
                yield (
                    f"{path}:{node.lineno}: body: {node.name} has {lines} lines; at most"
                    f" {MOST_BODY}"
                )


def late_imports(path: Path, tree: ast.Module) -> Iterator[str]:
    """Imports of the package inside functions; other packages may be optional, or large."""
    for function in ast.walk(tree):
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
            for node in ast.walk(function):
                module = node.module if isinstance(node, ast.ImportFrom) else None
                if (module or "").partition(".")[0] == PACKAGE:
                    yield f"{path}:{node.lineno}: late import: in {function.name}; only cli may"


def told_apart(path: Path, tree: ast.Module, kinds: frozenset[str]) -> Iterator[str]:
    """Places where a kind of job is told by its class or its format."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") in (
            "isinstance",
            "issubclass",
        ):
            asked: list[ast.AST] = list(node.args[1:])
        elif isinstance(node, ast.Compare):
            asked = [node.left, *node.comparators]
        elif isinstance(node, ast.MatchClass):
            asked = [node.cls]
        elif isinstance(node, ast.MatchValue):
            asked = [node.value]
        elif isinstance(node, ast.Dict):
            asked = [key for key in node.keys if isinstance(key, ast.Name | ast.Attribute)]
        else:
            continue
        for word in sorted({word for part in asked for word in words_of(part)} & kinds):
            yield f"{path}:{node.lineno}: kind: {word} is told apart here; only kinds/ may"


def words_of(node: ast.AST) -> Iterator[str]:
    """Names, attributes and texts of an expression."""
    for part in ast.walk(node):
        if isinstance(part, ast.Name):
            yield part.id
        elif isinstance(part, ast.Attribute):
            yield part.attr
        elif isinstance(part, ast.Constant) and isinstance(part.value, str):
            yield part.value


def circles(trees: dict[Path, ast.Module]) -> Iterator[str]:
    """One circle of imports, where there is any; imports in functions count."""
    modules = {module_of(path): tree for path, tree in trees.items() if path.parts[0] == PACKAGE}
    graph = {name: set(imported(tree, modules)) - {name} for name, tree in modules.items()}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        yield f"{PACKAGE}: circle: {' <- '.join(error.args[1])}"


def module_of(path: Path) -> str:
    """The dotted name of a file's module."""
    parts = path.with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imported(tree: ast.Module, modules: dict[str, ast.Module]) -> Iterator[str]:
    """Modules of the package that a tree imports."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in modules)
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                if whole in modules:
                    yield whole
                elif node.module in modules:
                    yield node.module


def main() -> None:
    """Print all breaches; exit code 1 where there are any."""
    root = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).resolve().parents[1]
    found = list(breaches(root))
    for line in found:
        print(line)
    sys.exit(1 if found else 0)


if __name__ == "__main__":
    main()
