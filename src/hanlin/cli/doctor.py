"""`hanlin doctor`: what this machine offers, and what would help."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hanlin.common.errors import tr

if TYPE_CHECKING:
    import torch

    from hanlin.common.devices import DeviceTraits

_OPTIONAL = {
    "fastapi": "serve",
    "uvicorn": "serve",
    "gguf": "export",
    "opencc": "data",
    "datatrove": "data",
    "transformers": "test",
}


def examine() -> dict[str, Any]:
    """Versions, device, memory, disk, compiler and extras of this machine, and advice in `advice` (two languages each).

    `attention` has what each back end of the device's row came to beside the reference, `traps` what is known to go wrong.
    """
    import torch

    from hanlin.common.devices import communication_present, known_traps, load_plugin, resolve_device, traits

    found: dict[str, Any] = {
        "python": platform.python_version(),
        "system": platform.platform(),
        "torch": torch.__version__,
    }
    device = resolve_device("auto")
    row = traits(device)
    advice: list[dict[str, str]] = []
    found |= {
        "platform": row.name,
        "device": str(device),
        "train_dtype": row.train_dtype,
        "compile_trusted": row.compile_trusted,
    }
    found |= {"distributed_backend": row.distributed_backend, "attention": _attention(device, row)}
    failure = load_plugin()
    if failure:
        advice.append(
            {
                "zh": f"装了加速卡的插件，但它没有载入：{failure}",
                "en": f"A device's plug-in is installed and does not load: {failure}",
            }
        )
    if not communication_present(device):
        advice.append(
            {
                "zh": f"这个 torch 没有 {row.distributed_backend}：不能多卡训练。",
                "en": f"This torch has no {row.distributed_backend}: no training on several devices.",
            }
        )
    found["attention_chosen"] = next(
        (name for name, verdict in found["attention"].items() if verdict["right"]), None
    )
    if found["attention_chosen"] is None:
        advice.append(
            {
                "zh": f"{row.name} 上没有一种注意力写法算得对：请升级驱动和 torch，或用 --device cpu。",
                "en": f"No attention back end is right on {row.name}: update the driver and torch, or use --device cpu.",
            }
        )
    found["traps"] = [{"zh": trap.zh, "en": trap.en, "source": trap.source} for trap in known_traps(device)]
    found |= {
        "language": tr("中文（HANLIN_LANG 可改）", "English (HANLIN_LANG changes it)"),
        "processor": cpu_name(),
    }
    found |= {"cores": os.cpu_count(), "threads": torch.get_num_threads()}
    if hasattr(os, "sysconf"):
        found["memory_gib"] = round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1)
        available = memory_available()
        if available is not None:
            found["memory_free_gib"] = round(available / 2**30, 1)
        if found["memory_gib"] < 4:
            advice.append(
                {
                    "zh": "内存不足 4 GiB：演示可能会被系统终止。",
                    "en": "Less than 4 GiB of memory: the demo may be killed.",
                }
            )
    found["disk_free_gb"] = round(shutil.disk_usage(".").free / 1e9, 1)
    if found["disk_free_gb"] < 2:
        advice.append({"zh": "当前目录所在磁盘剩余不足 2 GB。", "en": "Less than 2 GB free on this disk."})
    found["compiler"] = next(
        (path for name in ("c++", "g++", "clang++") if (path := shutil.which(name))), None
    )
    if found["compiler"] is None:
        advice.append(
            {
                "zh": "没有 C++ 编译器：torch.compile 不可用。Debian/Ubuntu：sudo apt install g++。",
                "en": "No C++ compiler: torch.compile cannot work. Debian/Ubuntu: sudo apt install g++.",
            }
        )
    try:
        from hanlin import _native

        found["native_core"] = str(_native.__file__)
    except ImportError as error:
        found["native_core"] = None
        advice.append(
            {
                "zh": f"C++ 核心没有编译（{error}）：请运行 pip install -e .",
                "en": f"The C++ core is not built ({error}): run pip install -e .",
            }
        )
    found["optional"] = {}
    for name, extra in _OPTIONAL.items():
        try:
            found["optional"][name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found["optional"][name] = None
            advice.append(
                {
                    "zh": f"没有 {name}：pip install 'hanlin[{extra}]'",
                    "en": f"{name} is missing: pip install 'hanlin[{extra}]'",
                }
            )
    if device.type == "cpu" and found["threads"] != os.cpu_count():
        advice.append(
            {
                "zh": f"torch 只用 {found['threads']} 个线程（共 {os.cpu_count()} 核）；可设 OMP_NUM_THREADS。",
                "en": f"torch uses {found['threads']} threads of {os.cpu_count()} cores; OMP_NUM_THREADS changes that.",
            }
        )
    found["advice"] = advice
    return found


def cpu_name() -> str:
    """What the processor is called; its architecture where the system does not say."""
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith(("model name", "Model", "Hardware")):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    if platform.system() == "Darwin":
        result = subprocess.run(
            ["sysctl", "-n", "machdep.cpu.brand_string"], capture_output=True, text=True, check=False
        )
        if result.stdout.strip():
            return result.stdout.strip()
    return platform.processor() or platform.machine()


def memory_available() -> int | None:
    """Bytes that programs can still take without swapping; None where the system does not say."""
    try:
        for line in Path("/proc/meminfo").read_text(encoding="ascii", errors="replace").splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except (OSError, ValueError, IndexError):
        pass
    return None


def _attention(device: torch.device, row: DeviceTraits) -> dict[str, dict[str, Any]]:
    """Each back end of the row beside the reference, in the training type: right, or what is wrong in two languages.

    One that has to be compiled is tried only where none before it is right; then it is in use.
    """
    import torch

    from hanlin.model.attention import backends

    verdicts: dict[str, dict[str, Any]] = {}
    for name in row.attention:
        if backends.BACKENDS[name].compiles and any(verdict["right"] for verdict in verdicts.values()):
            verdicts[name] = {"right": None}
            continue
        fault = backends.fault_of(name, device, getattr(torch, row.train_dtype))
        verdicts[name] = (
            {"right": True} if fault is None else {"right": False, "zh": fault[0], "en": fault[1]}
        )
    return verdicts


_NAMES = {
    "system": ("系统", "system"),
    "platform": ("平台", "platform"),
    "device": ("设备", "device"),
    "train_dtype": ("训练精度", "training precision"),
    "compile_trusted": ("自动编译", "compiles by itself"),
    "distributed_backend": ("通信", "communication"),
    "attention": ("注意力写法", "attention"),
    "language": ("语言", "language"),
    "processor": ("处理器", "processor"),
    "memory_free_gib": ("可用内存 GiB", "memory free, GiB"),
    "cores": ("核数", "cores"),
    "threads": ("线程", "threads"),
    "memory_gib": ("内存 GiB", "memory, GiB"),
    "disk_free_gb": ("磁盘剩余 GB", "disk free, GB"),
    "compiler": ("C++ 编译器", "C++ compiler"),
    "native_core": ("C++ 核心", "C++ core"),
}


def render(found: dict[str, Any]) -> str:
    """The findings as lines for people."""
    shown = {
        tr(*_NAMES.get(name, (name, name))): _text(name, value)
        for name, value in found.items()
        if name not in ("advice", "optional", "traps", "attention_chosen")
    }
    shown |= {name: version or "-" for name, version in found["optional"].items()}
    lines = [_padded(name) + f" {text}" for name, text in shown.items()]
    if found["traps"]:
        lines += ["", tr(f"{found['platform']} 上已知的坑：", f"Known traps of {found['platform']}:")]
        lines += [f"  - {tr(trap['zh'], trap['en'])} [{trap['source']}]" for trap in found["traps"]]
    lines += [""] + (
        [tr("建议：", "Advice:")] + [f"  - {tr(a['zh'], a['en'])}" for a in found["advice"]]
        if found["advice"]
        else [tr("一切就绪。", "All is well.")]
    )
    return "\n".join(lines)


def _text(name: str, value: Any) -> str:
    if name == "train_dtype" and value == "float16":
        return tr("float16，损失动态放大", "float16 with a dynamic loss scale")
    if name == "attention":
        return _attention_text(value)
    return tr("是" if value else "否", "yes" if value else "no") if isinstance(value, bool) else str(value)


def _attention_text(verdicts: dict[str, dict[str, Any]]) -> str:
    """What is in use and in reserve; below it, in order, why each that is refused is."""
    used = next((name for name, verdict in verdicts.items() if verdict["right"]), None)
    reserve = [
        name + ("" if verdict["right"] else tr("（未试）", " (not tried)"))
        for name, verdict in verdicts.items()
        if name != used and verdict["right"] is not False
    ]
    first = (
        tr("没有一种算得对", "none is right") if used is None else used + tr("（在用）", " (in use)")
    ) + (tr("；备用：", "; in reserve: ") + tr("、", ", ").join(reserve) if reserve else "")
    refused = [
        f"  - {name}{tr(' 不用：', ' refused: ')}{tr(verdict['zh'], verdict['en'])}"
        for name, verdict in verdicts.items()
        if verdict["right"] is False
    ]
    return "\n".join([first, *refused])


def _padded(name: str, columns: int = 20) -> str:
    """A name and spaces to `columns`; Chinese characters are two wide."""
    return name + " " * max(0, columns - sum(2 if letter >= "\u2e80" else 1 for letter in name))
