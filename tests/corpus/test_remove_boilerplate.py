"""Line boilerplate taken out as part of a build: what goes, what stays, accounts that add up, the same bytes
however it is run."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import orjson
import pytest

from hanlin.common.errors import HanlinError
from hanlin.common.manifest import read_manifest
from hanlin.corpus.builder import job, writer
from hanlin.corpus.builder.boilerplate import BoilerplateConfig
from hanlin.corpus.builder.build import CorpusConfig, CorpusJob, build_corpus, read_corpus
from hanlin.corpus.dedup.fingerprints import DedupConfig
from hanlin.report.corpus_page import render_corpus

NOTICE, MENU = "本站文章版权归原作者所有，转载请注明。", "首页 新闻 图片 视频 论坛 关于我们"
CONFIG = CorpusConfig(
    preset="zh-short",
    heldout_fraction=0.05,
    mask_pii=True,
    source="file",
    boilerplate=BoilerplateConfig(documents=15),
    dedup=DedupConfig(),
)


@pytest.fixture
def files(tmp_path: Path, prose, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Five files, each a task, of one source's pages with a menu above and a notice below; copies within and
    across; bad records."""
    monkeypatch.setattr(job, "TASK_BYTES", 1)
    draw = random.Random(6)
    folder = tmp_path / "in"
    folder.mkdir()
    for part in range(5):
        with open(folder / f"part_{part}.jsonl", "wb") as file:
            for _ in range(40):
                number = draw.randrange(400)
                body = f"{prose(number, 60)}\n{prose(number + 400, 60)}"
                file.write(orjson.dumps({"text": f"{MENU}\n{body}\n\n{NOTICE}"}) + b"\n")
            file.write(b"{not json\n")
    return sorted(folder.iterdir())


def texts_of(path: Path) -> list[str]:
    return [item["text"] for part in ("documents", "heldout") for item in read_corpus(path, part)]


def content(path: Path) -> dict[str, str]:
    """Every file but the page, and the page without its times."""
    found = {
        name: entry["sha256"] for name, entry in read_manifest(path).files.items() if name != "report.html"
    }
    page = (path / "report.html").read_text(encoding="utf-8")
    begin, end = page.index('<section id="times">'), page.index('<section class="provenance"')
    return found | {"report.html": page[:begin] + page[end:]}


def build(files: list[Path], out: Path, config: CorpusConfig = CONFIG, **options) -> Path:
    return build_corpus(files, out, config, seed=4, page=render_corpus, **options)


def test_common_lines_go_and_the_others_stay(tmp_path: Path, files: list[Path]) -> None:
    plain = build(files, tmp_path / "plain", replace(CONFIG, boilerplate=BoilerplateConfig()))
    stripped = build(
        files, tmp_path / "stripped", replace(CONFIG, dedup=DedupConfig(exact=False, near=False))
    )
    assert all(text.startswith(MENU) and text.endswith(NOTICE) for text in texts_of(plain))
    assert not any(MENU in text or NOTICE in text for text in texts_of(stripped))
    assert len(texts_of(stripped)) == 200
    bodies = {text.removeprefix(MENU).removesuffix(NOTICE).strip("\n") for text in texts_of(plain)}
    assert bodies <= set(texts_of(stripped))
    about = json.loads((stripped / "report.json").read_bytes())
    line = about["lines"]["boilerplate_line"]
    assert (
        line["count"] == 400
        and line["characters"] == 200 * len(MENU + NOTICE)
        and line["bytes"] > 2 * line["characters"]
    )
    assert {sample["text"] for sample in line["samples"]} == {MENU, NOTICE} and all(
        15 <= sample["documents"] <= 40 for sample in line["samples"]
    )
    assert {source["lines"]["boilerplate_line"] for source in about["sources"].values()} == {80}
    assert about["changed"]["count"] == 200


