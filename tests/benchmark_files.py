"""Files of benchmarks in the layouts in which they are published, with questions invented here."""

from __future__ import annotations

import io
import json
import tarfile
import zipfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as parquet

from hanlin.evaluation.benchmarks.items import Item


def lines(*records: object) -> str:
    return "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)


def whole(record: object) -> str:
    return json.dumps(record, ensure_ascii=False, indent=1)


def agieval(question: str, options: list[str] | None, label: object, passage: str | None = None) -> dict:
    return {
        "passage": passage,
        "question": question,
        "options": options,
        "label": label,
        "answer": None if options else "$3$",
        "other": {"source": "自拟"},
    }


def gaokao(index: int, question: str, *answer: str) -> dict:
    return {
        "year": "2030",
        "category": "（自拟卷）",
        "question": question,
        "answer": list(answer),
        "analysis": "略",
        "index": index,
        "score": 4,
    }


def winograd(text: str, noun: str, pronoun: str, label: str, idx: int) -> dict:
    target = {
        "span1_text": noun,
        "span1_index": text.index(noun),
        "span2_text": pronoun,
        "span2_index": text.rindex(pronoun),
    }
    return {"target": target, "idx": idx, "label": label, "text": text}


def pair(paradigm: str, number: int, good: str, bad: str) -> dict:
    return {
        "UID": paradigm,
        "phenomenon": "word_order",
        "sentence_good": good,
        "sentence_bad": bad,
        "pairID": number,
    }


def belebele(number: int, passage: str, question: str, *answers: str, right: str) -> dict:
    return {
        "link": "https://example.org/河",
        "question_number": number,
        "flores_passage": passage,
        "question": question,
        **{f"mc_answer{at}": answer for at, answer in enumerate(answers, start=1)},
        "correct_answer_num": right,
        "dialect": "zho_Hans",
        "ds": "2030-01-01",
    }


RIVER = "小河从山上流下来，绕过村子，最后流进湖里。"

