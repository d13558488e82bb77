"""The table of devices. Everything but the CPU is simulated: torch is told what a card would say of
itself."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
import textwrap
import types

import pytest
import torch

from hanlin.cli import doctor
from hanlin.common import devices
from hanlin.common.devices import (
    CAPABILITIES,
    device_capabilities,
    is_discrete,
    kind_of,
    known_issues,
    memory_mb,
    resolve_device,
)
from hanlin.common.errors import HanlinError
from hanlin.common.messages import Text
from hanlin.model.attention.backends import BACKENDS, fault_of

CPU, CARD = torch.device("cpu"), torch.device("cuda", 0)


@pytest.fixture(autouse=True)
def native_precision(monkeypatch):
    monkeypatch.delenv("HANLIN_PRECISION", raising=False)


def test_every_row_names_back_ends_that_exist_and_ends_with_one_that_needs_no_kernel():
    for kind, row in CAPABILITIES.items():
        assert row.attention and set(row.attention) <= set(BACKENDS), kind
        assert row.attention[-1] == "plain", kind
        # for what no training has checked
        assert any(not BACKENDS[name].particular for name in row.attention[:-1]), kind
        assert row.train_dtype in (devices.AUTO, *devices.PRECISIONS), kind
        for issue in row.known_issues:
            assert any("一" <= letter <= "鿿" for letter in issue.text.zh) and issue.text.en.isascii(), issue
            assert issue.source
    assert [kind for kind, row in CAPABILITIES.items() if row.compile_trusted] == [
        "cpu",
        "cuda",
        "rocm",
        "xpu",
    ]
    # pytorch#160787: nothing that asks for is_causal
    assert not {"sdpa", "flex", "varlen"} & set(CAPABILITIES["xpu"].attention)
    assert [kind for kind, row in CAPABILITIES.items() if "varlen" in row.attention] == ["cuda"]


def test_the_cpu_row():
    assert device_capabilities(CPU).name == CAPABILITIES["cpu"].name == "CPU" and kind_of(CPU) == "cpu"
    assert not is_discrete(CPU) and "device_memory_mb" not in memory_mb(CPU)
    assert device_capabilities(CPU).distributed_backend == "gloo" and devices.communication_present(CPU)


@pytest.mark.parametrize(
    "avx512, amx, dtype",
    [
        (False, False, "float32"),
        (True, False, "bfloat16"),
        (False, True, "bfloat16"),
        (None, None, "float32"),
    ],
)
def test_a_cpu_trains_in_bfloat16_where_it_multiplies_it(avx512, amx, dtype, monkeypatch):
    for name, found in (("_is_avx512_bf16_supported", avx512), ("_is_amx_tile_supported", amx)):
        monkeypatch.delattr(torch.cpu, name, raising=False)
        if found is not None:
            monkeypatch.setattr(torch.cpu, name, lambda found=found: found, raising=False)
    assert device_capabilities(CPU).train_dtype == dtype


def test_a_precision_asked_for_is_taken_on_every_device_and_a_wrong_one_is_named(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    for asked in ("float32", "bfloat16", "float16"):
        monkeypatch.setenv("HANLIN_PRECISION", asked)
        assert device_capabilities(CPU).train_dtype == device_capabilities(CARD).train_dtype == asked
    monkeypatch.setenv("HANLIN_PRECISION", "fp8")
    with pytest.raises(HanlinError, match="fp8.*bfloat16"):
        device_capabilities(CPU)


@pytest.mark.parametrize(
    "capability, dtype",
    [
        ((3, 5), "float32"),
        ((6, 0), "float32"),
        ((6, 1), "float32"),
        ((7, 0), "float16"),
        ((7, 5), "float16"),
        ((8, 0), "bfloat16"),
        ((8, 9), "bfloat16"),
        ((12, 0), "bfloat16"),
    ],
)
def test_precision_by_compute_capability(capability, dtype, monkeypatch):
    monkeypatch.setattr(torch.version, "hip", None)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    row = device_capabilities(CARD)
    assert (row.name, row.train_dtype, row.distributed_backend, row.pin_memory) == (
        "CUDA",
        dtype,
        "nccl",
        True,
    )
    sources = {issue.source for issue in known_issues(CARD)}
    assert ("pytorch#148322" in sources) == (dtype == "float16")
    assert any("apex" in source for source in sources) == (dtype == "float32")


@pytest.mark.parametrize(
    "arch, dtype",
    [
        ("gfx90a:sramecc+:xnack-", "bfloat16"),
        ("gfx942", "bfloat16"),
        ("gfx1100", "bfloat16"),
        ("gfx1201", "bfloat16"),
        ("gfx1030", "float16"),
        ("gfx906", "float16"),
    ],
)
def test_rocm_is_found_behind_its_borrowed_name(arch, dtype, monkeypatch):
    monkeypatch.setattr(torch.version, "hip", "7.0")
    monkeypatch.setattr(
        torch.cuda, "get_device_properties", lambda device: types.SimpleNamespace(gcnArchName=arch)
    )
    row = device_capabilities(CARD)
    assert (kind_of(CARD), row.name, row.train_dtype, row.distributed_backend) == (
        "rocm",
        "ROCm",
        dtype,
        "nccl",
    )


@pytest.mark.parametrize("native, dtype", [(True, "bfloat16"), (False, "float16")])
def test_xpu_by_what_the_card_says(native, dtype, monkeypatch):
    monkeypatch.setattr(
        torch.xpu,
        "get_device_properties",
        lambda device: types.SimpleNamespace(has_bfloat16_conversions=native),
    )
    row = device_capabilities(torch.device("xpu", 0))
    assert (row.train_dtype, row.distributed_backend) == (dtype, "xccl")


def test_mps_trains_in_float32_and_shares_the_systems_memory(monkeypatch):
    monkeypatch.setattr(torch.mps, "driver_allocated_memory", lambda: 5 << 20)
    device = torch.device("mps")
    assert (
        device_capabilities(device).train_dtype == "float32"
        and not is_discrete(device)
        and not device_capabilities(device).compile_trusted
    )
    assert memory_mb(device)["device_memory_mb"] == 5.0


def test_a_kind_that_is_not_in_the_table_gets_what_runs_everywhere():
    row = device_capabilities(torch.device("meta"))
    assert (
        row.attention == ("masked_sdpa", "plain") and row.train_dtype == "float32" and not row.compile_trusted
    )


@pytest.mark.parametrize("spec", ["cuda", "rocm:0", "xpu", "mps", "npu", "npu:1"])
def test_an_absent_device_is_named(spec, monkeypatch):
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: False)
    with pytest.raises(HanlinError, match="hanlin doctor"):
        resolve_device(spec)


def test_an_unknown_device_is_named():
    with pytest.raises(HanlinError, match="gpu"):
        resolve_device("gpu")


def test_a_number_too_high_is_refused(monkeypatch):
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: torch.device("cuda"))
    monkeypatch.setattr(torch.accelerator, "device_count", lambda: 2)
    assert resolve_device("cuda:1") == torch.device("cuda", 1) and resolve_device("rocm") == torch.device(
        "cuda"
    )
    with pytest.raises(HanlinError, match="2"):
        resolve_device("cuda:2")


PLUGIN = """
import torch
from torch.utils.backend_registration import _DummyBackendModule, _setup_privateuseone_for_python_backend
{broken}
class Module(_DummyBackendModule):
    def is_bf16_supported(self):
        return {bf16}
    def max_memory_allocated(self, device):
        return 3 << 20
