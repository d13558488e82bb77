"""The laws of the house that can be read off the code: directions of import, one table of devices, `--help`
without torch."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

import hanlin

SOURCE = Path(hanlin.__file__).parent
ROOMS = [
    "common",
    "corpus",
    "tokenizer",
    "dataset",
    "model",
    "inference",
    "training",
    "evaluation",
    "rl",
    "stages",
    "export",
    "serving",
    "report",
    "arena",
    "recipe",
    "planning",
    "pipeline",
    "experiments",
    "cli",
]
OUTSIDE = {
    "__init__",
    "__main__",
    "_native",
}  # the front door, which may open any room, and the core, which has no Python
FILES = sorted(path for path in SOURCE.rglob("*.py"))


def module_of(path: Path) -> str:
    """`hanlin.corpus.readers.files` for its path; a package's `__init__.py` is the package."""
    parts = path.relative_to(SOURCE).with_suffix("").parts
    return ".".join(("hanlin", *(parts[:-1] if parts[-1] == "__init__" else parts)))


MODULES = {module_of(path): path for path in FILES}


def imports_of(tree: ast.AST) -> set[str]:
    """Modules of ours that a file imports, wherever the import stands: at its top, in a function, for types
    only."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                if inner != "hanlin._native":
                    found.add(inner if inner in MODULES else str(node.module))
    return {name for name in found if name in MODULES}


GRAPH = {name: imports_of(ast.parse(path.read_text(encoding="utf-8"))) for name, path in MODULES.items()}


def circles(graph: dict[str, set[str]]) -> list[set[str]]:
    """Groups of modules that import one another, directly or by way of others: strongly connected components
    (Tarjan 1972)."""
    order: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found = []

    def visit(name: str) -> None:
        order[name] = low[name] = len(order)
        stack.append(name)
        for target in graph.get(name, ()):
            if target not in order:
                visit(target)
                low[name] = min(low[name], low[target])
            elif target in stack:
                low[name] = min(low[name], order[target])
        if low[name] == order[name]:
            group = set()
            while name not in group:
                group.add(stack.pop())
            if len(group) > 1 or name in graph.get(name, ()):
                found.append(group)

    for name in graph:
        if name not in order:
            visit(name)
    return found


def test_no_two_files_import_each_other():
    """Law 1 holds for files too, imports for types and imports within functions included."""
    assert circles(GRAPH) == []


@pytest.mark.parametrize(
    "graph, expected",
    [
        ({"a": {"b"}, "b": {"c"}, "c": set()}, []),
        ({"a": {"b"}, "b": {"a"}}, [{"a", "b"}]),
        ({"a": {"b"}, "b": {"c"}, "c": {"b"}, "d": {"d"}}, [{"b", "c"}, {"d"}]),
    ],
)
def test_a_circle_is_noticed(graph, expected):
    assert sorted(circles(graph), key=sorted) == expected


def test_every_room_has_its_place():
    rooms = {name.split(".")[1] for name in MODULES if "." in name}
    assert rooms - OUTSIDE == set(ROOMS)


@pytest.mark.parametrize("name", sorted(MODULES))
def test_a_room_imports_only_rooms_to_its_left(name):
    room = name.split(".")[1] if "." in name else "__init__"
    if room in OUTSIDE:
        return
    for target in GRAPH[name]:
        if target == "hanlin":
            assert room == "cli", f"{name} imports the package itself"
            continue
        other = target.split(".")[1]
        if other in OUTSIDE:
            continue
        assert ROOMS.index(other) <= ROOMS.index(room), f"{name} imports {target}, to its right"


VENDORS = "cuda|rocm|hip|xpu|mps|npu|torch_npu|cudnn|nccl|rccl|xccl|hccl"


def vendor_names(source: str) -> list[tuple[int, str]]:
    """Lines of code that name a device, its libraries or its communication: an attribute, an import, or a
    string that is a name."""
    found = []
    for node in ast.walk(ast.parse(source)):
        names = []
        if isinstance(node, ast.Attribute):
            names = [node.attr.removeprefix("is_")]
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            names = [part for alias in node.names for part in alias.name.split(".")] + (
                getattr(node, "module", None) or ""
            ).split(".")
        elif (
            isinstance(node, ast.Constant)
            and isinstance(node.value, str)
            and not re.search(r"\s", node.value.strip())
        ):
            names = re.split(r"[:.]", node.value)
        found += [(getattr(node, "lineno", 0), name) for name in names if re.fullmatch(VENDORS, name)]
    return found


def test_only_the_device_table_names_a_vendor():
    for path in FILES:
        if path.relative_to(SOURCE).as_posix() != "common/devices.py":
            assert vendor_names(path.read_text(encoding="utf-8")) == [], path


@pytest.mark.parametrize(
    "line",
    [
        "torch.cuda.empty_cache()",
        "x.cuda()",
        "x.is_cuda",
        "x.is_xpu",
        "torch.backends.cudnn.benchmark = True",
        "import torch_npu",
        "from torch import cuda",
        "import torch.cuda",
        "device = 'cuda:0'",
        "x.to('mps')",
        "getattr(torch, 'xpu')",
        "d = f'cuda:{n}'",
        "init('nccl')",
        "torch.version.hip",
        "if device.type == 'npu': pass",
        "importlib.import_module('torch.cuda')",
    ],
)
def test_a_vendor_is_noticed(line):
    assert vendor_names(line)


def test_prose_and_other_words_are_no_vendors():
    assert (
        vendor_names(
            "note('a CUDA card, or cuda if you will')\nscuba = mpsx.cudart\n'''cuda is mentioned here.'''"
        )
        == []
    )


def test_every_error_exists_in_both_languages():
    """A `HanlinError` of two arguments has Chinese first; of one it is a message of the catalogue
    (`test_messages.py`)."""
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "HanlinError":
                if len(node.args) == 1:
                    continue  # in the catalogue, or another process' error, told again
                assert len(node.args) == 2, f"{path}:{node.lineno}"
                zh, en = (ast.unparse(argument) for argument in node.args)
                assert re.search(r"[一-鿿]", zh) or not re.search(r"['\"]", zh), f"{path}:{node.lineno}: {zh}"
                assert not re.search(r"[一-鿿]", en), f"{path}:{node.lineno}: {en}"


@pytest.mark.parametrize(
    "verb",
    [[], ["run"], ["tokenizer"], ["corpus"], ["corpus", "build"], ["sft"], ["serve"], ["export", "gguf"]],
)
def test_help_needs_no_torch_and_little_time(verb):
    """0.5 s is the promise on a quiet machine; the test allows for a busy one and pins the cause, not the
    clock."""
    code = (
        f"import sys; sys.argv = ['hanlin', *{verb!r}, '--help']\nfrom hanlin.cli.main import app\n"
        "try: app()\nexcept SystemExit: pass\nassert 'torch' not in sys.modules"
    )
    began = time.monotonic()
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert result.returncode == 0, result.stderr
    assert "Usage" in result.stdout
    assert time.monotonic() - began < 10


def test_importing_hanlin_imports_no_torch():
    subprocess.run(
        [sys.executable, "-c", "import hanlin, sys; assert 'torch' not in sys.modules"],
        check=True,
        timeout=60,
    )


def test_the_python_surface_is_frozen():
    assert sorted(hanlin.__all__) == [
        "evaluate",
        "generate",
        "load_model",
        "load_tokenizer",
        "run",
        "train_tokenizer",
    ]
