"""FewCLUE (Xu et al. 2021): seven of its tasks, asked without training.

All but chid ask for a label. A label is a word that we choose, and how common that word is says more than a
small model knows; so `pmi` decides there, which takes it off. OpenCompass compares two different texts in csl
(a test of length) and asks ocnli's neutral with a prompt of its own: those two are not offered.
"""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

from hanlin.common.errors import HanlinError
from hanlin.common.messages import Text
from hanlin.evaluation.benchmarks.base import Benchmark, column, register_benchmark
from hanlin.evaluation.benchmarks.folder import Folder
from hanlin.evaluation.benchmarks.items import Form, Item, LeftOut, Prompt


def _zh(asked: str) -> dict[Form, Prompt]:
    """The prompts of a task with labels.

    Args:
        asked: the text and the question about it.
    """
    return {
        "cloze": Prompt(f"{asked}\n答案：", main="pmi"),
        "letters": Prompt(f"{asked}\n{{options}}\n答案：", "{letter}", main="sum"),
    }


def _opencompass(template: str, *choices: str) -> dict[Form, Prompt]:
    """Its prompt: what decides is the mean over the whole text, so that all of it is scored."""
    return {"cloze": Prompt("", template, choices, main="token", bare=None)}


class FewCLUE(Benchmark):
    """Files `{task}/{split}.json`, a JSON object a line."""

    licence = "none stated"
    home = "https://github.com/CLUEbenchmark/FewCLUE"
    split = "test_public"
    shots_split = "train_few_all"

    def read(self, folder: Folder, split: str) -> Iterator[Item | LeftOut]:
        """Items in the file's order."""
        for name in self.files(folder, f"{self.name}/{split}.json"):
            for place, row in enumerate(folder.rows(name)):
                where = f"{folder.where(name)}:{place + 1}"
                yield self.item(str(row.get("id", row.get("idx", place))), row, where)

    @abc.abstractmethod
    def item(self, id: str, row: Mapping[str, Any], where: str) -> Item | LeftOut:
        """The item of a line."""


class Labelled(FewCLUE):
    """A task whose answer is a label.

    Attributes:
        labels: the label of the file → the word that stands for it.
        label_column: where it is.
        columns: those of the passage, if there is one, and of the question.
    """

    labels: ClassVar[Mapping[str, str]]
    label_column: ClassVar[str] = "label"
    columns: ClassVar[tuple[str, ...]]

    def item(self, id: str, row: Mapping[str, Any], where: str) -> Item | LeftOut:
        """The item of a line, its label among the words."""
        label = column(row, self.label_column, where=where)
        if label not in self.labels:
            return LeftOut(id, Text("a label that is none of the task's"))
        *passage, question = (column(row, name, where=where) for name in self.columns)
        return Item(
            id,
            question,
            tuple(self.labels.values()),
            list(self.labels).index(label),
            passage="".join(passage),
        )


@register_benchmark
class BUSTM(Labelled):
    """`sentence1, sentence2, label`: do two requests to a phone mean the same?"""

    name = "bustm"
    title = Text("BUSTM: do two short sentences mean the same?")
    counts = {"train_few_all": 160, "dev_few_all": 160, "test_public": 1772}
    sha256 = {
        "train_few_all": "243c9a290e7699c55be8096d8e8f212fdcf5d6db721fed9320869c82a256e130",
        "dev_few_all": "2ddea22d5845385f5175f4a38cc690ea12c82d4fee2519a473be7f10873d828b",
        "test_public": "51b6d355daea9705bc5ae167f7b6d8c7b7f10476b386bc8c19798a8d55946224",
    }
    columns = ("sentence1", "sentence2")
    labels = {"0": "不同", "1": "相同"}
    prompts = {
        "hanlin-zh": _zh("句子一：{passage}\n句子二：{question}\n问题：这两句话的意思相同还是不同？"),
        "opencompass-ppl": _opencompass(
            "语句一：“{passage}”\n语句二：“{question}”\n请判断语句一和语句二说的是否是一个意思？\n{choice}",
            "两句话说的毫不相关。",
            "两句话说是的一个意思。",
        ),
    }


