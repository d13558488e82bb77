"""Signals equal a naive count, rules act at their threshold and not before it, and every drop is accounted for."""

from __future__ import annotations

import collections
import math
import random

import numpy as np
import pytest

from hanlin.common.errors import HanlinError
from hanlin.corpus.characters import COMMON_HAN, is_han
from hanlin.corpus.clean import SAMPLES, Cleaner, Samples
from hanlin.corpus.promotion import frame_line, promotional_points
from hanlin.corpus.readers import read_documents
from hanlin.corpus.rules import PRESETS, RULES, CleanConfig, preset
from hanlin.corpus.signals import measure

ALPHABET = "的一是不了在人有我他一二三四五魑魅，。！？ab Z9 8#+=★【】\n\n•-\ufffdé𠮷〇"


def naive(text: str) -> dict[str, float]:
    """The signals of one text, counted the slow way."""
    import unicodedata

    solid = [c for c in text if c != "\n" and unicodedata.category(c)[0] != "Z" and c != "\t"]
    kind = {c: unicodedata.category(c)[0] for c in solid}
    chars = len(solid)
    han = sum(map(is_han, solid))
    letters = sum(kind[c] in "LM" and not is_han(c) for c in solid)
    words = [c for c in solid if (is_han(c) or kind[c] in "LMN") and c != "\ufffd"]
    lines = [line for line in text.split("\n") if line]
    result = {
        "chars": chars,
        "han": han,
        "han_share": han / (han + letters) if han + letters else 1.0,
        "digit_share": sum(kind[c] == "N" and not is_han(c) for c in solid) / max(chars, 1),
        "symbol_share": sum(kind[c] == "S" and c != "\ufffd" for c in solid) / max(chars, 1),
        "bracket_share": sum(c in "【】" for c in solid) / max(chars, 1),
        "replacement_share": solid.count("\ufffd") / max(chars, 1),
        "common_share": sum(c in COMMON_HAN for c in solid) / han if han else 1.0,
        "mean_line": chars / max(len(lines), 1),
        "terminal_share": sum(line[-1] in '。！？；…!?;.:：”」』’）)》】"～~' for line in lines) / max(len(lines), 1),
        "bullet_share": sum(line[0] in "•●▪■◆◇★☆▶►·-*–—" for line in lines) / max(len(lines), 1),
        "punctuation_share": sum(kind[c] == "P" for c in solid) / max(chars, 1),
        "entropy": -sum(n / len(words) * math.log(n / len(words)) for n in collections.Counter(words).values()) if words else 0.0,
    }
    for n in (2, 3, 4):
        grams = collections.Counter("".join(words[i : i + n]) for i in range(len(words) - n + 1))
        top = max(grams.values(), default=0)
        result[f"top_count_{n}"], result[f"top_share_{n}"] = top, min(1.0, n * top / max(len(words), 1))
    grams = ["".join(words[i : i + 13]) for i in range(len(words) - 12)]
    result["duplicate_share"] = 1 - len(set(grams)) / len(grams) if grams else 0.0
    return result


def test_signals_equal_a_naive_count():
    draw = random.Random(7)
    texts = ["", "\n", "一", "ab", *("".join(draw.choices(ALPHABET, k=draw.randint(0, 200))) for _ in range(150))]
    texts += [text * 4 for text in texts[-20:]] + ["".join(draw.choices("的一", k=100)) for _ in range(5)]
    texts = ["\n".join(line.rstrip(" ").lstrip(" ") for line in text.split("\n")) for text in texts]
    signals = measure(texts)
    for index, text in enumerate(texts):
        for name, value in naive(text).items():
            values = getattr(signals, name[:-2])[int(name[-1]) - 2] if name.startswith("top_") else getattr(signals, name)
            found = values[index]
            assert found == pytest.approx(value, abs=1e-9), (name, text)


def test_signals_do_not_depend_on_the_batch(prose):
    texts = [prose(i, 30 + i) for i in range(40)]
    together, alone = measure(texts), [measure([text]) for text in texts]
    for name in vars(together):
        separate = np.concatenate([getattr(one, name) for one in alone], axis=-1)
        np.testing.assert_allclose(getattr(together, name), separate, atol=1e-12, err_msg=name)


