"""The rules of the house that a program can keep: layers, what may import torch, dependencies, file sizes."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from onelook.named import import_named
from onelook.types import Detections

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # comes with pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "src" / "onelook"

# A module imports from lower layers and from its own folder; the single files of layer 0 may know each other.
LAYERS: tuple[tuple[str, ...], ...] = (
    (
        "types",
        "errors",
        "version",
        "reporter",
        "files",
        "run_files",
        "named",
        "devices",
        "threads",
        "config",
        "draw",
        "exported",
        "client",
    ),
    ("ops",),
    ("layers", "assign", "losses", "augment"),
    ("networks", "data", "tracking"),
    ("weights", "predict"),
    ("training", "evaluation", "exporting", "tuning", "nas"),
    ("recipes", "streaming"),
    ("report", "serving", "cluster"),
    ("api",),
    ("cli",),
)
LEVEL = {part: level for level, parts in enumerate(LAYERS) for part in parts}

# What runs where torch is not installed: reading data, and detecting with an exported model.
WITHOUT_TORCH = (
    "types",
    "errors",
    "reporter",
    "files",
    "run_files",
    "named",
    "devices",
    "threads",
    "config",
    "draw",
    "exported",
    "augment",
    "data",
    "evaluation",
    "client",
    "cluster",
    "predict",
    "serving",
    "streaming",
    "tracking",
    "ops.nms",
    *(f"api.{name}" for name in ("bench", "check", "convert", "detect", "load", "open", "score", "serve", "validate")),
    *(f"api.{name}" for name in ("compare", "edit", "live", "split", "window")),
    *(f"api.{name}" for name in ("detect_shards", "shard_job")),
    *(f"api.{name}" for name in ("stream", "stream_trials")),
    "api.demo",
    "cli",
)
TORCH_ANYWAY = {  # what only training needs, and what runs PyTorch itself
    "onelook.data.batch",
    "onelook.data.loader",
    "onelook.evaluation.classes",
    "onelook.predict.runtimes.torch",
}

MODULES = {
    ".".join(("onelook", *path.relative_to(PACKAGE).with_suffix("").parts)).removesuffix(".__init__"): path
    for path in sorted(PACKAGE.rglob("*.py"))
    if path.name != "_version.py"  # written by the build
}


def is_type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)


def imported(tree: ast.AST, *, lazy: bool) -> Iterator[str]:
    """The names of imported modules; `lazy` includes imports inside functions and for type checkers only."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports name the whole path"
            for alias in node.names:
                submodule = f"{node.module}.{alias.name}"
                yield submodule if submodule in MODULES else str(node.module)
        elif lazy or not (
            isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)) or is_type_checking(node)
        ):
            yield from imported(node, lazy=lazy)


@cache
def imports_of(module: str, *, lazy: bool) -> frozenset[str]:
    return frozenset(imported(ast.parse(MODULES[module].read_text(encoding="utf-8")), lazy=lazy))


def part_of(module: str) -> str | None:
    """The layer's part a module belongs to; None for the package itself, which imports on first use."""
    names = module.split(".")
    return names[1] if len(names) > 1 and names[1] != "__main__" else None


@pytest.mark.parametrize("module", MODULES)
def test_imports_only_go_down(module: str) -> None:
    part = part_of(module)
    if part is None:
        return
    assert part in LEVEL, f"{module} is in no layer: name '{part}' in LAYERS of this test"
    for other in imports_of(module, lazy=True):
        own = other.split(".")[0] == "onelook" and other != "onelook._version"  # which a build has written
        target = part_of(other) if own else None
        if target is not None and target != part:
            allowed = LEVEL[target] < LEVEL[part] or LEVEL[target] == LEVEL[part] == 0
            assert allowed, f"{module} (layer {LEVEL[part]}) imports {other} (layer {LEVEL[target]})"


