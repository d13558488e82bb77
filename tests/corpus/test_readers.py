"""Every layout becomes one of three schemas; a bad record costs itself and is accounted for."""

from __future__ import annotations

import gzip
import json
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hanlin.common.errors import HanlinError
from hanlin.corpus.readers.files import ReadLimits
from hanlin.corpus.readers.quarantine import Quarantine
from hanlin.corpus.readers.read import read_conversations, read_documents, read_preferences
from hanlin.corpus.readers.records import _text_lines, _values

# file → (schema, records)
FIXTURES = {
    "TinyStoriesChinese_data00.41.jsonl": ("documents", 41),
    "agieval_gaokao-history.20.jsonl": ("conversations", 20),
    "alpaca_zh_demo.50.json": ("conversations", 50),
    "ape210k_valid.30.json": ("conversations", 30),
    "baidubaike_563w.30.json": ("documents", 30),
    "baike_qa_train.50.json": ("conversations", 50),
    "belle_train_2M_CN.50.json": ("conversations", 50),
    "belle_train_3.5M_CN.50.json": ("conversations", 50),
    "c3-d-dev.head.json": ("conversations", 10),
    "c4-train.00000-of-01024.30.json.gz": ("documents", 30),
    "chineseWebText_2021-43.30.jsonl": ("documents", 30),
    "cmmlu_dev_ancient_chinese.csv": ("conversations", 5),
    "deepctrl_qa_variant_layout.20.jsonl": ("conversations", 20),
    "deepctrl_sft_data_zh_layout.40.jsonl": ("conversations", 40),
    "dpo_zh_demo.30.json": ("preferences", 30),
    "firefly-train-1.1M.50.jsonl": ("conversations", 50),
    "glaive_toolcall_zh.20.json": ("conversations", 20),
    "kto_en_demo.20.json": ("conversations", 12),  # 8 are marked as bad answers
    "llamafactory_c4_demo.30.jsonl": ("documents", 30),
    "llamafactory_wiki_demo.6.txt": ("documents", 6),
    "math23k_test.20.json": ("conversations", 20),
    "medical_o1_sft_Chinese.1.json": ("conversations", 1),
    "medicalgpt_dpo_zh.30.jsonl": ("preferences", 30),
    "medicalgpt_grpo_sample.jsonl": ("conversations", 32),
    "mgsm_zh.20.tsv": ("conversations", 20),
    "minimind_dpo_layout.30.jsonl": ("preferences", 30),
    "minimind_pretrain_hq_layout.30.jsonl": ("documents", 30),
    "minimind_pretrain_t2t_readme.jsonl": ("documents", 3),
    "minimind_sft_layout.40.jsonl": ("conversations", 40),
    "minimind_sft_toolcall_rlaif_readme.jsonl": ("conversations", 4),
    "mnbvc_layout.25.jsonl": ("documents", 25),
    "oaast_rm_zh.20.json": ("preferences", 20),
    "openai_messages_v1_sft.20.jsonl": ("conversations", 20),
    "r1_110k_layout.45.jsonl": ("conversations", 45),
    "r1_110k_sft_layout.45.jsonl": ("conversations", 45),
    "reason_tool_use.10.jsonl": ("conversations", 10),
    "sharegpt_zh.20.jsonl": ("conversations", 20),
    "skypile_2021-31_zh_head_0000.50.jsonl": ("documents", 50),
    "smile_53930.json": ("conversations", 1),
    "ultrafeedback_binarized_cleaned_layout.25.jsonl": ("preferences", 25),
    "ultrafeedback_zh_binarized_layout.25.jsonl": ("preferences", 25),
    "wanjuan_part-010205.50.jsonl": ("documents", 50),
    "wikipedia-cn-20230720-filtered_sample.json": ("documents", 250),
    "wudao_part-2021000001.20.json": ("documents", 20),
    "xtuner_emollm_conversation.20.json": ("conversations", 20),
    "zhihu_kol.50.parquet": ("conversations", 50),
}
READ = {"documents": read_documents, "conversations": read_conversations, "preferences": read_preferences}


