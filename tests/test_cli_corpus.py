"""The verbs of `hanlin corpus`, from the shell's side: settings, what is shown, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from hanlin.cli.main import app
from hanlin.common.errors import HanlinError
from hanlin.common.manifest import read_manifest

COMMON = (
    "的一是不了在人有我他这个们中来上大为和国地到以说时要就出会可也你对生能而子那得于着下自之年过发后作里"
    "用道行所然家种事成方多经么去法学如都同现当没动面起看定天分还进好小部其些主样理心"
)


def corpus(*arguments: object) -> None:
    app(["corpus", *map(str, arguments)])


def printed(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    capsys.readouterr()
    corpus(*arguments)
    return capsys.readouterr().out


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A corpus of thirty documents, two of them nearly the same, and a copy without the last ones; `a.jsonl`
    is what it was made of."""
    import random

    folder = tmp_path_factory.mktemp("corpora")
    draw = random.Random(7)
    texts = ["，".join("".join(draw.choices(COMMON, k=9)) for _ in range(9)) + "。" for _ in range(30)]
    lines = [*texts, texts[3].replace("，", "。"), texts[4][:-4] + "变化。", "短"]
    for name, kept in (("a", lines), ("b", lines[:20])):
        (folder / f"{name}.jsonl").write_text(
            "".join(json.dumps({"text": text}, ensure_ascii=False) + "\n" for text in kept), encoding="utf-8"
        )
        corpus("build", folder / f"{name}.jsonl", "--out", folder / name, "--workers", 1, "--seed", 3)
    return folder


def test_settings_come_from_file_overrides_and_flags_in_this_order(
    tmp_path: Path, built: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "settings.yaml"
    file.write_text("preset: zh-short\nheldout_fraction: 0.2\nseed_of: x\n")
    with pytest.raises(HanlinError, match=r"settings.yaml.*seed_of"):
        corpus("build", built / "a.jsonl", "--out", tmp_path / "c", "--config", file)
    file.write_text("preset: zh-short\nheldout_fraction: 0.2\nrules: {min_chars: 9}\ndedup: {near: false}\n")
    out = printed(
        capsys,
        "build",
        built / "a.jsonl",
        "rules.min_chars=12",
        "weights.corpus=2",
        "dedup.threshold=0.7",
        "--out",
        tmp_path / "c",
        "--config",
        file,
        "--heldout",
        0.1,
        "--workers",
        2,
        "--memory",
        "64MiB",
        "--json",
    )
    config = read_manifest(tmp_path / "c").config
    assert (
        config["preset"] == "zh-short"
        and config["cleaning"]["min_chars"] == 12
        and config["heldout_fraction"] == 0.1
    )
    assert (
        config["dedup"]["threshold"] == 0.7
        and config["dedup"]["near"] is False
        and config["weights"] == {"corpus": 2}
    )
    assert json.loads(out)["documents_read"] == 33
    assert read_manifest(built / "a").config["heldout_fraction"] == 0 and read_manifest(built / "a").seed == 3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["rules.min_char=3"], "min_chars"),
        (["dedup.treshold=0.7"], r"dedup\.threshold"),
        (["wieghts.web=2"], "weights"),
        (["weights.web=often"], "weights.web"),
        (["weights.web=9"], "max_repeats"),
        (["dedup.near=3"], r"dedup\.near"),
        (["--preset", "zh"], "zh-web"),
        (["--memory", "much"], "4GiB"),
        (["--config", "nowhere.yaml"], "nowhere.yaml"),
    ],
)
def test_wrong_settings_are_refused_before_anything_is_written(
    tmp_path: Path, built: Path, arguments: list[str], message: str
) -> None:
    with pytest.raises(HanlinError, match=message):
        corpus("build", built / "a.jsonl", *arguments, "--out", tmp_path / "c")
    assert not (tmp_path / "c").exists()


def test_a_file_with_an_equals_sign_is_a_file(
    tmp_path: Path, built: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "part=1.jsonl").write_bytes((built / "a.jsonl").read_bytes())
    monkeypatch.chdir(tmp_path)
    corpus("build", "part=1.jsonl", "--out", tmp_path / "c", "--workers", 1)
    assert read_manifest(tmp_path / "c").metrics["documents_read"] == 33