def test_the_table_of_layers_in_the_guide_is_that_of_this_test() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (\d+) \| ((?:`\w+` ?)+)\|", text, re.MULTILINE)
    told = {int(level): set(re.findall(r"\w+", folders)) for level, folders in rows}
    assert told == {level: set(parts) - {"version"} for level, parts in enumerate(LAYERS)}
    exist = {path.stem for path in PACKAGE.iterdir() if path.suffix == ".py" or (path / "__init__.py").is_file()}
    assert set(LEVEL) == exist - {"__init__", "__main__", "_version"}


FAMILIES = sorted(path.parent.name for path in PACKAGE.glob("networks/*/architecture.py"))
KNOWS_NO_FAMILY = ("training", "evaluation", "exporting", "predict")


def words_of(tree: ast.AST) -> Iterator[str]:
    """What the code says: names, imports and texts, without docstrings and comments."""
    explained = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    docstrings = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, explained) and node.body and isinstance(node.body[0], ast.Expr)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant):
            if isinstance(node.value, str) and id(node) not in docstrings:
                yield node.value
        else:
            for field in ("id", "attr", "name", "asname", "arg", "module"):
                if isinstance(word := getattr(node, field, None), str):
                    yield word


def families_in(tree: ast.AST) -> list[str]:
    said = [word.lower().replace("-", "").replace("_", "") for word in words_of(tree)]
    return [word for word in said if any(family.replace("_", "") in word for family in FAMILIES)]


@pytest.mark.parametrize("module", [name for name in MODULES if part_of(name) in KNOWS_NO_FAMILY])
def test_what_serves_all_families_names_none(module: str) -> None:
    assert families_in(ast.parse(MODULES[module].read_text(encoding="utf-8"))) == []


@pytest.mark.parametrize("module", MODULES)
def test_only_tables_and_recipes_know_the_families(module: str) -> None:
    """What begs for an `if family` elsewhere becomes a part that the family's own folder answers."""
    own = module.split(".")[2] if module.startswith("onelook.networks.") else ""
    if own in (*FAMILIES, "variants") or part_of(module) == "recipes":
        return
    folders = tuple(f"onelook.{part}.{family}" for part in ("networks", "recipes") for family in FAMILIES)
    assert not [name for name in imports_of(module, lazy=True) if name.startswith(folders)]


def test_a_family_is_found_where_code_names_one() -> None:
    assert FAMILIES == ["damo_yolo", "yolov4", "yolov7", "yolox"]
    spoken = """
'''As YOLOX does.'''  # and YOLOv7
from onelook.networks.yolov7.head import AnchorHead
kind = isinstance(model, Yolov4) or family == "DAMO-YOLO"
"""
    assert sorted(families_in(ast.parse(spoken))) == ["damoyolo", "onelook.networks.yolov7.head", "yolov4"]


@pytest.mark.parametrize("module", MODULES)
def test_nothing_imports_torchvision(module: str) -> None:
    assert not any(name.split(".")[0] == "torchvision" for name in imports_of(module, lazy=True))


def reached(module: str) -> dict[str, str | None]:
    """Every module that importing one brings in, with who imported it first."""
    found: dict[str, str | None] = {}
    waiting: list[tuple[str, str | None]] = [(module, None)]
    while waiting:
        name, source = waiting.pop()
        if name in found:
            continue
        found[name] = source
        if name in MODULES:
            parents = [".".join(name.split(".")[:count]) for count in range(1, name.count(".") + 1)]
            waiting += [(other, name) for other in (*parents, *imports_of(name, lazy=False))]
    return found


@pytest.mark.parametrize(
    "module",
    [
        name
        for name in MODULES
        if name not in TORCH_ANYWAY
        and any(name == f"onelook.{part}" or name.startswith(f"onelook.{part}.") for part in WITHOUT_TORCH)
    ],
)
def test_torch_is_not_needed_to_import(module: str) -> None:
    found = reached(module)
    for name in found:
        if name.split(".")[0] in ("torch", "onnx"):
            chain = [name]
            while (source := found[chain[-1]]) is not None:
                chain.append(source)
            pytest.fail(" <- ".join(chain))