@register_benchmark
class EPRSTMT(Labelled):
    """`sentence, label Positive/Negative`: is a customer content?"""

    name = "eprstmt"
    title = Text("EPRSTMT: is a review good or bad?")
    counts = {"train_few_all": 160, "dev_few_all": 160, "test_public": 610}
    sha256 = {
        "train_few_all": "eeee9e2e266ebd99113297f277dacef2a3bec153cdc88a8c4e99b3164c1cea1c",
        "dev_few_all": "a99749c5f895251be6d005eaad7299843f8fd1327c1e70493f658cd08a664cc1",
        "test_public": "ba70b19c1c72caef3d598e5dd993890b388ee6ababd7392f8354519276d2f8c1",
    }
    columns = ("sentence",)
    labels = {"Negative": "差评", "Positive": "好评"}
    prompts = {
        "hanlin-zh": _zh("评论：{question}\n问题：这是好评还是差评？"),
        "opencompass-ppl": _opencompass('内容： "{question}"。情绪分类：\n{choice}', "消极。", "积极。"),
    }


@register_benchmark
class OCNLI(Labelled):
    """`sentence1, sentence2, label`: does the first entail the second? A label `-` is none: the annotators
    did not agree."""

    name = "ocnli"
    title = Text("OCNLI: does one sentence follow from another?")
    counts = {"train_few_all": 160, "dev_few_all": 160, "test_public": 2520}
    sha256 = {
        "train_few_all": "31b3f13f63d138b43a3faf11c3256d08e1703e5ced85df284a756ce216cd8f12",
        "dev_few_all": "96d80dc4b34d315cabfb923ca95172da1610826b745c346450030fdc89fe8d9d",
        "test_public": "bc6114f9759720db2a29c99b56b8437f9d49eabf1ba2d55a41d5d05ebed22334",
    }
    columns = ("sentence1", "sentence2")
    labels = {"entailment": "一定对", "neutral": "不一定", "contradiction": "一定错"}
    prompts = {
        "hanlin-zh": _zh("已知：{passage}\n推断：{question}\n问题：这个推断一定对、不一定还是一定错？")
    }


@register_benchmark
class CSL(Labelled):
    """`abst, keyword: [words], label`: are these all keywords of the abstract, or is one of them made up?"""

    name = "csl"
    title = Text("CSL: are these the keywords of an abstract?")
    counts = {"train_few_all": 160, "dev_few_all": 160, "test_public": 2838}
    sha256 = {
        "train_few_all": "7db5f2acd0c12ea19d44310c78c3bd3e48ae92c2f1bafb485d9bff3fad6550ef",
        "dev_few_all": "6a61bba8d7607121022ca78816b1c81fec951d9b5656866cc93afe41dbb2d6bb",
        "test_public": "c02274e7372251ac1e6ffb80ffdfb93ee8c7859ad5c3d17c22db9f965996e40e",
    }
    columns = ("abst", "keyword")
    labels = {"0": "不是", "1": "是"}
    prompts = {"hanlin-zh": _zh("摘要：{passage}\n关键词：{question}\n问题：这些词都是这篇摘要的关键词吗？")}

    def item(self, id: str, row: Mapping[str, Any], where: str) -> Item | LeftOut:
        """The item of a line, its keywords in one text."""
        words = row.get("keyword")
        joined = {"keyword": "、".join(map(str, words))} if isinstance(words, list) else {}
        return super().item(id, {**row, **joined}, where)


@register_benchmark
class TNEWS(Labelled):
    """`sentence, keywords, label, label_desc`: what is a headline about?"""

    name = "tnews"
    title = Text("TNEWS: what is a headline about?")
    counts = {"train_few_all": 1185, "dev_few_all": 1098, "test_public": 2010}
    sha256 = {
        "train_few_all": "e42a5d9c7b66cbbaa87cf452788dd48c14fd7a239ad8892ccb7c7173128f8e05",
        "dev_few_all": "930f597bf6a0f0128232fbeeaa55946e25ebb243b60fe0419bc18c3ba30a939c",
        "test_public": "3dae0e61cba1ea26af3e82c95be0a56e16409508c9451f1aec55fc6f0b87de93",
    }
    columns = ("sentence",)
    label_column = "label_desc"
    labels = {
        "news_story": "故事",
        "news_culture": "文化",
        "news_entertainment": "娱乐",
        "news_sports": "体育",
        "news_finance": "财经",
        "news_house": "房产",
        "news_car": "汽车",
        "news_edu": "教育",
        "news_tech": "科技",
        "news_military": "军事",
        "news_travel": "旅游",
        "news_world": "国际",
        "news_stock": "股票",
        "news_agriculture": "农业",
        "news_game": "游戏",
    }
    prompts = {
        "hanlin-zh": _zh("新闻标题：{question}\n问题：这条新闻属于哪一类？"),
        "opencompass-ppl": _opencompass(
            "{question}\n上述内容属于什么新闻？\n{choice}",
            "故事类别新闻",
            "书籍文化历史类别新闻",
            "娱乐圈新闻",
            "体育类别新闻",
            "投资资讯",
            "楼市新闻",
            "车辆新闻",
            "初升高教育新闻",
            "科技类别公司新闻",
            "军事类别常识",
            "旅游新闻",
            "环球不含中国类别新闻",
            "股票市场类别新闻",
            "农业新闻",
            "游戏新闻",
        ),
    }


