"""The words of the small world: people, places, things with their measure words, days, weather, and the fixed
map."""

from __future__ import annotations

from typing import NamedTuple


class Thing(NamedTuple):
    """Something one can hold. `unit` is its measure word, `use` what it is for (a verb phrase)."""

    name: str
    unit: str
    category: str
    colourful: bool
    use: str


class Place(NamedTuple):
    """Somewhere one can be. `near` and `side` fix where it lies; `sells` names categories or things sold
    there."""

    name: str
    indoor: bool
    sells: tuple[str, ...]
    activities: tuple[str, ...]
    near: str
    side: str
    has: tuple[str, ...]


def words(text: str) -> tuple[str, ...]:
    """A row of words, written with spaces between them."""
    return tuple(text.split())


# Every name, role, thing and colour, and all places but two, is two characters long: a byte-pair vocabulary
# whose tokens hold at most two characters then writes each as one token wherever it stands. Few names begin
# with the same character: with many 小…, "了小" becomes a token and one person is written in two ways (see
# the lab log).
BOYS = words(
    "小明 大伟 文杰 志远 春生 海涛 云飞 浩然 子轩 建国 永强 俊峰 博文 冬冬 亮亮 豆豆 洋洋 壮壮 阿牛 乐乐 "
    "东东 虎子 龙龙 松松 磊磊 鹏鹏 强强 聪聪 凯凯 铁柱"
)
GIRLS = words(
    "小红 丽丽 圆圆 佳佳 晶晶 贝贝 果果 朵朵 甜甜 思思 宁宁 苗苗 欢欢 妞妞 雨晴 若云 心怡 雪梅 秋月 芳芳 "
    "兰兰 燕燕 青青 静静 敏敏 英英 婷婷 玲玲 倩倩 娜娜"
)
MEN = words("校长 司机 警察 厨师 船长")
WOMEN = words("老师 医生 护士 邻居 画家")
CHILDREN = BOYS + GIRLS
ADULTS = MEN + WOMEN
PEOPLE = CHILDREN + ADULTS
KIN = ("妈妈", "爸爸", "奶奶", "爷爷", "哥哥", "姐姐")
PRONOUN = {
    **{name: "他" for name in (*BOYS, *MEN, "爸爸", "爷爷", "哥哥")},
    **{name: "她" for name in (*GIRLS, *WOMEN, "妈妈", "奶奶", "姐姐")},
}

BRIGHT_COLOURS = ("红色", "黄色", "白色", "粉色", "紫色")
COLOURS = ("红色", "黄色", "蓝色", "绿色", "白色", "黑色", "紫色", "粉色")
WEEKDAYS = ("周一", "周二", "周三", "周四", "周五", "周六", "周日")
TIMES = ("早上", "上午", "中午", "下午", "傍晚")
ANIMALS = ("小猫", "小狗", "小鸟", "小鱼", "兔子", "小鸡", "鸭子", "小羊", "小马", "猴子", "老虎", "大象")
HOBBIES = (
    "画画",
    "唱歌",
    "跳舞",
    "跑步",
    "游泳",
    "下棋",
    "看书",
    "写字",
    "爬山",
    "骑车",
    "打球",
    "种花",
    "做饭",
    "钓鱼",
    "听音乐",
    "讲故事",
)

# weather: (names of it in a sentence opening, whether one stays indoors, things it makes useful)
WEATHER = {
    "晴": (("天气很好", "阳光很好", "天气晴朗", "太阳出来了"), False, ("帽子", "水壶", "扇子")),
    "雨": (("外面下着雨", "下起了小雨", "雨下得很大"), True, ("雨伞",)),
    "雪": (("外面下着雪", "下了一夜的雪"), True, ("围巾", "手套", "毛衣")),
    "风": (("外面刮着大风", "风很大"), True, ("围巾", "外套")),
    "冷": (("天气很冷", "天气变冷了"), False, ("手套", "围巾", "外套")),
    "热": (("天气很热", "太阳很大"), False, ("扇子", "水壶", "帽子")),
}