def check(schema: str, item: dict) -> None:
    assert item["source"]
    if schema == "documents":
        assert item["text"].strip() and "<|im_start|>" not in item["text"]
        return
    messages = (
        item["messages"] if schema == "conversations" else [*item["prompt"], item["chosen"], item["rejected"]]
    )
    for message in messages:
        assert message["role"] in ("system", "user", "assistant", "tool")
        assert isinstance(message["content"], str) and "<think>" not in message["content"]
        assert set(message) <= {"role", "content", "reasoning_content", "tool_calls"}
        assert message["content"].strip() or message["role"] != "user"
    assert any(message["role"] == "user" for message in messages)
    if schema == "preferences":
        assert item["prompt"][-1]["role"] == "user"
        assert (
            item["chosen"]["role"] == item["rejected"]["role"] == "assistant"
            and item["chosen"] != item["rejected"]
        )


def test_answers_with_a_label_are_read_with_it(shared):
    items = list(READ["preferences"](shared("fixtures") / "kto_en_demo.20.json"))
    assert len(items) == 20 and sum(item["label"] for item in items) == 12
    assert all(item["prompt"][-1]["role"] == "user" and item["completion"]["content"] for item in items)


@pytest.mark.parametrize("name", FIXTURES)
def test_public_layouts_are_recognised_by_exactly_one_schema(shared, name):
    path = shared("fixtures") / name
    schema, count = FIXTURES[name]
    if name.endswith("parquet"):
        pytest.importorskip("pyarrow")
    quarantine = Quarantine()
    items = list(READ[schema](path, quarantine=quarantine))
    assert len(items) == count
    assert quarantine.count == (8 if name.startswith("kto") else 0), quarantine.entries
    for item in items:
        check(schema, item)
    judged = {"preferences"} if name.startswith("kto") else set()  # a label makes them both
    for other in set(READ) - {schema} - judged:
        with pytest.raises(HanlinError, match="布局|layout"):
            list(READ[other](path))


ASKED, SAID = {"role": "user", "content": "好吗？"}, {"role": "assistant", "content": "好。"}


@pytest.mark.parametrize(
    "record",
    [
        {"prompt": "好吗？", "completion": "好。", "label": False},
        {"prompt": [ASKED], "completion": [SAID], "label": False},
        {"messages": [ASKED, SAID], "label": False},
        {
            "conversations": [{"from": "human", "value": "好吗？"}, {"from": "gpt", "value": "好。"}],
            "label": False,
        },
        {"messages": [ASKED, SAID], "kto_tag": False},
        {"conversations": [ASKED, SAID], "kto_tag": False},
    ],
)
def test_every_layout_of_answers_with_a_label_is_read_alike(tmp_path, record):
    file = tmp_path / "labelled.jsonl"
    lines = [record, {key: True if value is False else value for key, value in record.items()}]
    file.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    read = [{key: item[key] for key in ("prompt", "completion", "label")} for item in read_preferences(file)]
    assert read == [{"prompt": [ASKED], "completion": SAID, "label": label} for label in (False, True)]


def test_the_fixture_table_is_complete(shared):
    assert {path.name for path in shared("fixtures").iterdir()} == set(FIXTURES)


def test_parquet_without_pyarrow_says_what_to_install(shared, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "pyarrow.parquet", None)
    with pytest.raises(HanlinError, match=r"hanlin\[data\]"):
        list(read_conversations(shared("fixtures/zhihu_kol.50.parquet")))


QUESTION, THOUGHT, ANSWER = "一加一等于几？", "一个再加一个是两个。", "等于二。"
SAME = [
    {
        "messages": [
            {"role": "user", "content": QUESTION},
            {"role": "assistant", "content": ANSWER, "reasoning_content": THOUGHT},
        ]
    },
    {
        "conversations": [
            {"role": "user", "content": QUESTION},
            {"role": "assistant", "content": ANSWER, "reasoning_content": THOUGHT},
        ]
    },
    {
        "conversations": [
            {"from": "human", "value": QUESTION},
            {"from": "gpt", "value": f"<think>\n{THOUGHT}\n</think>\n\n{ANSWER}"},
        ]
    },
    {"conversations": [{"content": QUESTION}, {"content": f"<think>{THOUGHT}</think>{ANSWER}"}]},
    {"conversation": [{"human": QUESTION, "assistant": f"<think>{THOUGHT}</think>{ANSWER}"}]},
    {"conversation": [{"input": QUESTION, "output": f"<think>{THOUGHT}</think>{ANSWER}"}]},
    {"instruction": QUESTION, "input": "", "output": f"<think>{THOUGHT}</think>\n{ANSWER}", "history": []},
    {"q": QUESTION, "a": f"<think>{THOUGHT}</think>\n{ANSWER}", "history": None},
    {"input": QUESTION, "reasoning_content": THOUGHT, "content": ANSWER, "repo_name": "x", "score": 10},
    {"Question": QUESTION, "Complex_CoT": THOUGHT, "Response": ANSWER},
    {"prompt": QUESTION, "reasoning": THOUGHT, "answer": ANSWER},
    {
        "messages": [
            {"role": "user", "content": [{"type": "text", "value": QUESTION}]},
            {
                "role": "assistant",
                "content": [{"type": "reasoning", "value": THOUGHT}, {"type": "text", "text": ANSWER}],
            },
        ]
    },
    [{"from": "user", "value": QUESTION}, {"from": "bot", "value": f"<think>{THOUGHT}</think>{ANSWER}"}],
]