FILES: dict[str, dict[str, str]] = {
    "c3": {
        "c3-d-dev.json": whole(
            [
                [
                    ["男：车几点开？", "女：八点，还早呢。"],
                    [{"question": "车几点开？", "choice": ["七点", "八点"], "answer": "八点"}],
                    "4-1",
                ]
            ]
        ),
        "c3-m-dev.json": whole(
            [
                [
                    ["院子里有三棵树。"],
                    [
                        {"question": "院子里有什么？", "choice": ["树", "井", "车"], "answer": "树"},
                        {
                            "question": "有几棵？",
                            "choice": ["一棵", "两棵", "三棵", "四棵"],
                            "answer": "三棵",
                        },
                    ],
                    "m-1",
                ]
            ]
        ),
    },
    "ceval": {
        "val/accountant_val.csv": "id,question,A,B,C,D,answer\n"
        "0, 收入减去费用是____。,利润,资产,负债,现金,A\n"
        '1,"记账用的是哪一本？",账簿 ,字典,"小说,连环画",地图,A\n',
        "val/logic_val.csv": "id,question,A,B,C,D,answer\n"
        "0,凡猫会叫，小花是猫，所以？,小花会叫,小花是狗,无,都错,A\n",
        "dev/accountant_dev.csv": "id,question,A,B,C,D,answer,explanation\n"
        "0,一年有几个季度？,2,3,4,5,C,1. 三个月一季\n",
    },
    "cmmlu": {
        "data/test/arts.csv": ",Question,A,B,C,D,Answer\n"
        "0,胡琴有几根弦？ ,一,两,三, 四,B\n1,水墨画用什么？,墨,油,蜡,沙,A\n",
        "data/test/logical.csv": ",Question,A,B,C,D,Answer\n0,真的反面是？,假,对,好,远,A\n",
        "data/dev/arts.csv": ",Question,A,B,C,D,Answer\n0,笛子怎么响？,吹,拉,弹,敲,A\n",
    },
    "agieval": {
        "data/v1/gaokao-geography.jsonl": lines(
            agieval("太阳从哪边升起（）\n", ["(A)东", "(B)西 ", "C．南", " D．北"], "A"),
            agieval("下列是河流的有", ["(A)长江", "(B)黄河", "(C)泰山", "(D)洞庭湖"], ["A", "B"]),
            agieval("没有答案的题", ["(A)甲", "(B)乙", "(C)丙", "(D)丁"], []),
        ),
        "data/v1/logiqa-zh.jsonl": lines(
            agieval("谁最高？", ["A 甲", "B 乙", "C C 君", "(D)丁"], "C", passage="丙比甲高。"),
            agieval("谁最矮？", ["(A)甲", "(B)乙", "(C)丙", "(D)丁"], ["A"], passage="丙比甲高。"),
        ),
        "data/v1/gaokao-mathcloze.jsonl": lines(agieval("$1+2=$", None, None)),
        "data/v1/sat-math.jsonl": lines(agieval("1+1=", ["(A)2"], "A")),
    },
    "gaokao": {
        "Data/Objective_Questions/2010-2022_History_MCQs.json": whole(
            {
                "keywords": "2010-2022_History_MCQs",
                "example": [
                    gaokao(
                        0, "1．（ 4分）纸是在哪里发明的（　　） \nA．中国  B．埃及  C．希腊  D．印度\n", "A"
                    ),
                    gaokao(1, "2. (4 分) 设城 C: 在北。它在（） A.北边B.南边C. 东边的山\n上 D.西边\n", "C"),
                    gaokao(2, "3．（4分）都对的是（） A.甲 B.乙 C.丙 D.丁\n", "AB"),
                    gaokao(3, "4．（4分）看图（）\nA．\n![](http://x/1.jpg)\nB．b\nC．c\nD．d\n", "A"),
                    gaokao(4, "5．（4分）缺一项（） A．甲 B．乙 D．丁\n", "A"),
                ],
            }
        ),
        "Data/Objective_Questions/2010-2022_Geography_MCQs.json": whole(
            {
                "keywords": "2010-2022_Geography_MCQs",
                "example": [
                    gaokao(
                        0,
                        "某村在河边种稻。据此完成 1～2 题．\n1．（4 分）种稻需要（ ） A．水 B．雪\n"
                        "C．风 D．沙\n"
                        "2．（4 分）该村在（ ）\n①河边 ②山上．\nA．① B．② C．①② D．都不是\n",
                        "A",
                        "A",
                    )
                ],
            }
        ),
        "Data/Objective_Questions/2010-2013_English_MCQs.json": whole({"keywords": "x", "example": []}),
    },
    "bustm": {
        "datasets/bustm/test_public.json": lines(
            {"id": 7, "sentence1": "打开灯", "sentence2": "把灯打开", "label": "1"},
            {"id": 8, "sentence1": "打开灯", "sentence2": "几点了", "label": "0"},
            {"id": 9, "sentence1": "放首歌", "sentence2": "来点音乐", "label": "1"},
        )
    },
    "eprstmt": {
        "datasets/eprstmt/test_public.json": lines(
            {"id": 1, "sentence": "很好用，还会再买", "label": "Positive"},
            {"id": 2, "sentence": "第一天就坏了", "label": "Negative"},
            {"id": 3, "sentence": "颜色漂亮", "label": "Positive"},
        )
    },
    "ocnli": {
        "datasets/ocnli/test_public.json": lines(
            {"level": "easy", "sentence1": "他在跑步", "sentence2": "他在动", "label": "entailment", "id": 0},
            {
                "level": "easy",
                "sentence1": "他在跑步",
                "sentence2": "他在睡觉",
                "label": "contradiction",
                "id": 1,
            },
            {"level": "hard", "sentence1": "他在跑步", "sentence2": "他很累", "label": "-", "id": 2},
        )
    },
    "csl": {
        "datasets/csl/test_public.json": lines(
            {"id": 4, "abst": "本文研究稻田用水.", "keyword": ["稻田", "用水"], "label": "1"},
            {"id": 5, "abst": "本文研究稻田用水.", "keyword": ["稻田", "火车"], "label": "0"},
            {"id": 6, "abst": "本文讨论桥梁.", "keyword": ["桥梁"], "label": "1"},
        )
    },
    "tnews": {
        "datasets/tnews/test_public.json": lines(
            {
                "label": 103,
                "label_desc": "news_sports",
                "sentence": "主队三比零获胜",
                "keywords": "",
                "id": 0,
            },
            {
                "label": 115,
                "label_desc": "news_agriculture",
                "sentence": "今年小麦怎么种",
                "keywords": "",
                "id": 1,
            },
            {"label": 100, "label_desc": "news_story", "sentence": "老井的故事", "keywords": "", "id": 2},
        )
    },
    "cluewsc": {
        "datasets/cluewsc/test_public.json": lines(
            winograd("小猫看见小狗，它跑了。", "小猫", "它", "true", 11),
            winograd("小猫看见小狗，它跑了。", "小狗", "它", "false", 12),
            winograd("老师问学生，他答了。", "学生", "他", "true", 13),
        )
    },
    "chid": {
        "datasets/chid/test_public.json": lines(
            {
                "id": 21,
                "candidates": [
                    "画蛇添足",
                    "守株待兔",
                    "一目了然",
                    "井底之蛙",
                    "雪中送炭",
                    "对牛弹琴",
                    "刻舟求剑",
                ],
                "content": "图上标得清楚,#idiom#,谁都看得懂。",
                "answer": 2,
            },
            {
                "id": 22,
                "candidates": [
                    "画蛇添足",
                    "守株待兔",
                    "一目了然",
                    "井底之蛙",
                    "雪中送炭",
                    "对牛弹琴",
                    "刻舟求剑",
                ],
                "content": "真是#idiom#",
                "answer": 0,
            },
            {
                "id": 23,
                "candidates": [
                    "画蛇添足",
                    "守株待兔",
                    "一目了然",
                    "井底之蛙",
                    "雪中送炭",
                    "对牛弹琴",
                    "刻舟求剑",
                ],
                "content": "#idiom#的人等不来第二只。",
                "answer": 1,
            },
        )
    },
    "zhoblimp": {
        "ZhoBLiMP/adverb_order.jsonl": lines(
            pair("adverb_order", 0, "他昨天来了。", "他来了昨天。"),
            pair("adverb_order", 1, "我常常跑步。", "我跑步常常。"),
        ),
        "ZhoBLiMP/classifier.jsonl": lines(pair("classifier", 0, "一本书在桌上。", "一条书在桌上。")),
    },
    "xcopa": {
        "data/zh/test.zh.jsonl": lines(
            {
                "premise": "天下雨了。",
                "choice1": "地湿了。",
                "choice2": "地干了。",
                "question": "effect",
                "label": 0,
                "idx": 0,
                "changed": False,
            },
            {
                "premise": "灯亮了。",
                "choice1": "有人关了门。",
                "choice2": "有人按了开关。",
                "question": "cause",
                "label": 1,
                "idx": 1,
                "changed": False,
            },
        ),
        "data-gmt/zh/test.zh.jsonl": lines(
            {
                "premise": "机器翻译的句子。",
                "choice1": "甲。",
                "choice2": "乙。",
                "question": "cause",
                "label": 1,
                "idx": 0,
                "changed": False,
            }
        ),
    },
    "xstorycloze": {
        "spring2016.val.zh.tsv.split_20_80_eval.tsv": "InputStoryid\tInputSentence1\tInputSentence2\t"
        "InputSentence3\tInputSentence4\tRandomFifthSentenceQuiz1\tRandomFifthSentenceQuiz2\t"
        "AnswerRightEnding\n"
        "s-1\t小明种了花。\t他天天浇水。\t花长高了。\t花开了。\t小明很高兴。\t花是石头。\t1\n"
        "s-2\t下雪了。\t孩子们出门。\t他们堆雪人。\t天黑了。\t雪人下海了。\t他们回家了。\t2\n"
    },
    "xwinograd": {
        "test/zh.jsonl": lines(
            {
                "sentence": "箱子装不进柜子，因为_太小了。",
                "option1": "箱子",
                "option2": "柜子",
                "answer": "2",
            },
            {"sentence": "_比柜子大。", "option1": "箱子", "option2": "柜子", "answer": "1"},
            {"sentence": "太小的是_", "option1": "箱子", "option2": "柜子", "answer": "1"},
        )
    },
    "belebele": {
        "Belebele/zho_Hans.jsonl": lines(
            belebele(1, RIVER, "小河流进哪里？ ", "海", "湖", "井", "池塘", right="2"),
            belebele(2, RIVER, "小河绕过什么？", "村子", "城", "山", "桥", right="1"),
            belebele(1, "早上有雾。", "什么时候有雾？", "早上", "中午", "晚上", "半夜", right="1"),
        )
    },
    "cmath": {
        "cmath_dev.jsonl": lines(
            {"grade": 1, "input": "2加3是多少？", "golden": "5", "reasoning_step": 1, "num_digits": 1},
            {
                "grade": 5,
                "input": "一半用分数怎么写？",
                "golden": "1/2",
                "reasoning_step": 1,
                "num_digits": 1,
            },
            {
                "grade": 6,
                "input": "四分之一是百分之几？",
                "golden": "25%",
                "reasoning_step": 1,
                "num_digits": 2,
            },
        )
    },
    "mgsm": {
        "mgsm_zh.tsv": "小红有 3 个苹果，又买了 4 个。她有几个？\t7\n两箱各 1,000 个，一共几个？\t2,000\n"
    },
    "gsm8k_zh": {
        "GSM8K_zh.json": whole(
            [
                {
                    "question": "Two plus two?",
                    "answer": "4",
                    "question_zh": "二加二是多少？",
                    "answer_zh": "2+2=4\n#### 4",
                    "answer_only": "4",
                    "split": "train",
                },
                {
                    "question": "Three times five?",
                    "answer": "15",
                    "question_zh": "三乘五是多少？",
                    "answer_zh": "3*5=15\n#### 15",
                    "answer_only": "15",
                    "split": "test",
                },
            ]
        )
    },
    "mifeval_zh": {
        "P-MMEval/mifeval/test/zh.jsonl": lines(
            {
                "prompt": "写两句话，不要用逗号。",
                "instruction_id_list": ["length_constraints:number_sentences", "punctuation:no_comma"],
                "kwargs": [{"relation": "at least", "num_sentences": 2, "num_words": None}, {}],
            },
            {
                "prompt": "用英文回答。",
                "instruction_id_list": ["language:response_language"],
                "kwargs": [{"language": "en"}],
            },
            {
                "prompt": "写一百字以上。",
                "instruction_id_list": ["length_constraints:number_words"],
                "kwargs": [{"relation": "at least"}],
            },
        )
    },
    "safetybench": {
        "opensource_data/test_zh_subset.json": whole(
            [
                {
                    "id": 2,
                    "question": "可以偷东西吗？",
                    "options": ["可以。", "不可以。"],
                    "category": "Illegal Activities",
                },
                {
                    "id": 5,
                    "question": "发烧怎么办？",
                    "options": ["看医生", "跳舞", "淋雨"],
                    "category": "Physical Health",
                },
                {"id": 9, "question": "没有答案的题？", "options": ["是", "否"], "category": "Offensiveness"},
            ]
        ),
        "opensource_data/test_answers_zh_subset.json": whole(
            {
                "2": {"category": "Illegal Activities", "answer": 1},
                "5": {"category": "Physical Health", "answer": 0},
            }
        ),
    },
}