# For each rule a text, and the field whose threshold, set to the text's own signal, must keep it, and just beyond drop it.
AT = {
    "too_short": ("min_chars", lambda s: s.chars[0], +1),
    "too_long": ("max_chars", lambda s: s.chars[0], -1),
    "replacement_characters": ("max_replacement_share", lambda s: s.replacement_share[0], -1e-9),
    "uncommon_han": ("min_common_share", lambda s: s.common_share[0], +1e-9),
    "han_share": ("min_han_share", lambda s: s.han_share[0], +1e-9),
    "digit_share": ("max_digit_share", lambda s: s.digit_share[0], -1e-9),
    "symbol_share": ("max_symbol_share", lambda s: s.symbol_share[0], -1e-9),
    "bracket_share": ("max_bracket_share", lambda s: s.bracket_share[0], -1e-9),
    "short_lines": ("min_mean_line", lambda s: s.mean_line[0], +1e-9),
    "terminal_punctuation": ("min_terminal_share", lambda s: s.terminal_share[0], +1e-9),
    "bullets": ("max_bullet_share", lambda s: s.bullet_share[0], -1e-9),
    "no_punctuation": ("min_punctuation_share", lambda s: s.punctuation_share[0], +1e-9),
    "low_entropy": ("min_entropy", lambda s: s.entropy[0], +1e-9),
    "repeated_2gram": ("max_top_2gram_share", lambda s: s.top_share[0][0], -1e-9),
    "repeated_3gram": ("max_top_3gram_share", lambda s: s.top_share[1][0], -1e-9),
    "repeated_4gram": ("max_top_4gram_share", lambda s: s.top_share[2][0], -1e-9),
    "repeated_13gram": ("max_duplicate_share", lambda s: s.duplicate_share[0], -1e-9),
}


def test_every_rule_acts_just_beyond_its_threshold(prose):
    assert set(AT) == {rule.name for rule in RULES}
    text = "•不了ab12【】=\ufffd\n• 在人有我他\n" + prose(3, 200) + "魑魅魍魉的一是不了在人有我他这个们中来上" * 10 + "\n没有句号"
    signals = measure([text])
    for name, (field, value, beyond) in AT.items():
        at = float(value(signals)) if "chars" not in field else int(value(signals))
        kept, dropped = (Cleaner(preset("none", {"min_repeats": 1, field: threshold})) for threshold in (at, at + beyond))
        assert kept([{"text": text}]) == [{"text": text}], name
        assert dropped([{"text": text}]) == [None], name
        assert list(dropped.drops.samples) == [name]


def test_presets_refuse_what_they_do_not_know():
    with pytest.raises(HanlinError, match="zh-web"):
        preset("zh_web")
    with pytest.raises(HanlinError, match="min_chars"):
        preset("zh-web", {"min_char": 3})
    for wrong in ({"max_digit_share": 1.5}, {"min_chars": -1}, {"min_chars": 10, "max_chars": 5}):
        with pytest.raises((ValueError, HanlinError)):
            CleanConfig(**wrong)


def test_the_preset_none_changes_nothing():
    awkward = ["", " \x00\u200b<p>&nbsp;", "ÆªÃû", "点击加微信abc12345领红包！！！", "\ufffd" * 9, "a" * 10_000]
    assert Cleaner(PRESETS["none"])([{"text": text, "source": "s"} for text in awkward]) == [
        {"text": text, "source": "s"} for text in awkward
    ]


def test_drops_and_kept_add_up_and_samples_do_not_depend_on_order(prose):
    documents = [{"text": text, "source": str(i % 3)} for i in range(300) for text in (prose(i), "短" * (i % 9), f"{i}" * 30)]
    first, second = Cleaner(PRESETS["zh-web"]), Cleaner(PRESETS["zh-web"])
    kept = sum(item is not None for item in first(documents))
    random.Random(1).shuffle(documents)
    for start in range(0, len(documents), 37):
        second(documents[start : start + 37])
    counted = first.drops.to_dict()
    assert kept + sum(about["count"] for about in counted.values()) == len(documents)
    assert (
        all(len(about["samples"]) <= SAMPLES for about in counted.values()) and max(about["count"] for about in counted.values()) > SAMPLES
    )
    assert [(name, [item["text"] for item in about["samples"]]) for name, about in counted.items()] == [
        (name, [item["text"] for item in about["samples"]]) for name, about in second.drops.to_dict().items()
    ]


def test_samples_are_a_bounded_set_of_what_came():
    samples = Samples()
    for i in range(1000):
        samples.add(f"文本{i}")
    assert samples.count == 1000 and len(samples.items()) == SAMPLES == len({item["text"] for item in samples.items()})