@pytest.mark.parametrize("record", SAME)
def test_the_same_conversation_in_any_layout_is_the_same(write, record):
    (item,) = read_conversations(write("x.jsonl", [record]))
    assert item["messages"] == SAME[0]["messages"]


@pytest.mark.parametrize(
    "record",
    [
        {"prompt": QUESTION, "chosen": "好", "rejected": "坏"},
        {
            "prompt": [{"role": "user", "content": QUESTION}],
            "chosen": [{"role": "assistant", "content": "好"}],
            "rejected": [{"role": "assistant", "content": "坏"}],
        },
        {
            "chosen": [{"role": "user", "content": QUESTION}, {"role": "assistant", "content": "好"}],
            "rejected": [{"role": "user", "content": QUESTION}, {"role": "assistant", "content": "坏"}],
        },
        {
            "conversations": [{"from": "human", "value": QUESTION}],
            "chosen": {"from": "gpt", "value": "好"},
            "rejected": {"from": "gpt", "value": "坏"},
        },
        {"instruction": QUESTION, "chosen_response": "好", "rejected_response": "坏"},
        {"instruction": QUESTION, "input": "", "output": ["好", "中", "坏"]},
        {
            "system": "",
            "history": [],
            "question": QUESTION,
            "response_chosen": "好",
            "response_rejected": "坏",
        },
    ],
)
def test_the_same_preference_in_any_layout_is_the_same(write, record):
    (item,) = read_preferences(write("x.jsonl", [record]))
    assert {key: item[key] for key in ("prompt", "chosen", "rejected")} == {
        "prompt": [{"role": "user", "content": QUESTION}],
        "chosen": {"role": "assistant", "content": "好"},
        "rejected": {"role": "assistant", "content": "坏"},
    }


def test_container_does_not_matter(tmp_path, prose):
    texts = [prose(i) for i in range(50)]
    records = [{"text": text} for text in texts]
    lines = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)
    files = {
        "a.jsonl": lines.encode(),
        "b.json": json.dumps(records, ensure_ascii=False, indent=2).encode(),
        "c.json": json.dumps(records).encode("utf-8-sig"),
        "d.json": json.dumps(texts, ensure_ascii=False).encode(),
        "e.jsonl": lines.replace("\n", "\r\n").encode("gb18030"),
        "f.jsonl.gz": gzip.compress(lines.encode("utf-16")),
        "g.txt": "\n<|endoftext|>\n".join(texts).encode(),
        "h.csv": ("text,n\r\n" + "".join(f'"{text}",1\r\n' for text in texts)).encode("utf-8-sig"),
        "i": lines.encode(),
    }
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
        assert [item["text"].strip() for item in read_documents(tmp_path / name)] == texts, name


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=12),
    lambda children: (
        st.lists(children, max_size=3) | st.dictionaries(st.text(max_size=4), children, max_size=3)
    ),
    max_leaves=8,
)


@settings(max_examples=150, deadline=None)
@given(st.lists(VALUES, max_size=6), st.integers(1, 9), st.sampled_from([None, 1]))
def test_streamed_arrays_equal_json_loads_whatever_the_blocks(values, block, indent):
    text = json.dumps(values, ensure_ascii=False, indent=indent)
    quarantine = Quarantine()
    pieces = (text[i : i + block] for i in range(0, len(text), block))
    assert [raw.value for raw in _values("x", pieces, quarantine, ReadLimits(), opening="[")] == values
    assert quarantine.count == 0