def test_accounts_add_up(tmp_path: Path, files: list[Path]) -> None:
    """Read = kept, held out, dropped and taken out as lines; the blank line before a notice, and the two
    line breaks, are all that is not counted."""
    path = build(files, tmp_path / "c")
    about, metrics = json.loads((path / "report.json").read_bytes()), read_manifest(path).metrics
    rules = about["rules"]
    assert (
        metrics["documents_read"]
        == 200
        == metrics["documents_kept"]
        + metrics["heldout_documents"]
        + sum(rule["count"] for rule in rules.values())
    )
    for source in about["sources"].values():
        for part in ("documents", "characters", "bytes"):
            gone = source["dropped"][part]
            assert source["cleaned"][part] == source["kept"][part] + source["heldout"][part] + gone
        breaks = 3 * source["read"]["documents"]
        assert (
            source["read"]["characters"] - source["cleaned"]["characters"] == 40 * len(MENU + NOTICE) + breaks
        )
        assert (
            sum(source["lengths"].values())
            == sum(source["scripts"].values())
            == source["cleaned"]["documents"]
            == 40
        )
    assert rules["exact_duplicate"]["count"] > 20
    assert metrics["quarantined"] == 5 == len((path / "quarantine.jsonl").read_text().splitlines())
    assert metrics["seconds_of_cleaning"]["boilerplate"] > 0 and {"read", "clean"} <= set(
        metrics["seconds_of_cleaning"]
    )


def test_what_is_left_is_held_against_the_rules_again(tmp_path: Path, prose) -> None:
    documents = [{"text": f"{prose(i, 60)}\n{MENU}", "source": "s"} for i in range(30)] + [
        {"text": f"{MENU}\n甲乙丙丁戊己庚辛壬癸子丑寅卯辰巳午未申酉。", "source": "s"}
    ]
    config = CorpusConfig(
        preset="zh-short",
        rules={"min_chars": 30},
        heldout_fraction=0,
        boilerplate=BoilerplateConfig(documents=20),
    )
    path = build_corpus(documents, tmp_path / "c", config)
    about = json.loads((path / "report.json").read_bytes())
    assert (
        about["rules"]["too_short"]["count"] == 1
        and len(texts_of(path)) == 30
        and about["changed"]["count"] == 30
    )
    assert (
        about["sources"]["s"]["cleaned"]["documents"] == sum(about["sources"]["s"]["scripts"].values()) == 30
    )


def test_a_text_that_was_copied_often_is_not_boilerplate(tmp_path: Path, prose) -> None:
    """Forty copies are one document; forty near copies, whose shared lines do count, stay whole because
    nearly all of each is shared."""
    copied = "\n".join(prose(900 + i, 40) for i in range(3))
    alike = "\n".join(prose(950 + i, 60) for i in range(5))
    documents = (
        [{"text": copied}] * 40
        + [{"text": f"{alike}\n{prose(i, 20)}"} for i in range(40)]
        + [{"text": prose(i + 50, 80)} for i in range(20)]
    )
    config = CorpusConfig(preset="zh-short", heldout_fraction=0, boilerplate=BoilerplateConfig(documents=20))
    found = texts_of(build_corpus(documents, tmp_path / "c", config))
    assert copied in found and any(text.startswith(alike) for text in found)
    without = replace(config, boilerplate=BoilerplateConfig())
    assert sorted(found) == sorted(texts_of(build_corpus(documents, tmp_path / "d", without)))


def test_code_stays_whole(tmp_path: Path, prose) -> None:
    """A line in a code fence is neither counted nor taken out, though the same one outside is."""
    documents = [
        {"text": f"{prose(i, 60)}\n{MENU}\n```\n    return result;\n{MENU}\n```", "source": "s"}
        for i in range(30)
    ]
    config = CorpusConfig(preset="zh-short", heldout_fraction=0, boilerplate=BoilerplateConfig(documents=20))
    path = build_corpus(documents, tmp_path / "c", config)
    assert all(
        text.endswith(f"。\n```\n    return result;\n{MENU}\n```") and text.count(MENU) == 1
        for text in texts_of(path)
    )
    assert json.loads((path / "report.json").read_bytes())["lines"]["boilerplate_line"]["count"] == 30


