"""What lies outside the small world: questions about real places, people, sciences and the like, and how the
assistant declines them.

The model can know none of it. What it should learn is that it does not know: a question is outside when it
turns on a subject that no document mentions. The subject decides the split: a held-out question is about
something that no training question is about.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from typing import Any

from hanlin.corpus.tinyworld.draw import Draw, check_split
from hanlin.corpus.tinyworld.lexicon import words

DECLINES = (
    "这个我不知道，我只认识小世界里的人和事。",
    "对不起，这个我不会，我只知道小世界里的事。",
    "我没有学过这个，我只会聊小世界里的事。",
)
_DECLINED = re.compile("(不知道|不会|没有学过).*小世界")

# subjects by what can be asked of them
_SUBJECTS = {
    "place": words(
        "北京 上海 广州 深圳 成都 重庆 西安 杭州 南京 武汉 天津 苏州 长沙 青岛 拉萨 香港 台湾 云南 新疆 西藏 黄河 长江 长城 故宫 泰山 黄山 中国 美国 "
        "英国 法国 德国 日本 韩国 印度 俄罗斯 巴西 埃及 意大利 澳大利亚 加拿大 纽约 伦敦 巴黎 东京 欧洲 非洲 亚洲 南极 太平洋 月球 火星 太阳系 珠穆朗玛峰"
    ),
    "person": words(
        "李白 杜甫 苏轼 孔子 老子 鲁迅 秦始皇 诸葛亮 曹操 岳飞 武则天 康熙 孙中山 毛泽东 爱因斯坦 牛顿 达尔文 莎士比亚 贝多芬 拿破仑 华盛顿 林肯 姚明 "
        "刘翔 马云 乔布斯 周杰伦 梅西 孙悟空 林黛玉 哈利波特 钱学森 屠呦呦 袁隆平"
    ),
    "science": words(
        "光合作用 万有引力 相对论 量子力学 牛顿定律 细胞 基因 病毒 疫苗 原子 分子 电流 磁场 黑洞 地震 台风 火山 恐龙 进化论 化学反应 元素周期表 勾股定理 "
        "微积分 三角函数 方程 概率 圆周率 质数 抛物线 光速 氧气 二氧化碳 蛋白质 维生素 糖尿病 高血压 感冒 癌症 近视"
    ),
    "machine": words(
        "人工智能 神经网络 计算机 互联网 手机 电脑 机器人 区块链 比特币 芯片 操作系统 数据库 编程 算法 大数据 云计算 火箭 卫星 高铁 航空母舰 核电站 "
        "电动汽车 显卡 服务器 浏览器 微信 淘宝 抖音 谷歌 百度 华为 特斯拉"
    ),
    "affair": words(
        "股票 房价 通货膨胀 经济危机 国内生产总值 税收 保险 贷款 法律 宪法 合同 劳动法 高考 考研 公务员 留学 世界杯 奥运会 联合国 世界大战 辛亥革命 "
        "改革开放 唐朝 宋朝 明朝 清朝 汉朝 三国 战国 丝绸之路 文艺复兴 工业革命 红楼梦 西游记 水浒传 三国演义 论语 唐诗 宋词 哲学 宗教 心理学"
    ),
}
_FORMS = {
    "place": (
        "请介绍一下{0}。", "{0}在哪里？", "{0}有什么好玩的？", "{0}有多少人？", "我想去{0}旅游。", "{0}的首都是哪里？", "{0}的天气怎么样？", "{0}有多大？",
        "{0}有什么特产？", "从{0}到上海要多久？",
    ),
    "person": (
        "请介绍一下{0}。", "{0}是谁？", "你知道{0}吗？", "{0}有哪些作品？", "{0}是哪里人？", "{0}是什么时候出生的？", "请评价一下{0}。", "{0}说过什么名言？",
    ),
    "science": (
        "什么是{0}？", "请解释一下{0}。", "{0}是怎么回事？", "{0}有什么用？", "{0}的原理是什么？", "为什么会有{0}？", "怎样理解{0}？", "{0}是谁发现的？",
    ),
    "machine": (
        "什么是{0}？", "{0}是怎么工作的？", "怎样学习{0}？", "{0}是谁发明的？", "{0}有哪些优点和缺点？", "请介绍一下{0}。", "{0}多少钱？", "{0}的未来会怎样？",
    ),
    "affair": (
        "什么是{0}？", "请介绍一下{0}。", "{0}是什么意思？", "你怎么看{0}？", "请谈谈{0}的影响。", "{0}发生在哪一年？", "关于{0}，请写一篇文章。", "怎样准备{0}？",
    ),
}  # fmt: skip
# Wishes that no subject is needed for.
_TASKS = (
    "把“{0}”翻译成英语。", "用英语怎么说{0}？", "写一首关于{0}的诗。", "以{0}为题写一篇作文。", "写一段关于{0}的代码。", "给我写一封关于{0}的邮件。",
    "帮我做一个{0}的计划。", "总结一下{0}的历史。", "推荐几本关于{0}的书。", "列出{0}的三个特点。",
)  # fmt: skip
_ENGLISH = (
    ("What is", "Who is", "Tell me about", "How does", "Why is", "Can you explain", "Where is", "Please describe"),
    ("your name", "the weather today", "machine learning", "the capital of France", "a computer", "the moon", "China", "your favorite food",
     "deep learning", "Python", "the meaning of life", "the president", "a black hole", "history", "music", "football"),
)  # fmt: skip
_CODE = (
    ("用Python写一个", "请写一个", "用C语言实现", "用Java写一个", "帮我写一个"),
    (
        "快速排序",
        "冒泡排序",
        "二分查找",
        "爬虫",
        "网页",
        "计算器程序",
        "贪吃蛇游戏",
        "链表",
        "登录页面",
        "函数",
    ),
)
_HARD_SUMS = (
    "{0}乘以{1}等于多少？",
    "{0}×{1}=？",
    "{0}除以{1}等于几？",
    "{0}的平方根是多少？",
    "{0}的{1}次方是多少？",
    "{0}÷{1}=？",
    "{0}x+{1}=0，x等于几？",
)


_TALK = (
    "给我讲个笑话。", "唱一首歌吧。", "我今天心情不好。", "你吃饭了吗？", "今天天气怎么样？", "现在几点了？", "今天是几号？", "陪我聊聊天吧。", "你喜欢什么颜色？",
    "你有女朋友吗？", "我失恋了怎么办？", "怎样才能减肥？", "晚饭吃什么好？", "推荐一部电影。", "我睡不着觉。", "怎样赚钱？", "你觉得我怎么样？", "帮我写作业。",
    "我想学英语。", "怎样做红烧肉？", "怎么做鱼香肉丝？", "我头疼怎么办？", "给我起个网名。", "你能画画吗？", "帮我订一张机票。", "明天会下雨吗？", "哪个牌子的手机好？",
    "怎么学好数学？", "你的爸爸是谁？", "谁发明了你？", "你有感情吗？", "人生的意义是什么？", "世界上有鬼吗？", "猜一个谜语。", "成语接龙，一心一意。", "背一首古诗。",
    "给我算算命。", "我该不该辞职？", "怎样写简历？", "附近有什么好吃的？", "播放音乐。", "打开空调。", "帮我查一下快递。", "翻译一下这句话。", "你支持哪个球队？",
)  # fmt: skip


def outside_questions(seed: int, count: int, split: str, start: int = 0) -> Iterator[dict[str, Any]]:
    """Questions from outside the small world, with one of the ways to decline them.

    Yields:
        {"messages": [user, assistant], "kind": "outside", "id"}.
    """
    check_split(split)
    for index in range(start, start + count):
        draw = Draw(seed, split, "outside", index)
        _, asked = draw.in_split(outside, split, lambda question: ("outside", question[0]))
        messages = [{"role": "user", "content": asked}, {"role": "assistant", "content": draw.pick(DECLINES)}]
        yield {"messages": messages, "kind": "outside", "id": f"outside/{split}/{seed}/{index}"}


def outside(draw: Draw) -> tuple[str, str]:
    """The subject of a question, and the question."""
    kind = draw.random()
    if kind < 0.08:
        about = draw.pick(_ENGLISH[1])
        return about, draw.pick(_ENGLISH[0]) + " " + about + draw.pick(("?", "？", ""))
    if kind < 0.16:
        about = draw.pick(_CODE[1])
        return about, draw.pick(_CODE[0]) + about + draw.pick(("。", ""))
    if kind < 0.24:
        left, right = draw.between(2, 999), draw.between(2, 99)
        return f"{left} {right}", draw.pick(_HARD_SUMS).format(left, right)
    if kind < 0.36:
        about = draw.pick(_TALK)
        return about, about
    subject = draw.pick(tuple(_SUBJECTS))
    about = draw.pick(_SUBJECTS[subject])
    return about, draw.pick(_TASKS if kind < 0.5 else _FORMS[subject]).format(about)


def declines(text: str) -> bool:
    """Whether a text says that the assistant does not know, in one sentence and nothing more."""
    said = unicodedata.normalize("NFKC", text.rpartition("</think>")[2]).strip()
    return len(said) <= 40 and said.count("小世界") == 1 and _DECLINED.search(said) is not None