def circles() -> list[str]:
    """Modules that import each other in a loop, however late or hidden the imports are."""
    graph = {
        module: sorted(name for name in imports_of(module, lazy=True) if name in MODULES and name != module)
        for module in MODULES
        if module != "onelook"  # the package itself imports on first use
    }
    found: list[str] = []
    state: dict[str, bool] = {}  # False while a module is on the path, True when it is done

    def visit(module: str, path: list[str]) -> None:
        state[module] = False
        for other in graph.get(module, ()):
            if state.get(other) is False:
                found.append(" -> ".join([*path[path.index(other) :], other]))
            elif other not in state:
                visit(other, [*path, other])
        state[module] = True

    for module in graph:
        if module not in state:
            visit(module, [module])
    return found


def test_no_modules_import_each_other_in_a_circle() -> None:
    """Neither through `TYPE_CHECKING` nor through an import inside a function."""
    assert circles() == []


def project() -> dict[str, object]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def test_the_base_installation_is_without_torch() -> None:
    dependencies = project()["dependencies"]
    assert isinstance(dependencies, list)
    names = {re.split(r"[<>=\[ ]", text)[0] for text in dependencies}
    assert "onnxruntime" in names and not names & {"torch", "safetensors", "onnx", "onnxscript"}


def test_files_stay_short_enough_to_read() -> None:
    files = [path for folder in ("src", "tests", "benchmarks", "docs") for path in (ROOT / folder).rglob("*.py")]
    lengths = {str(path.relative_to(ROOT)): len(path.read_text(encoding="utf-8").splitlines()) for path in files}
    assert len(lengths) > 300 and {name: length for name, length in lengths.items() if length > 400} == {}


LONGEST_FUNCTION = 60


def long_functions(tree: ast.AST) -> list[str]:
    """Functions whose code, without signature and docstring, has more lines than a reader keeps in mind."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            code = node.body if ast.get_docstring(node) is None else node.body[1:]
            lines = (code[-1].end_lineno or 0) - code[0].lineno + 1 if code else 0
            if lines > LONGEST_FUNCTION:
                found.append(f"{node.name}: {lines} lines")
    return found


@pytest.mark.parametrize("module", MODULES)
def test_functions_stay_short_enough_to_read(module: str) -> None:
    assert long_functions(ast.parse(MODULES[module].read_text(encoding="utf-8"))) == []


def test_a_function_is_measured_without_its_signature_and_docstring() -> None:
    head = "def f(\n    a,\n    b,\n):\n    '''A\n\n    long text.\n    '''\n"
    assert long_functions(ast.parse(head + "    a = b\n" * LONGEST_FUNCTION)) == []
    assert long_functions(ast.parse(head + "    a = b\n" * (LONGEST_FUNCTION + 1))) == ["f: 61 lines"]


@pytest.mark.parametrize("module", MODULES)
def test_user_input_is_not_checked_by_what_an_option_of_python_removes(module: str) -> None:
    """`assert` may tell the type checker what is known; it has no message for anybody to read."""
    for node in ast.walk(ast.parse(MODULES[module].read_text(encoding="utf-8"))):
        assert not (isinstance(node, ast.Assert) and node.msg is not None), f"{module}:{node.lineno}"


def test_one_function_imports_what_a_text_names() -> None:
    """The packages aside that load their public names at the first use."""
    using = {module for module, path in MODULES.items() if "import_module(" in path.read_text(encoding="utf-8")}
    assert using == {"onelook", "onelook.data", "onelook.evaluation", "onelook.named"}
    assert import_named("onelook.types:Detections") is Detections


def test_the_typing_marker_is_there() -> None:
    assert (PACKAGE / "py.typed").is_file()