ADVERTISEMENTS = [
    "诚招加盟代理，日赚500元不是梦，详情咨询微信：wx8823abc！",
    "厂家直销各类钢材，量大从优，订购热线：0755-88231234，欢迎来电咨询。",
    "★★★全场五折起！！！限时抢购，点击 www.example-shop.com 立即下单★★★",
    "专业代开发票，办证刻章，电话13812345678，货到付款",
    "扫码加群领取优惠券，满300减50，先到先得，QQ群：823456789",
]
PROSE = [
    "他打电话给我，说火车晚点了，让我在站台上等他。",
    "点击“文件”菜单，选择“另存为”，然后输入文件名。",
    "全国人大代表建议免费向农村儿童提供营养午餐，并加强学校食堂的管理。",
    "详情见官网 https://www.gov.cn/zhengce 上的通知。",
    "如有疑问，请拨打12345市民服务热线。",
    "昨天商场打折，我和妈妈买了两件毛衣，又便宜又好看！",
    "公司注册资本为一千万元，主营业务为物流和仓储，客服电话开通时间为9时至18时。",
    "作者邮箱是 someone@example.org，欢迎批评指正。",
]


def test_advertisements_and_prose_are_told_apart():
    assert [line for line in ADVERTISEMENTS if promotional_points(line) < 3] == []
    assert [line for line in PROSE if promotional_points(line) >= 3] == []


def test_page_furniture_and_text_are_told_apart():
    furniture = [
        "上一篇：春天来了",
        "返回首页",
        "责任编辑：张三",
        "Copyright © 2020 某某公司",
        "京ICP备12345678号",
        "阅读 1234 次",
        "首页 > 新闻 > 国内",
        "未经授权，不得转载。",
        "下一页 | 尾页",
        "相关阅读：",
    ]
    text = [
        "上一章我们学习了分数。",
        "来源于生活，高于生活。",
        "未经业主同意，不得占用公共场所。",
        "关键词：人工智能；教育",
        "他返回首页后关掉了电脑。",
        "首先要尊重作者。",
        "编辑部的同事们都来了。",
    ]
    assert [line for line in furniture if not frame_line(line)] == []
    assert [line for line in text if frame_line(line)] == []


def test_a_line_of_advertisement_goes_the_document_stays(prose):
    cleaner = Cleaner(PRESETS["zh-web"])
    text = prose(1, 300)
    (kept,) = cleaner([{"text": f"{text}\n{ADVERTISEMENTS[0]}\n责任编辑：李四\n{text[:80]}。"}])
    assert kept is not None and kept["text"] == f"{text}\n{text[:80]}。"
    assert {name: about["count"] for name, about in cleaner.lines.to_dict().items()} == {"promotional_line": 1, "page_furniture_line": 1}
    assert cleaner([{"text": "\n".join(ADVERTISEMENTS)}]) == [None]
    fenced = f"{text}\n```\n返回首页\n{ADVERTISEMENTS[0]}\n```\n{text}"
    assert cleaner([{"text": fenced}])[0] == {"text": fenced}


@pytest.mark.parametrize("name", ["news_xwlb", "law", "history_modern", "weekly_essays"])
@pytest.mark.parametrize("name_of_preset", ["zh-web", "zh-short"])
def test_clean_sources_lose_two_percent_at_most(shared, name, name_of_preset):
    documents = list(read_documents(shared(f"pretrain_zh/{name}.jsonl.zst")))
    documents = random.Random(0).sample(documents, 300)
    cleaner = Cleaner(PRESETS[name_of_preset])
    kept = [item for item in cleaner(documents) if item]
    assert len(kept) >= 0.98 * 300, cleaner.drops.to_dict()
    before = sum(len(item["text"]) for item in documents)
    assert sum(len(item["text"]) for item in kept) >= 0.95 * before  # and they are not hollowed out


def test_betting_brands_in_spun_texts(shared):
    cleaner = Cleaner(PRESETS["zh-web"])
    documents = list(read_documents(shared("fixtures_dirty/spam_seo_chineseWebText.jsonl")))
    branded = [
        index
        for index, item in enumerate(documents)
        if any(mark in item["text"][:60] for mark in ("威尼斯人", "yabo", "betway", "体育app", "体育官方", "币游国际", "bt365"))
    ]
    result = cleaner(documents)
    assert len(branded) >= 6 and all(result[index] is None for index in branded)
    assert cleaner.drops.to_dict()["promotion"]["count"] <= 15  # of 100 ordinary crawl pages


def test_mojibake_and_lossy_text_do_not_survive(shared):
    cleaner = Cleaner(PRESETS["zh-web"])
    kept = [item for item in cleaner(list(read_documents(shared("fixtures_dirty/mojibake.jsonl")))) if item]
    assert all("锟斤拷" not in item["text"] and "Ã" not in item["text"] and "鈥" not in item["text"] for item in kept)
    assert len(kept) <= 1  # the one repaired