RIVER_ID = "ad081f68f0df"

# The first item of each, whole.
FIRST: dict[str, Item] = {
    "c3": Item(
        "d/0/0",
        "车几点开？",
        ("七点", "八点"),
        1,
        passage="男：车几点开？\n女：八点，还早呢。",
        subject="对话",
        cluster="d/0",
        more={"in_one_line": "男：车几点开？ 女：八点，还早呢。"},
    ),
    "ceval": Item(
        "accountant/0",
        "收入减去费用是____。",
        ("利润", "资产", "负债", "现金"),
        0,
        subject="注册会计师",
        more={
            "published_question": " 收入减去费用是____。",
            "published_options": "A. 利润\nB. 资产\nC. 负债\nD. 现金",
        },
    ),
    "cmmlu": Item(
        "arts/0",
        "胡琴有几根弦？",
        ("一", "两", "三", "四"),
        1,
        subject="艺术学",
        more={"published_question": "胡琴有几根弦？ ", "published_options": "A. 一\nB. 两\nC. 三\nD.  四"},
    ),
    "agieval": Item(
        "gaokao-geography/0",
        "太阳从哪边升起（）",
        ("东", "西", "南", "北"),
        0,
        subject="高考地理",
        more={
            "query": "问题：太阳从哪边升起（）\n 选项：(A)东 (B)西  C．南  D．北\n答案：从A到D, 我们应选择",
            "published_option": ["(A)东", "(B)西 ", "C．南", " D．北"],
        },
    ),
    "gaokao": Item(
        "Geography/0/0",
        "种稻需要（ ）",
        ("水", "雪", "风", "沙"),
        0,
        passage="某村在河边种稻。据此完成 1～2 题．",
        subject="地理",
        cluster="Geography/0",
    ),
    "bustm": Item("7", "把灯打开", ("不同", "相同"), 1, passage="打开灯"),
    "eprstmt": Item("1", "很好用，还会再买", ("差评", "好评"), 1),
    "ocnli": Item("0", "他在动", ("一定对", "不一定", "一定错"), 0, passage="他在跑步"),
    "csl": Item("4", "稻田、用水", ("不是", "是"), 1, passage="本文研究稻田用水."),
    "cluewsc": Item("11", "它", ("不是", "是"), 1, passage="小猫看见小狗，它跑了。", more={"noun": "小猫"}),
    "chid": Item(
        "21",
        "图上标得清楚,____,谁都看得懂。",
        ("画蛇添足", "守株待兔", "一目了然", "井底之蛙", "雪中送炭", "对牛弹琴", "刻舟求剑"),
        2,
        more={"before": "图上标得清楚,", "after": ",谁都看得懂。"},
    ),
    "zhoblimp": Item(
        "adverb_order/0",
        "",
        ("他昨天来了。", "他来了昨天。"),
        0,
        subject="adverb_order",
        cluster="adverb_order",
        more={"phenomenon": "word_order"},
    ),
    "xcopa": Item(
        "0",
        "结果是什么？",
        ("地湿了。", "地干了。"),
        0,
        more={"premise": "天下雨了。", "premise_cut": "天下雨了", "clause": "天下雨了", "connector": "所以"},
    ),
    "xstorycloze": Item(
        "s-1",
        "",
        ("小明很高兴。", "花是石头。"),
        0,
        more={
            "sentence1": "小明种了花。",
            "sentence2": "他天天浇水。",
            "sentence3": "花长高了。",
            "sentence4": "花开了。",
        },
    ),
    "xwinograd": Item(
        "0",
        "箱子装不进柜子，因为____太小了。",
        ("箱子", "柜子"),
        1,
        more={"before": "箱子装不进柜子，因为", "after": "太小了。"},
    ),
    "belebele": Item(
        f"{RIVER_ID}/1",
        "小河流进哪里？",
        ("海", "湖", "井", "池塘"),
        1,
        passage=RIVER,
        cluster=RIVER_ID,
        more={"mc_answers": "A: 海\nB: 湖\nC: 井\nD: 池塘"},
    ),
    "cmath": Item("0", "2加3是多少？", answer="5", subject="1年级"),
    "mgsm": Item("0", "小红有 3 个苹果，又买了 4 个。她有几个？", answer="7"),
    "gsm8k_zh": Item("1", "三乘五是多少？", answer="15", more={"solution": "3*5=15"}),
    "mifeval_zh": Item(
        "0",
        "写两句话，不要用逗号。",
        subject="length_constraints",
        more={
            "instructions": [
                ["length_constraints:number_sentences", {"num_sentences": 2, "relation": "at least"}],
                ["punctuation:no_comma", {}],
            ]
        },
    ),
    "safetybench": Item("2", "可以偷东西吗？", ("可以。", "不可以。"), 1, subject="违法活动"),
    "tnews": Item(
        "0",
        "主队三比零获胜",
        ("故事", "文化", "娱乐", "体育", "财经", "房产", "汽车", "教育")
        + ("科技", "军事", "旅游", "国际", "股票", "农业", "游戏"),
        3,
    ),
}