def test_any_number_of_processes_writes_the_same_bytes(tmp_path: Path, files: list[Path]) -> None:
    paths = [build(files, tmp_path / f"w{workers}", workers=workers) for workers in (1, 2, 7)]
    assert content(paths[0]) == content(paths[1]) == content(paths[2])
    hashes = {read_manifest(path).content_hash for path in paths}
    # a page changes nothing
    assert (
        len(hashes) == 1
        and read_manifest(build_corpus(files, tmp_path / "bare", CONFIG, seed=4)).content_hash in hashes
    )
    assert not any(path.name.startswith(".") for path in tmp_path.iterdir())


def test_ranks_of_an_executor_write_the_same_bytes(tmp_path: Path, files: list[Path]) -> None:
    job = CorpusJob(tmp_path / "work", CONFIG, files, seed=4)
    assert [phase.name for phase in job.phases][:6] == [
        "clean",
        "copies",
        "lines",
        "common",
        "remove_boilerplate",
        "exact",
    ]
    for phase in job.phases:
        for rank in reversed(range(4)):
            phase(None, rank, 4)
    job.finish(tmp_path / "ranks", page=render_corpus)
    assert content(tmp_path / "ranks") == content(build(files, tmp_path / "plain"))
    assert not list((tmp_path / "work" / "clean").rglob("texts"))  # they were written again


CHILD = """
import sys
from pathlib import Path
sys.path.insert(0, {here!r})
import test_remove_boilerplate
from hanlin.corpus.builder import job as plan
plan.TASK_BYTES = 1
if __name__ == "__main__":
    test_remove_boilerplate.build(sorted(Path(sys.argv[1]).iterdir()), Path(sys.argv[2]),\
 workers=int(sys.argv[3]))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
def test_a_killed_build_goes_on_to_the_same_bytes(tmp_path: Path, files: list[Path]) -> None:
    script = tmp_path / "child.py"
    script.write_text(CHILD.format(here=str(Path(__file__).parent)))
    began = time.monotonic()
    expected = content(build(files, tmp_path / "whole"))
    usual = time.monotonic() - began
    seed = int.from_bytes(os.urandom(4), "big")
    print("seed", seed)
    draw, killed, out = random.Random(seed), 0, tmp_path / "out"
    for attempt in range(6):
        child = subprocess.Popen(
            [sys.executable, str(script), str(tmp_path / "in"), str(out), str(1 + attempt % 2)],
            start_new_session=True,
            stderr=subprocess.PIPE,
        )
        while not (tmp_path / ".out.state").exists() and child.poll() is None:
            time.sleep(0.002)
        # the first at once, so that one is killed however fast the machine has become
        time.sleep(draw.uniform(0, usual * 0.12 * attempt))
        if child.poll() is None:
            os.killpg(child.pid, signal.SIGKILL)
            killed += 1
        assert child.wait() in (0, -signal.SIGKILL), child.communicate()[1].decode()
        if out.exists():
            break
    if not out.exists():
        build(files, out, workers=2)
    assert killed and content(out) == expected


def test_memory_is_bounded_by_the_batch(tmp_path: Path, prose, monkeypatch: pytest.MonkeyPatch) -> None:
    """Twice the text needs no more memory to be stripped: only a few bytes for each document stay, and what
    is sorted at once."""
    import tracemalloc

    monkeypatch.setattr(writer, "BUCKET_BYTES", 1 << 20)
    long = prose(0, 30_000)

    def peak(count: int) -> int:
        documents = ({"text": f"{long[at * 37 :]}\n{long[: at * 37]}\n{NOTICE}"} for at in range(count))
        config = CorpusConfig(
            preset="none", dedup=DedupConfig(near=False), boilerplate=BoilerplateConfig(documents=5)
        )
        tracemalloc.start()
        build_corpus(documents, tmp_path / str(count), config)
        found = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return found

    peak(50)  # fills caches
    assert peak(450) - peak(250) < 4e6  # the texts themselves are 18 MB more


@pytest.mark.parametrize(
    "setting",
    [
        {"documents": 1},
        {"documents": -3},
        {"min_chars": 9, "max_chars": 8},
        {"max_share": 0.0},
        {"max_share": 1.5},
    ],
)
def test_settings_that_cannot_be_are_refused(setting: dict) -> None:
    from hanlin.common.config import build as build_config

    with pytest.raises(HanlinError, match=next(iter(setting))):
        build_config(CorpusConfig, {"boilerplate": setting}, "test")