def test_one_broken_element_of_an_array_costs_itself(tmp_path):
    records = [{"text": f"第{i}篇文档，内容是“引号”。"} for i in range(200)]
    parts = [json.dumps(record, ensure_ascii=False, indent=1) for record in records]
    for i in (3, 77, 150):
        parts[i] = parts[i].replace('"text": "', '"text": ', 1)
    path = tmp_path / "x.json"
    path.write_text("[\n" + ",\n".join(parts) + ",\n]\n", encoding="utf-8")
    quarantine = Quarantine()
    texts = [item["text"] for item in read_documents(path, quarantine=quarantine)]
    assert texts == [record["text"] for i, record in enumerate(records) if i not in (3, 77, 150)]
    assert quarantine.count == 3


def test_broken_lines_are_mended_or_quarantined_with_their_place(shared):
    quarantine = Quarantine()
    path = shared("fixtures_dirty/broken_lines_skypile.jsonl")
    texts = [item["text"] for item in read_documents(path, quarantine=quarantine)]
    assert len(texts) == 10 and quarantine.count == 10
    data = path.read_bytes()
    for entry in quarantine.entries:
        assert data.split(b"\n")[entry.line - 1].startswith(
            data[entry.offset : entry.offset + 8].split(b"\n")[0]
        )
    assert all(text.encode("utf-8") for text in texts)  # the lone surrogate is gone


def test_really_broken_arrays_are_read_to_the_end(shared):
    path = shared("fixtures_dirty/broken_json_alpaca_9407-12345.json")
    quarantine = Quarantine()
    read = len(list(read_conversations(path, quarantine=quarantine)))
    assert read + quarantine.count == path.read_text(encoding="utf-8").count('"instruction"')
    path = shared("fixtures_dirty/half_translated_alpaca_18280-21320.json")
    quarantine = Quarantine()
    assert len(list(read_conversations(path, quarantine=quarantine))) == 716 and quarantine.count == 1


def test_a_character_cut_in_half_costs_one_note(shared):
    quarantine = Quarantine()
    rows = list(read_conversations(shared("fixtures_dirty/gbk_cut_mid_character.csv"), quarantine=quarantine))
    whole = list(read_conversations(shared("fixtures_dirty/gbk_medical_qa.csv")))
    assert [row["messages"] for row in rows[:-1]] == [row["messages"] for row in whole[: len(rows) - 1]]
    assert quarantine.count == 1


def test_undecodable_and_overlong_lines_are_quarantined(tmp_path):
    good = json.dumps({"text": "这是一个好的文档，它有很多常见的字。"}, ensure_ascii=False).encode()
    path = tmp_path / "x.jsonl"
    path.write_bytes(
        b"\n".join([good] * 60 + [b'{"text": "\xff\xfe"}', b'{"text": "' + b"x" * 5000 + b'"}', good])
    )
    quarantine = Quarantine()
    assert len(list(read_documents(path, quarantine=quarantine, limits=ReadLimits(record_bytes=4000)))) == 61
    assert [entry.line for entry in quarantine.entries] == [61, 62]


def test_errors_say_what_was_seen(tmp_path, write):
    with pytest.raises(HanlinError, match="nonsense, more"):
        list(read_documents(write("a.jsonl", [{"nonsense": 1, "more": 2}] * 3)))
    with pytest.raises(HanlinError, match="--sft"):
        list(read_documents(write("b.jsonl", [{"instruction": "问", "output": "答"}])))
    (tmp_path / "empty.jsonl").write_text("")
    with pytest.raises(HanlinError, match="empty.jsonl"):
        list(read_documents(tmp_path / "empty.jsonl"))
    with pytest.raises(HanlinError, match="nothing.jsonl"):
        read_documents(tmp_path / "nothing.jsonl")  # heard of at the call, not at the first record
    with pytest.raises(HanlinError, match="× 2"):
        list(read_documents(write("c.jsonl", [{"text": ""}, {"text": ""}])))


def test_records_of_another_layout_in_the_middle_are_quarantined(write, prose):
    records = [{"text": prose(1)}, {"strange": 1}, {"text": prose(2)}]
    quarantine = Quarantine()
    assert len(list(read_documents(write("x.jsonl", records), quarantine=quarantine))) == 2
    assert quarantine.entries[0].line == 2 and "strange" in quarantine.entries[0].reason


