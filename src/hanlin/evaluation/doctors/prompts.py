"""What a model is asked where the user brings nothing: short questions of every day, beginnings of texts, and
sentences that have a token repeated. Written for this file."""

from __future__ import annotations

QUESTIONS = (
    "你好！",
    "你是谁？",
    "请介绍一下你自己。",
    "今天天气怎么样？",
    "一加一等于几？",
    "三加五等于几？",
    "中国的首都是哪里？",
    "请讲一个小故事。",
    "请写一首关于春天的小诗。",
    "怎样才能睡得好？",
    "水为什么会结冰？",
    "请用一句话说说读书的好处。",
    "苹果和香蕉哪个更甜？",
    "给我推荐一种运动。",
    "一年有几个季节？",
    "请把“谢谢”说得更客气一些。",
    "我今天有点难过。",
    "怎么煮鸡蛋？",
    "月亮为什么会发光？",
    "请给小猫起个名字。",
    "周末可以做些什么？",
    "太阳从哪边升起？",
    "请说三种水果。",
    "再见！",
)

BEGINNINGS = (
    "从前有一个小村庄，",
    "今天早上，小明",
    "春天来了，",
    "在很久很久以前，",
    "北京是中国的",
    "老师走进教室，说：",
    "水是生命的",
    "昨天下午，妈妈",
    "科学家发现，",
    "他打开门，看见",
    "一年有四个季节，",
    "据报道，",
)

# {token} is replaced; what the model has to say next is the token again.
REPETITIONS = (
    "{token}{token}{token}{token}{token}{token}",
    "{token}，{token}，{token}，{token}，",
    "“{token}”“{token}”“{token}”“",
    "{token}\n{token}\n{token}\n{token}\n",
)

# Another family's way of writing a question and its answer.
OTHER_TEMPLATE = ("[INST] ", " [/INST] ")
ALPACA_TEMPLATE = ("### 指令：\n", "\n\n### 回答：\n")

# Ways of asking one question about a passage, and what stands before the answer where the model only
# continues text.
WORDINGS = (
    "{given}{question}",
    "{given}问题：{question}",
    "{given}请问：{question}",
    "请先读这一段，再回答问题。\n{given}{question}",
    "{given}根据上面的内容回答：{question}",
)
BEFORE_ANSWER = "\n答案："
