"""`hanlin doctor`: what this machine offers, and what would help."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
from typing import Any

from .common.errors import tr

_OPTIONAL = {
    "fastapi": "serve", "uvicorn": "serve", "gguf": "export", "opencc": "data", "datatrove": "data", "transformers": "test",
}  # fmt: skip


def examine() -> dict[str, Any]:
    """Versions, device, memory, disk, compiler and extras of this machine, and advice in `advice` (two languages each)."""
    import torch

    from .common.devices import resolve_device, traits

    found: dict[str, Any] = {"python": platform.python_version(), "system": platform.platform(), "torch": torch.__version__}
    device = resolve_device("auto")
    advice: list[dict[str, str]] = []
    found |= {"device": str(device), "train_dtype": traits(device).train_dtype, "cores": os.cpu_count(), "threads": torch.get_num_threads()}
    if hasattr(os, "sysconf"):
        found["memory_gib"] = round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1)
        if found["memory_gib"] < 4:
            advice.append({"zh": "内存不足 4 GiB：演示可能会被系统终止。", "en": "Less than 4 GiB of memory: the demo may be killed."})
    found["disk_free_gb"] = round(shutil.disk_usage(".").free / 1e9, 1)
    if found["disk_free_gb"] < 2:
        advice.append({"zh": "当前目录所在磁盘剩余不足 2 GB。", "en": "Less than 2 GB free on this disk."})
    found["compiler"] = next((path for name in ("c++", "g++", "clang++") if (path := shutil.which(name))), None)
    if found["compiler"] is None:
        advice.append({"zh": "没有 C++ 编译器：torch.compile 不可用。Debian/Ubuntu：sudo apt install g++。", "en": "No C++ compiler: torch.compile cannot work. Debian/Ubuntu: sudo apt install g++."})
    try:
        from . import _native

        found["native_core"] = str(_native.__file__)
    except ImportError as error:
        found["native_core"] = None
        advice.append({"zh": f"C++ 核心没有编译（{error}）：请运行 pip install -e .", "en": f"The C++ core is not built ({error}): run pip install -e ."})
    found["optional"] = {}
    for name, extra in _OPTIONAL.items():
        try:
            found["optional"][name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found["optional"][name] = None
            advice.append({"zh": f"没有 {name}：pip install 'hanlin[{extra}]'", "en": f"{name} is missing: pip install 'hanlin[{extra}]'"})
    if device.type == "cpu" and found["threads"] != os.cpu_count():
        advice.append({"zh": f"torch 只用 {found['threads']} 个线程（共 {os.cpu_count()} 核）；可设 OMP_NUM_THREADS。", "en": f"torch uses {found['threads']} threads of {os.cpu_count()} cores; OMP_NUM_THREADS changes that."})
    found["advice"] = advice
    return found


def render(found: dict[str, Any]) -> str:
    """The findings as lines for people."""
    lines = [f"{name:<14} {value}" for name, value in found.items() if name not in ("advice", "optional")]
    lines += [f"{name:<14} {version or '-'}" for name, version in found["optional"].items()]
    lines += [""] + ([tr("建议：", "Advice:")] + [f"  - {tr(a['zh'], a['en'])}" for a in found["advice"]] if found["advice"] else [tr("一切就绪。", "All is well.")])
    return "\n".join(lines)
