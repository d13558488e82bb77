"""The table of data sets is consistent, and a wrong name gets a suggestion."""

from __future__ import annotations

import pytest

from hanlin.common.errors import HanlinError
from hanlin.common.terminal import width
from hanlin.corpus.download.catalogue import DATASETS, catalogue_text, find


def test_the_table_is_consistent():
    assert len({data.name for data in DATASETS}) == len(DATASETS)
    for data in DATASETS:
        hubs = (data.huggingface, data.modelscope, data.github)
        assert data.fields and data.licence and any(hubs)
        assert all(hub == "" or hub.count("/") == 1 for hub in hubs)
        if any(mark in data.licence for mark in ("NC", "GPL", "research")):
            assert data.commercial == "no"
        if "unknown" in data.licence or "none stated" in data.licence:
            assert data.commercial == "unknown"
        assert find(data.name) is data


def test_listing_shows_every_set_and_its_licence():
    text = catalogue_text()
    assert all(data.name in text and data.licence in text for data in DATASETS)
    assert "c-eval" not in catalogue_text("sft") and "deepctrl" in catalogue_text("sft")


def test_a_wrong_name_gets_a_suggestion():
    with pytest.raises(HanlinError, match="belle-2m"):
        find("bele-2m")
    with pytest.raises(HanlinError, match="safetybench"):
        find("safety-bench")


@pytest.mark.parametrize("language", ["zh", "en"])
def test_the_list_fits_a_terminal_and_begins_with_a_recommendation(monkeypatch, language):
    monkeypatch.setenv("HANLIN_LANG", language)
    text = catalogue_text()
    assert max(map(width, text.splitlines())) <= 80
    first, second, *_ = text.splitlines()
    assert ("从这里开始" in first or "Start here" in first) and find(second.split()[4]).stage == "pretrain"
    assert all(find(word).name for line in text.splitlines()[1:4] for word in [line.split()[4]])
    if language == "zh":
        assert (
            "unknown" not in "".join(line for line in text.splitlines() if not line.startswith("    "))
            and "不清楚" in text
        )
    assert "start here" not in catalogue_text("sft").lower() and "minimind-pretrain" in catalogue_text(
        "pretrain"
    )