_setup_privateuseone_for_python_backend("npu", backend_module=Module())
"""


def with_plugin(folder, code: str, bf16: bool = True, broken: str = "") -> list:
    """What `code` prints, as JSON, beside a package that registers a device as Ascend's does and that torch
    has not loaded by itself."""
    (folder / "torch_npu.py").write_text(PLUGIN.format(bf16=bf16, broken=broken))
    program = (
        f"import sys; sys.path.insert(0, {str(folder)!r})\nimport json, torch\n"
        "from hanlin.common.devices import *\n" + textwrap.dedent(code)
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


@pytest.mark.parametrize("bf16", [True, False])
def test_ascend_is_found_through_its_package(bf16, tmp_path):
    found = with_plugin(
        tmp_path,
        """
        device = resolve_device("auto")
        row = device_capabilities(device)
        print(json.dumps([device.type, str(resolve_device("npu:0")), row.name, row.train_dtype,\
 row.distributed_backend, memory_mb(device)["device_memory_mb"]]))
        """,
        bf16,
    )
    assert found == ["npu", "npu:0", "NPU", "bfloat16" if bf16 else "float16", "hccl", 3.0]


def test_a_package_that_does_not_load_stops_nobody_else_and_is_quoted(tmp_path):
    found = with_plugin(
        tmp_path,
        """
        from hanlin.common.errors import HanlinError
        try:
            resolve_device("npu")
        except HanlinError as error:
            print(json.dumps([resolve_device("auto").type, error.zh, error.en]))
        """,
        broken="raise ImportError('libascend_hal.so: cannot open')",
    )
    assert found[0] == "cpu" and all("libascend_hal.so" in text for text in found[1:])


# ---------------------------------------------------------------- hanlin doctor


def test_doctor_says_what_a_training_would_use(monkeypatch):
    found = doctor.examine()
    assert (
        found["platform"] == "CPU"
        and found["train_dtype"] == device_capabilities(CPU).train_dtype
        and found["distributed_backend"] == "gloo"
    )
    assert found["attention"] == {name: {"right": True} for name in CAPABILITIES["cpu"].attention}
    assert {issue["source"] for issue in found["known_issues"]} == {
        issue.source for issue in known_issues(CPU)
    }
    json.dumps(found)
    for language, words in (
        ("zh", ("注意力写法", "已知的坑", "通信", "训练精度")),
        ("en", ("attention", "Known issues", "communication", "training precision")),
    ):
        monkeypatch.setenv("HANLIN_LANG", language)
        text = doctor.render(found)
        assert all(word in text for word in words), text
        assert all(issue[language] in text and issue["source"] in text for issue in found["known_issues"])


def test_doctor_shows_language_processor_and_free_memory(monkeypatch):
    monkeypatch.setenv("HANLIN_LANG", "zh")
    monkeypatch.setattr("hanlin.model.attention.backends.fault_of", lambda name, *rest: None)
    found = doctor.examine()
    assert (
        found["processor"]
        and found["processor"] == doctor.cpu_name()
        and 0 < found["memory_free_gib"] <= found["memory_gib"]
    )
    text = doctor.render(found)
    assert (
        "语言" in text
        and "中文" in text
        and "处理器" in text
        and found["processor"] in text
        and "可用内存" in text
    )


def test_doctor_names_an_attention_back_end_that_is_wrong(monkeypatch):
    monkeypatch.setattr(
        "hanlin.model.attention.backends.fault_of",
        lambda name, *rest: (
            Text.rendered(zh="q 的梯度里有 NaN 或 Inf", en="NaN or Inf in the gradient of q")
            if name == "tiles"
            else None
        ),
    )
    found = doctor.examine()
    assert found["attention"]["tiles"] == {
        "right": False,
        "zh": "q 的梯度里有 NaN 或 Inf",
        "en": "NaN or Inf in the gradient of q",
    }
    monkeypatch.setenv("HANLIN_LANG", "en")
    text = doctor.render(found)
    assert found["attention_chosen"] == "sdpa"
    assert "sdpa (in use); in reserve: plain\n  - tiles refused: NaN or Inf in the gradient of q" in text
    monkeypatch.setenv("HANLIN_LANG", "zh")
    assert "sdpa（在用）；备用：plain\n  - tiles 不用：q 的梯度里有 NaN 或 Inf" in doctor.render(found)


def test_doctor_on_a_card_says_why_the_faster_ones_are_not_used_and_compiles_nothing_in_vain(monkeypatch):
    """The row of a CUDA card, on a CPU in float32: no kernel of varlen, no backward pass of flex. Where
    varlen is right, flex is not compiled."""
    monkeypatch.setenv("HANLIN_PRECISION", "float32")
    fault_of.cache_clear()  # other tests have operators of their own stand in
    monkeypatch.setitem(
        CAPABILITIES,
        "cpu",
        dataclasses.replace(CAPABILITIES["cpu"], attention=CAPABILITIES["cuda"].attention),
    )
    found = doctor.examine()
    assert found["attention_chosen"] == "sdpa" and list(found["attention"]) == list(
        CAPABILITIES["cuda"].attention
    )
    for language, words in (
        ("zh", ("varlen 不用：因果", "flex 不用：")),
        ("en", ("varlen refused: ", "flex refused: ")),
    ):
        monkeypatch.setenv("HANLIN_LANG", language)
        text = doctor.render(found)
        assert all(word in text for word in words[1:]) and text.index("varlen") < text.index("- flex")
    monkeypatch.setattr(
        "hanlin.model.attention.backends.fault_of",
        lambda name, *rest: pytest.fail(name) if name == "flex" else None,
    )
    found = doctor.examine()
    assert found["attention"]["flex"] == {
        "right": None
    } and "varlen (in use); in reserve: flex (not tried), sdpa" in doctor.render(found)
