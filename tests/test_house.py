"""The laws of the house that can be read off the code: directions of import, one table of devices, `--help` without torch."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

import hanlin
from hanlin.pipeline import load_recipe, recipe_names

SOURCE = Path(hanlin.__file__).parent
ROOMS = [
    "corpus",
    "tokenizer",
    "dataset",
    "model",
    "inference",
    "training",
    "stages",
    "evaluation",
    "export",
    "serving",
    "pipeline",
    "cli",
]
BESIDE = {"common", "recipes", "doctor", "_native"}
FILES = sorted(path for path in SOURCE.rglob("*.py"))


def room_of(module: str) -> str:
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else "hanlin"


def imports(path: Path) -> set[str]:
    """Absolute names of all modules of ours that a file imports, relative forms resolved."""
    package = ["hanlin", *path.relative_to(SOURCE).parent.parts]
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names if alias.name.split(".")[0] == "hanlin"}
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            name = ".".join([*base, node.module] if node.module else base)
            if name == "hanlin":
                found |= {f"hanlin.{alias.name}" for alias in node.names}
            elif name.startswith("hanlin."):
                found.add(name)
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_a_room_imports_only_rooms_to_its_left(path):
    relative = path.relative_to(SOURCE)
    room = "cli" if relative.parts[0].startswith("cli_") else relative.parts[0].removesuffix(".py")
    if room in ("__init__", "__main__", "doctor"):
        return  # the front door may open any room
    for module in imports(path):
        target = room_of(module)
        if target in BESIDE or target == "hanlin" or (room == "cli" and target in ROOMS):
            continue
        if module.split(".")[1:2] and target not in ROOMS:
            continue  # a name of the package itself
        assert room != "common", f"{relative} imports {module}, but common knows no room"
        assert ROOMS.index(target) <= ROOMS.index(room), f"{relative} imports {module}, to its right"


VENDORS = "cuda|rocm|hip|xpu|mps|npu|torch_npu|cudnn|nccl|rccl|xccl|hccl"


def vendor_names(source: str) -> list[tuple[int, str]]:
    """Lines of code that name a device, its libraries or its communication: an attribute, an import, or a string that is a name."""
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
    """A `HanlinError` of two arguments has Chinese first; of one it is a message of the catalogue (`test_messages.py`)."""
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
    """0.5 s is the promise on a quiet machine; the test allows for a busy one and pins the cause, not the clock."""
    code = f"import sys; sys.argv = ['hanlin', *{verb!r}, '--help']\nfrom hanlin.cli import app\ntry: app()\nexcept SystemExit: pass\nassert 'torch' not in sys.modules"
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


@pytest.mark.parametrize("name", recipe_names())
def test_every_recipe_parses_and_its_model_can_exist(name):
    from hanlin.model import CausalLM

    recipe = load_recipe(name)
    shape = recipe.model.config(recipe.tokenizer.vocab_size, 0)
    assert sum(p.numel() for p in CausalLM(shape).parameters()) == shape.parameters()
    assert recipe.stages()[0] == "corpus" and recipe.stages()[-1] == "gguf"
    assert set(recipe.description) == {"zh", "en"}