def test_an_empty_file_among_others_is_noted(tmp_path, write, prose):
    write("a.jsonl", [{"text": prose(1)}])
    (tmp_path / "b.jsonl").write_text("")
    quarantine = Quarantine()
    assert len(list(read_documents(tmp_path, quarantine=quarantine))) == 1 and quarantine.count == 1


def test_source_is_the_records_or_the_files(write, prose):
    path = write("web.jsonl", [{"text": prose(1), "source": "somewhere"}, {"text": prose(2)}])
    assert [item["source"] for item in read_documents(path)] == ["somewhere", "web"]
    assert [item["source"] for item in read_documents(path, source="file")] == ["web", "web"]


def test_plain_text_is_a_document_and_long_text_is_cut_at_paragraphs(tmp_path, prose):
    draw = random.Random(0)
    paragraphs = [prose(i, draw.randint(50, 200)) for i in range(16_000)]
    text = "\n\n".join(paragraphs)
    (tmp_path / "book.txt").write_text(text, encoding="utf-8")
    pieces = [item["text"] for item in read_documents(tmp_path / "book.txt")]
    assert len(pieces) > 8 and max(map(len, pieces)) < (1 << 17) + 300
    assert "\n\n".join(pieces) == text
    (tmp_path / "note.md").write_text("---\ntitle: 题\n---\n# 题\n\n正文。\n", encoding="utf-8")
    assert [item["text"] for item in read_documents(tmp_path / "note.md")] == ["# 题\n\n正文。"]


def test_a_book_without_blank_lines_is_cut_at_line_ends_and_a_short_one_not_at_all(tmp_path, prose):
    lines = [prose(number, 60) for number in range(10_000)]
    (tmp_path / "book.txt").write_text("\n".join(lines), encoding="utf-8")
    pieces = [item["text"] for item in read_documents(tmp_path / "book.txt")]
    assert (
        "\n".join(pieces) == "\n".join(lines)
        and all(len(piece) < (1 << 18) + 100 for piece in pieces)
        and len(pieces) == 3
    )
    short = "\n\n".join(lines[:1500])
    (tmp_path / "short.txt").write_text(short, encoding="utf-8")
    assert [item["text"] for item in read_documents(tmp_path / "short.txt")] == [short]
    (tmp_path / "page.html").write_text("\n\n".join(lines[:4000]), encoding="utf-8")
    assert len(list(read_documents(tmp_path / "page.html"))) == 1


def test_a_line_without_end_is_cut(tmp_path):
    """Every few million characters, and never within a separator."""
    line = "".join(map(chr, range(0x4E00, 0x9000))) * 800
    (tmp_path / "line.txt").write_text(line, encoding="utf-8")
    pieces = [item["text"] for item in read_documents(tmp_path / "line.txt")]
    assert "".join(pieces) == line and max(map(len, pieces)) < 6 << 20 and len(pieces) < 6
    for shift in range(0, 40, 3):
        first, second = "甲" * ((4 << 20) - shift), "乙" * 100
        blocks = [first[begin : begin + 349_525] for begin in range(0, len(first), 349_525)]
        parts = list(_text_lines(iter([*blocks, "<|endoftext|>" + second, "丙" * 30 + "\n丁"]), 4 << 20))
        assert "".join(parts) == first + "<|endoftext|>" + second + "丙" * 30 + "\n丁"
        assert sum(part.count("<|endoftext|>") for part in parts) == 1


def test_lines_of_an_array_are_counted(tmp_path):
    path = tmp_path / "x.json"
    path.write_text(
        '[\n {"text": "一"},\n\n {"text": 1},\n {"text": "二"}, {"text": 2}\n,{"text":\n3}]', encoding="utf-8"
    )
    quarantine = Quarantine()
    assert len(list(read_documents(path, quarantine=quarantine))) == 2
    assert [entry.line for entry in quarantine.entries] == [4, 5, 6]


def test_the_checkable_answer_beside_the_messages_is_kept(tmp_path):
    """What GRPO compares with; other layouts' `answer` is the reply itself."""
    file = tmp_path / "problems.jsonl"
    file.write_text(
        '{"messages": [{"role": "user", "content": "1加1？"}, '
        '{"role": "assistant", "content": "2"}], "answer": 2}\n',
        encoding="utf-8",
    )
    (record,) = read_conversations(file)
    assert record["answer"] == 2