def test_a_build_says_where_its_page_is(
    tmp_path: Path, built: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "c" / "report.html"
    assert (
        printed(capsys, "build", built / "a.jsonl", "--out", tmp_path / "c", "--workers", 1)
        .rstrip()
        .endswith(str(page))
    )
    assert page.read_text(encoding="utf-8").startswith("<!doctype html>")
    found = json.loads(
        printed(
            capsys,
            "build",
            built / "a.jsonl",
            "boilerplate.documents=2",
            "--out",
            tmp_path / "d",
            "--workers",
            1,
            "--json",
        )
    )
    assert (
        found["report"] == str(tmp_path / "d" / "report.html") and found["seconds"]["remove_boilerplate"] >= 0
    )


def test_stats(built: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = printed(capsys, "stats", built / "a")
    assert "exact_duplicate" in text and "too_short" in text and "2,700" in text
    assert "clean" in text and "finalize" in text and "sketch" in text  # seconds by phase and by step
    found = json.loads(printed(capsys, "stats", built / "a", "--json"))
    assert (
        found["rules"]["too_short"] == {"count": 1, "characters": 1, "bytes": 3}
        and found["metrics"]["documents_kept"] == 30
    )


def test_inspect(built: Path, capsys: pytest.CaptureFixture[str]) -> None:
    overview = json.loads(printed(capsys, "inspect", built / "a", "--json"))
    assert (
        overview["rules"] == {"exact_duplicate": 1, "near_duplicate": 1, "too_short": 1}
        and overview["clusters"]["count"] == 2
    )
    assert [one["cluster"] for one in overview["clusters"]["largest"]] == [3, 4]
    assert "too_short" in printed(capsys, "inspect", built / "a") and "--cluster" in printed(
        capsys, "inspect", built / "a", "--limit", 1
    )
    for number in (4, 31):
        near = json.loads(printed(capsys, "inspect", built / "a", "--cluster", number, "--json"))
        assert (
            near["cluster"] == 4
            and near["members"][0]["document"] == 31
            and 0.8 <= near["members"][0]["similarity"] < 1
        )
    assert "Jaccard 0." in printed(capsys, "inspect", built / "a", "--cluster", 4)
    assert printed(capsys, "inspect", built / "a", "--rule", "too_short").strip().endswith("短")
    assert (
        len(json.loads(printed(capsys, "inspect", built / "a", "--rule", "kept", "--limit", 2, "--json")))
        == 2
    )
    needle = near["text"][10:30]
    found = json.loads(printed(capsys, "inspect", built / "a", "--find", needle, "--json"))
    assert len(found) == 1 and needle in found[0]["text"]
    assert "子虚乌有" in printed(capsys, "inspect", built / "a", "--find", "子虚乌有")


def test_what_cannot_be_inspected_is_refused(tmp_path: Path, built: Path) -> None:
    for arguments, message in (
        (["inspect", built / "a", "--rule", "too_shrt"], "too_short"),
        (["inspect", built / "a", "--cluster", 5], "3, 4"),
        (["inspect", built / "b", "--cluster", 5], "5"),
        (["inspect", built / "a", "--cluster", 3, "--rule", "kept"], "--cluster"),
        (["inspect", tmp_path], "manifest.json"),
        (["stats", tmp_path / "nowhere"], "manifest.json"),
        (["diff", built / "a", tmp_path], "manifest.json"),
    ):
        with pytest.raises(HanlinError, match=message):
            corpus(*arguments)


def test_a_damaged_report_is_not_shown(tmp_path: Path, built: Path) -> None:
    corpus("build", built / "b.jsonl", "--out", tmp_path / "c", "--workers", 1)
    (tmp_path / "c" / "report.json").write_text("{}")
    with pytest.raises(HanlinError, match="report.json"):
        corpus("stats", tmp_path / "c")


def test_diff(built: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = json.loads(printed(capsys, "diff", built / "a", built / "b", "--json"))
    assert found["both"] == 20 and found["left"]["documents"] == 10 and found["right"]["documents"] == 0
    assert "20" in printed(capsys, "diff", built / "a", built / "b")