_THINGS = """
童话 本 书 - 看故事
词典 本 书 - 查生字
画册 本 书 - 看图画
地图 张 书 - 认路
报纸 份 书 - 看新闻
本子 个 文具 + 写日记
铅笔 支 文具 + 写字
钢笔 支 文具 + 写字
毛笔 支 文具 - 写大字
尺子 把 文具 + 画直线
橡皮 块 文具 + 擦错字
彩笔 盒 文具 - 画画
剪刀 把 文具 + 剪纸
书包 个 文具 + 装书
足球 个 玩具 + 锻炼身体
篮球 个 玩具 + 锻炼身体
皮球 个 玩具 + 玩
风筝 只 玩具 + 放到天上
气球 个 玩具 + 玩
拼图 盒 玩具 - 玩
娃娃 个 玩具 - 玩
积木 盒 玩具 - 搭房子
跳绳 根 玩具 + 锻炼身体
皮鼓 面 玩具 + 打拍子
口琴 把 玩具 - 吹曲子
笛子 支 玩具 - 吹曲子
帽子 顶 衣物 + 挡太阳
围巾 条 衣物 + 保暖
手套 副 衣物 + 保暖
毛衣 件 衣物 + 保暖
外套 件 衣物 + 挡风
裙子 条 衣物 + 跳舞
球鞋 双 衣物 + 跑步
雨伞 把 用品 + 挡雨
钥匙 把 钥匙 - 开门
杯子 个 用品 + 喝水
水壶 个 用品 + 装水
毛巾 条 用品 + 擦脸
扇子 把 用品 + 扇风
镜子 面 用品 + 照一照
梳子 把 用品 + 梳头
篮子 个 用品 - 装东西
手表 块 贵重 + 看时间
手电 个 用品 - 照亮
相机 台 贵重 - 拍照
眼镜 副 贵重 - 看清东西
灯笼 个 玩具 + 照亮
照片 张 纸品 - 留作纪念
邮票 张 纸品 - 寄信
贺卡 张 纸品 + 送祝福
玫瑰 朵 花 + 送人
菊花 朵 花 + 送人
兰花 盆 花 - 放在家里看
苹果 个 水果 - 吃
桃子 个 水果 - 吃
橘子 个 水果 - 吃
梨子 个 水果 - 吃
香蕉 根 水果 - 吃
西瓜 个 水果 - 吃
葡萄 串 水果 - 吃
面包 个 点心 - 吃
蛋糕 块 点心 - 吃
饼干 块 点心 - 吃
月饼 块 点心 - 吃
包子 个 点心 - 吃
粽子 个 点心 - 吃
鸡蛋 个 点心 - 吃
玉米 根 点心 - 吃
牛奶 瓶 饮料 - 喝
果汁 瓶 饮料 - 喝
豆浆 杯 饮料 - 喝
"""
THINGS = tuple(
    Thing(name, unit, category, mark == "+", use)
    for name, unit, category, mark, use in (line.split() for line in _THINGS.split("\n") if line)
)
THING = {thing.name: thing for thing in THINGS}
EATEN = {"水果": "吃", "点心": "吃", "饮料": "喝"}
LOSABLE = tuple(
    t.name
    for t in THINGS
    if t.name in words("钥匙 手套 帽子 围巾 铅笔 钢笔 橡皮 皮球 手表 照片 邮票 尺子 雨伞 毛巾 气球")
)
IN_BAG = tuple(
    t.name
    for t in THINGS
    if t.category in ("书", "文具", "点心", "水果", "纸品") and t.name not in ("书包", "西瓜", "豆浆")
)

# name | indoor | sells | activities | near, side | what one finds there
_PLACES = """
图书馆|+||看书、写作业、查资料|公园 东边|很多书、安静的座位
公园|-||散步、跑步、看花、下棋、拍照|广场 南边|一个小湖、很多花、长长的小路
学校|+||上课、写作业、排练节目|图书馆 对面|宽大的操场、明亮的教室
教室|+||写作业、听故事、画画|操场 旁边|整齐的桌椅、一块大黑板
操场|-||跑步、踢球、做游戏|学校 后面|一条红色跑道、两个球门
超市|+|点心、饮料、用品|闲逛、看新货|车站 对面|各种吃的、各种用品
商场|+|衣物、玩具、用品、贵重|逛街|广场 北边|漂亮的衣服、好玩的玩具
市场|+|水果、鸡蛋、玉米|闲逛、看活鱼|河边 西边|新鲜的蔬菜、活鱼
书店|+|书、文具|看书|邮局 对面|新书、各种笔
花店|+|花|看花|医院 对面|红红的玫瑰、白白的菊花
饭店|+|点心、饮料|吃饭、喝汤|影院 旁边|刚出锅的包子、香香的饭菜
医院|+||看牙、看望病人|银行 东边|干净的病房、忙碌的医生
车站|-||等车、接朋友、送朋友|邮局 南边|很多公共汽车、等车的人
邮局|+|邮票、贺卡|寄信、取包裹|银行 旁边|绿色的邮筒、漂亮的邮票
银行|+||存钱、取钱|广场 东边|取号的机器、排队的人
动物园|-||看老虎、看猴子、看大象|公园 西边|老虎、猴子、大象
影院|+||看电影|商场 对面|大大的屏幕、软软的座位
剧院|+||看演出、听音乐|广场 西边|明亮的舞台、红色的大幕
球场|-||打球、看比赛、锻炼身体|学校 南边|很多球、高高的看台
泳池|+||游泳、学游泳|球场 旁边|清清的池水、教游泳的人
机场|+||接朋友、送朋友、看飞机|码头 东边|大大小小的飞机、拿着行李的人
画室|+||画画、学画画|书店 旁边|很多画、五颜六色的笔
河边|-||散步、钓鱼、看船|树林 南边|清清的河水、一座小桥
海边|-||看海、玩沙子、吹海风|码头 北边|细细的沙子、白色的海鸟
湖边|-||散步、喂鸭子、拍照|公园 里面|几只鸭子、一条小船
山上|-||看云、看风景、听鸟叫|农场 后面|高高的松树、一座亭子
广场|-||跳舞、看表演、骑车|银行 前面|一个喷泉、一群白鸽
院子|-||晒太阳、浇花、喂小鸡|厨房 外面|一口水井、几棵果树
花园|-||看花、浇花、画画|院子 后面|红花、绿草、飞来飞去的蝴蝶
厨房|+||做饭、洗碗、包饺子|院子 北边|干净的碗、刚洗好的菜
客厅|+||看电视、聊天、听音乐|厨房 旁边|一张大桌子、几把椅子
阳台|+||浇花、聊天、看风景|客厅 外面|几盆花、一把躺椅
农场|-||喂小羊、看小马、干活|树林 后面|小羊、小马、一片菜地
果园|-||看果树、帮忙干活|农场 东边|又大又红的果子、很多果树
茶馆|+||喝茶、听故事、下棋|河边 北边|香香的茶、讲故事的老人
食堂|+||吃饭、帮忙洗菜|球场 西边|热热的饭菜、长长的桌子
码头|-||看船、等船|海边 南边|大大小小的船、忙着搬东西的人
树林|-||散步、听鸟叫、画画|河边 对岸|高高的树、唱歌的小鸟
村口|-||等人、下棋、聊天|农场 前面|一棵老树、一条小路
"""