@register_benchmark
class CLUEWSC(Labelled):
    """`text, target: {span1_text, span2_text, …}, label`: does a pronoun mean a noun of the same text?"""

    name = "cluewsc"
    title = Text("CLUEWSC: whom does a pronoun mean?")
    counts = {"train_few_all": 160, "dev_few_all": 159, "test_public": 976}
    sha256 = {
        "train_few_all": "85843151c5f171bbefccd96b724dd73f2f7708350a0e2581e270fe01e496e754",
        "dev_few_all": "33e1ee1f5fbc771653308f08fdf14cfc5954ba33897e2c50179dba0df4968696",
        "test_public": "bfbcb44558a4fe1d1a6eaa2394d4d09764c307b32a82bd40c6a4f35e5e4ed54c",
    }
    columns = ("text", "span2_text")
    labels = {"false": "不是", "true": "是"}
    prompts = {
        "hanlin-zh": _zh("{passage}\n问题：这里的“{question}”指的是“{noun}”吗？"),
        "opencompass-ppl": _opencompass(  # both quotation marks open, as published
            "{passage}\n此处，代词“{question}“被用于指代“{noun}“吗?\n{choice}", "否", "是"
        ),
    }

    def item(self, id: str, row: Mapping[str, Any], where: str) -> Item | LeftOut:
        """The item of a line, its question the pronoun."""
        target = row.get("target")
        if not isinstance(target, dict):
            raise HanlinError("{where} has no `target` with span1_text and span2_text.", where=where)
        item = super().item(id, {**row, **target}, where)
        if isinstance(item, LeftOut):
            return item
        return dataclasses.replace(item, more={"noun": column(target, "span1_text", where=where)})


@register_benchmark
class CHID(FewCLUE):
    """`content` with `#idiom#`, seven `candidates`, `answer`: which idiom belongs there? Scored is what comes
    after it, so that the idioms' own frequency plays no part."""

    name = "chid"
    title = Text("CHID: which idiom belongs here?")
    counts = {"train_few_all": 202, "dev_few_all": 202, "test_public": 2002}
    sha256 = {
        "train_few_all": "21f6cf02d56430587f9b53022500839e19f3d15b173b35d63768ee7a29794c0c",
        "dev_few_all": "770c296169cdb60849dcb3d41f00eacca3c2b50807ad639a9e0467b5c7687eb8",
        "test_public": "b966f603ba09b783e788455a6ecf541e33ec1f792277cbc4d93dd618695b8bd6",
    }
    prompts = {
        "hanlin-zh": {
            "cloze": Prompt("{before}{choice}", "{after}", main="sum", bare=None),
            "letters": Prompt(
                "{question}\n问题：横线处应填哪个成语？\n{options}\n答案：", "{letter}", main="sum"
            ),
        },
        "opencompass-ppl": _opencompass("以下句子是否通顺？\n{before}{choice}{after}\n这个句子是通顺的。"),
    }

    def item(self, id: str, row: Mapping[str, Any], where: str) -> Item | LeftOut:
        """The item of a line, its text cut at the gap."""
        content, candidates = column(row, "content", where=where), row.get("candidates")
        if not isinstance(candidates, list) or "#idiom#" not in content:
            raise HanlinError("{where} has no `candidates`, or no #idiom# in its text.", where=where)
        before, _, after = content.partition("#idiom#")
        if not after:
            return LeftOut(id, Text("nothing comes after the gap"))
        gold = column(row, "answer", where=where)
        return Item(
            id,
            f"{before}____{after}",
            tuple(map(str, candidates)),
            int(gold) if gold.isdigit() else None,
            more={
                "before": before,
                "after": after,
            },
        )