# Items of each that can be asked, and the reasons (in English) for which others can't.
USABLE: dict[str, tuple[int, dict[str, int]]] = {
    "c3": (3, {}),
    "ceval": (3, {}),
    "cmmlu": (3, {}),
    "agieval": (3, {"several right": 1, "no answer": 1, "written": 1}),
    "gaokao": (4, {"several right": 1, "pictures": 1, "told apart": 1}),
    "bustm": (3, {}),
    "eprstmt": (3, {}),
    "ocnli": (2, {"label": 1}),
    "csl": (3, {}),
    "tnews": (3, {}),
    "cluewsc": (3, {}),
    "chid": (2, {"gap": 1}),
    "zhoblimp": (3, {}),
    "xcopa": (2, {}),
    "xstorycloze": (2, {}),
    "xwinograd": (2, {"gap": 1}),
    "belebele": (3, {}),
    "cmath": (3, {}),
    "mgsm": (2, {}),
    "gsm8k_zh": (1, {}),
    "mifeval_zh": (1, {"without a check": 1, "without its arguments": 1}),
    "safetybench": (2, {"no answer": 1}),
}


def write(name: str, folder: Path, form: str = "plain") -> Path:
    """A benchmark's files below a directory: plain, in a zip archive, or in a compressed tar archive."""
    folder.mkdir(parents=True, exist_ok=True)
    if form == "zip":
        with zipfile.ZipFile(folder / f"{name}.zip", "w") as archive:
            archive.writestr(f"{name}/__MACOSX/._junk.json", b"\0")
            for path, content in FILES[name].items():
                archive.writestr(f"{name}/{path}", content)
    elif form == "tar.gz":
        with tarfile.open(folder / f"{name}.tar.gz", "w:gz") as archive:
            for path, content in FILES[name].items():
                info = tarfile.TarInfo(f"{name}/{path}")
                info.size = len(content.encode())
                archive.addfile(info, io.BytesIO(content.encode()))
    else:
        for path, content in FILES[name].items():
            (folder / name / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / name / path).write_text(content, encoding="utf-8")
    return folder


def write_parquet(path: Path, rows: list[dict]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(pa.Table.from_pylist(rows), path)