def _place(line: str) -> Place:
    name, indoor, sells, activities, where, has = line.split("|")
    near, side = where.split()
    return Place(
        name,
        indoor == "+",
        tuple(sells.split("、")) if sells else (),
        tuple(activities.split("、")),
        near,
        side,
        tuple(has.split("、")),
    )


PLACES = tuple(_place(line) for line in _PLACES.split("\n") if line)
PLACE = {place.name: place for place in PLACES}
SOLD_AT = {
    place.name: tuple(t.name for t in THINGS if t.category in place.sells or t.name in place.sells)
    for place in PLACES
    if place.sells
}
SELLERS = {t.name: tuple(place for place, sold in SOLD_AT.items() if t.name in sold) for t in THINGS}
SCHOOL_PLACES = ("学校", "教室", "操场", "食堂")

# Where something can be put down; what a place has depends on what it is.
_INDOOR_SPOTS = ("桌上", "窗边", "门后", "墙边", "柜里", "箱里", "架上")
_GREEN_SPOTS = ("树下", "路边", "草丛", "石旁")
_WATER_SPOTS = ("路边", "石旁", "船边", "灯下")
_TOWN_SPOTS = ("路边", "墙边", "门前", "灯下")
_GREEN = ("公园", "河边", "湖边", "山上", "花园", "果园", "农场", "树林", "院子", "村口")
_WATER = ("海边", "码头")
_FORMAL = ("医院", "银行", "邮局", "影院", "剧院", "机场", "泳池")


def _spots(place: Place) -> tuple[str, ...]:
    if place.indoor:
        return _INDOOR_SPOTS[:4] if place.name in _FORMAL else _INDOOR_SPOTS
    return _GREEN_SPOTS if place.name in _GREEN else _WATER_SPOTS if place.name in _WATER else _TOWN_SPOTS


SPOTS_AT = {place.name: _spots(place) for place in PLACES}
SPOTS = tuple(dict.fromkeys(_INDOOR_SPOTS + _GREEN_SPOTS + _WATER_SPOTS + _TOWN_SPOTS))
INDOOR_SPOTS = _INDOOR_SPOTS

# Why somebody would like a thing; only what is true whatever happened before.
WANTS = {
    **dict.fromkeys(("围巾", "手套", "毛衣", "外套"), "觉得有点冷"),
    **dict.fromkeys(("帽子", "扇子"), "觉得有点热"),
    **{t.name: f"想{t.use}" for t in THINGS if t.category in ("书", "文具") and t.name != "书包"},
    **{
        t.name: "肚子饿了" if t.category == "点心" else "口渴了"
        for t in THINGS
        if t.category in ("点心", "饮料")
    },
    **dict.fromkeys(("气球", "皮球", "拼图", "娃娃", "积木", "皮鼓"), "也想玩"),
    **{
        t: f"想{THING[t].use}"
        for t in ("口琴", "笛子", "跳绳", "杯子", "毛巾", "镜子", "梳子", "手表", "相机", "邮票")
    },
    **{t.name: f"想吃{t.name}" for t in THINGS if t.category == "水果"},
    **dict.fromkeys(("玫瑰", "菊花", "兰花"), "很喜欢花"),
    "眼镜": "看不清楚",
}
NUMERALS = ("零", "一", "两", "三", "四", "五", "六", "七", "八", "九", "十")


def colours_of(thing: str) -> tuple[str, ...]:
    """The colours a thing comes in; none if its colour is not worth a word."""
    found = THING[thing]
    return () if not found.colourful else BRIGHT_COLOURS if found.category in ("花", "纸品") else COLOURS


def a(thing: str, colour: str = "") -> str:
    """A thing as first mentioned: 一把红色的雨伞."""
    return f"一{THING[thing].unit}{colour}的{thing}" if colour else f"一{THING[thing].unit}{thing}"
