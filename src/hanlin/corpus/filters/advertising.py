"""Lines that sell something or belong to a page's frame rather than to its text.

No list of forbidden words: a line is judged by what advertisements are made of (a way to reach the seller, an
address, an offer, a call to act, shouting), each worth points, so that one of them alone, as ordinary prose
has, costs nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from hanlin._native import PhraseMatcher
from hanlin.corpus.text.characters import native_table

_PHONE = r"(?<![\dA-Za-z.])(?:1[3-9]\d[- ]?\d{4}[- ]?\d{4}|[48]00[- ]?\d{3,4}[- ]?\d{3,4}|0\d{2,3}[-－ ]\d{7,8})(?![\d.])"
_HANDLE = (
    r"(?:Q{1,2}群?|扣{1,2}群?|企鹅号?|微信号?|微信公众号|公众号|[vV]信|[vV][xX]|[wW][xX]|薇信?|威信|徽信|电报|[tT]elegram|[wW]hats[aA]pp|飞机号?|加群|群号|客服)"
    r"\s*(?:号码?|群|客服|[iI][dD])?\s*[:：＋+=＝是为]{0,2}\s*@?(?=[\w-]*\d)[A-Za-z0-9][\w-]{4,}"
)
_ADD = r"(?<![添增附])[加＋+]\s*(?:我|老师|客服)?的?\s*(?:QQ|微信|[vV]信|[vV][xX]?(?![A-Za-z])|[wW][xX](?![A-Za-z])|薇信?|威信|扣扣|群)"
_LABELLED = (
    r"(?:电话|手机号?|座机|热线|致电|联系方?式?|咨询|[tT][eE][lL])\s*(?:号码?)?\s*[:：]?\s*\+?\d[\d-]{5,14}\d"
)
_MAIL = r"[\w.+-]{1,64}@[\w-]{1,64}\.[A-Za-z]{2,}"
_URL = (
    r"(?:https?://|www\.)[^\s\u4e00-\u9fff，。）]+|(?<![\w@.])[a-z0-9][a-z0-9-]{1,30}(?:\.[a-z0-9-]{2,20})?"
    r"\.(?:com|cn|net|cc|top|xyz|vip|info|club|shop|site|online|app|live|icu|tk|me|tv|asia|biz|wang)\b(?!\.\w)"
)


def _each(beginnings: str, rest: str) -> str:
    """`a b` and a rest: `a…|b…`. Every branch below begins with a literal character: `re` then skips other
    text quickly."""
    return "|".join(beginning + rest for beginning in beginnings.split())


def _words(text: str) -> list[str]:
    return text.split()


def _pairs(lefts: Iterable[str], rights: Iterable[str]) -> list[str]:
    return [left + right for left in lefts for right in rights]


_DIGIT = "[0-9０-９]"
_FREE = _words("领 送 试 咨询 下载 注册 体验 获取 加入")
_AT_ONCE = _words("购买 下载 注册 咨询 领取 报名 体验 抢购 加入 拨打 下单 联系 预约 参与 试玩 开户")
_HURRY = _words("加入 下单 购买 领取 抢购 联系 注册 报名 咨询 拨打 来 加")
_DESKS = _words("咨询 订购 联系 客服 服务 加盟 报名 预约 销售 招商 报价")
_REACHED = _words("热线 电话 方式 微信 QQ 请")
_WELCOME = _words("来电 咨询 致电 选购 订购 订货 加盟 洽谈 联系 垂询 加入 广大")
_BRANDS = _words("体育 娱乐 国际 棋牌 彩票 电竞 贵宾会 现金网 体会")
_BRANDED = _words("app APP 官方 官网 网址 登录 登陆 中文版 手机版 下载手机版")

_OFFER = "|".join(
    [
        rf"折(?<={_DIGIT}折)(?![叠磨合射断])|折(?<={_DIGIT}\s折)(?![叠磨合射断])|满\s*{_DIGIT}+\s*(?:元|块)?\s*[减送]|¥\s*\d|￥\s*\d|元起(?![来床身源])|起售|起批",
        _each("仅 只", r"[需要售卖]\s*[¥￥]?\d"),
        _each("日 月 年 周", r"\s?[赚入]\s*[\d百千万过]"),
        rf"原价|现价|特价|低价|超值|优惠|折扣|打折|免邮|包邮|免费(?:{'|'.join(_FREE)})|限时|限量|限购|秒杀|抢购|促销|清仓|甩卖",
        rf"买(?:[一二三]|{_DIGIT})送|赠送|送\s*{_DIGIT}+\s*[元块]|红包|返[利现点]|彩金|首[充存]|提现|到账|稳赚|包赚|高[薪回]报?|零(?:风险|投资|首付|门槛|基础)",
        r"无(?:抵押|担保|需经验)|保本|秒[批到]|放款|兼职|刷单|代[开刷写考练]|加盟|招商|诚招|批发|货源|厂家直[销供]|直销",
    ]
)
_CALL = "|".join(
    [
        r"点击|点我|戳我|戳这|猛戳|扫码|扫一扫|扫描.{0,6}二维码|长按.{0,6}二维码|关注.{0,10}(?:公众号|微信)",
        _each("立即 立刻", f"(?:{'|'.join(_AT_ONCE)})"),
        _each("马上 赶快 赶紧 快来 速来 火速 抓紧", f"(?:{'|'.join(_HURRY)})"),
        _each(" ".join(_DESKS), rf"\s*(?:{'|'.join(_REACHED)})"),
        _each("备用 最新 永久 官方", r"(?:网址|域名|地址)"),
        rf"欢迎(?:{'|'.join(_WELCOME)})|来电|致电|拨打|热线|下单|抢先|不容错过|机不可失|错过.{{0,4}}(?:后悔|再等|不再)",
        r"先到先得|手慢无|详[情询]请?(?:点|咨|联|致|登|加|见|扫)|在线(?:客服|咨询|观看|播放)|专业(?:办理|代办|承接)|长期有效|诚信经营|信誉(?:保证|第一)",
        r"货到付款|全国包|量大从优|官方(?:网站|正版|认证|入口)|官网|登录入口|收藏(?:本|我们|网址)|本[网页站](?![上面点])",
    ]
)
# What is sold: betting, pornography, forged papers. A report may name these too.
_TRADE = "|".join(
    [
        r"博彩|娱乐城|百家乐|老虎机|真人视讯|真钱|棋牌(?:游戏|平台|娱乐)|注册即?送|开户(?:即?送|链接)|下注|时时彩|六合彩|北京赛车|幸运\d+",
        r"裸聊|约炮|成人(?:电影|视频|网站)|激情(?:视频|电影)|无码(?!头)|代开.{0,4}发票|发票代开|办证刻章|刻章办证",
        _each("体育 电子 电竞 在线", "投注"),
    ]
)
# A betting brand and the way into it, which only its sellers write: 某某体育app, xx国际登录, yabo手机版登录.
_ENTRANCES = r"app官网 app下载 官网登录 官网登陆 官网登入 手机版登录 手机版登陆 登录器 登陆器 登录官网 登陆官网 登录平台 登录入口 中文版 下载手机版 备用网址 手机下载 官方入口 官方版下载"
_ENTRANCE = "|".join(
    [
        _each(" ".join(_BRANDS), f"(?:{'|'.join(_BRANDED)})"),
        "|".join(rf"{entrance}(?<=[a-z\d]{entrance})" for entrance in _ENTRANCES.split()),
    ]
)


# Phrases for the core to look for: every line that a pattern above matches has one of them, white space
# aside (a test draws lines from the patterns). Lines without any need not be tried.
_NUMBERS = "0123456789０１２３４５６７８９"
VICE_PHRASES = _words(
    "博彩 娱乐城 百家乐 老虎机 真人视讯 真钱 棋牌游戏 棋牌平台 棋牌娱乐 注册送 注册即送 开户送 开户即送 开户链接 下注 时时彩 六合彩 北京赛车 幸运 "
    f"裸聊 约炮 成人电影 成人视频 成人网站 激情视频 激情电影 无码 发票 办证刻章 刻章办证 体育投注 电子投注 电竞投注 在线投注 {_ENTRANCES}"
) + _pairs(_BRANDS, _BRANDED)
PROMOTION_PHRASES = [
    *_words(
        "¥ ￥ 元起 起售 起批 仅需 仅要 仅售 仅卖 只需 只要 只售 只卖 原价 现价 特价 低价 超值 优惠 折扣 打折 免邮 包邮 限时 限量 限购 秒杀 抢购 促销 清仓 甩卖 "
        "买一送 买二送 买三送 赠送 红包 返利 返现 返点 彩金 首充 首存 提现 到账 稳赚 包赚 高薪 高回 零风险 零投资 零首付 零门槛 零基础 无抵押 无担保 无需经验 "
        "保本 秒批 秒到 放款 兼职 刷单 代开 代刷 代写 代考 代练 加盟 招商 诚招 批发 货源 厂家直 直销 点击 点我 戳我 戳这 猛戳 扫码 扫一扫 二维码 公众号 微信 "
        "来电 致电 拨打 热线 下单 抢先 不容错过 机不可失 错过 先到先得 手慢无 详情 详询 在线客服 在线咨询 在线观看 在线播放 专业办理 专业代办 专业承接 长期有效 "
        "诚信经营 信誉保证 信誉第一 货到付款 全国包 量大从优 官方网站 官方正版 官方认证 官方入口 官网 登录入口 收藏本 收藏我们 收藏网址 本网 本页 本站"
    ),
    *(
        f"{before}{number}{after}"
        for number in _NUMBERS
        for before, after in (("", "折"), ("满", ""), ("买", "送"), ("送", ""))
    ),
    *_pairs("日月年周", "赚入"),
    *_pairs(["免费"], _FREE),
    *_pairs(_words("立即 立刻"), _AT_ONCE),
    *_pairs(_words("马上 赶快 赶紧 快来 速来 火速 抓紧"), _HURRY),
    *_pairs(_DESKS, _REACHED),
    *_pairs(_words("备用 最新 永久 官方"), _words("网址 域名 地址")),
    *_pairs(["欢迎"], _WELCOME),
    *VICE_PHRASES,
]
FRAME_PHRASES = [
    *_pairs("上下", ["篇", "页", "章", "一篇", "一页", "一章"]),
    *_words(
        "返回 位置 首页 相关 热门 推荐 最新 更多 精彩 延伸 喜欢 编辑 本文 关键词 标签 版权 copyright © ICP 安备 rights 责编 校对 审核 监制 来源 出处 作者 发布 更新时间 日期 "
        "点击 浏览 阅读 访问 人气 登录 登陆 注册 收藏 打印 举报 评论 字体 分享 展开 收起 查看 readmore 未经 转载 扫 没有了"
    ),
]
# Groups of `suspicious`, one bit each.
PROMOTIONAL, FRAME, VICE = 1, 2, 4
_FRAME_LENGTH = 80
_MOST_POINTS = (
    10.5  # see `promotional_points`: 3 of contact, 1 of address, 3 of vice, 0.5 of shouting, 3 of words
)


def suspicious(points: float) -> PhraseMatcher:
    """Finds the lines that could have `points` of promotion, be page furniture, or name a vice."""
    longest = int(_LONG * _MOST_POINTS / points) if points > 0 else 1 << 62
    groups = [
        (PROMOTION_PHRASES, max(longest, _LONG)),
        (FRAME_PHRASES, _FRAME_LENGTH),
        (VICE_PHRASES, 1 << 62),
    ]
    return PhraseMatcher(native_table(), groups)


_LONG = 120  # characters of a line, beyond which it needs more points in proportion
_SHOUT = re.compile(r"[！!]{2,}|[★☆◆◇■□▲△▼●○◎※❤♥♦♣♠✔✅☑➤➜→⬇↓【】『』〖〗]|[\U0001F300-\U0001FAFF]")

_CONTACT_ANY = re.compile(f"{_LABELLED}|{_PHONE}|{_HANDLE}|{_ADD}|{_MAIL}")
_URL_ANY = re.compile(_URL)
_OFFER_ANY, _CALL_ANY, _TRADE_ANY, _ENTRANCE_ANY = (
    re.compile(pattern) for pattern in (_OFFER, _CALL, _TRADE, _ENTRANCE)
)
_DIGITS = re.compile(r"(?<!\d)\d{7,}(?!\d)")

_FRAME = re.compile(
    r"""^[\s\[【（(<>«»|·•*#-]*(?:
      (?:上|下)一?[篇页章]\s*(?:[:：].*)?|返回\s*(?:首页|顶部|列表|上一页|目录)?|(?:您|你)?(?:现在|当前)?的?所?在?位置\s*[:：].*|首页\s*[>»/|›→-].*|网站首页|
      (?:相关|热门|推荐|最新|更多|精彩|延伸|猜你喜欢|编辑)\s*(?:阅读|文章|推荐|新闻|链接|标签|内容|资讯|资料|搜索|评论)\s*[:：]?|猜你喜欢|
      本文(?:关键词|标签|链接|地址|网址|来源|访问地址|由.{0,20}(?:整理|发布|提供|编辑)).*|标签\s*[:：].{0,60}|
      版权所有.*|版权声明\s*[:：].*|copyright\b.*|©.*|.{0,12}ICP[备证].*|.{0,6}公网安备.*|all\ rights\ reserved.*|
      (?:责任编辑|责编|编辑|校对|审核|监制)\s*[:：]\s*\S{1,12}(?:\s*\S{1,6})?|(?:来源|出处|作者|发布者|发布时间|更新时间|日期|时间)\s*[:：]\s*\S{0,20}(?:\s+\d[\d:\-/\s]*)?\s*(?:点击|浏览|阅读|人气).*|
      (?:点击|浏览|阅读|访问|人气|评论|点赞|收藏|转发|分享)(?:量|数|次数)?\s*[:：(（]?\s*\d+\s*(?:次|人|条)?[)）]?|
      (?:[上下]一[页篇章]|首页|尾页|末页|返回|登录|注册|登陆|收藏|分享|打印|举报|评论|点赞|关注|搜索|关闭窗口|关闭|字体|大|中|小|赞|踩|更多)(?:[\s|/·>»-]+(?:[上下]一[页篇章]|首页|尾页|末页|返回|登录|注册|登陆|收藏|分享|打印|举报|评论|点赞|关注|搜索|关闭窗口|关闭|字体|大|中|小|赞|踩|更多))+|
      分享\s*(?:到|至)\s*[:：]?.*|(?:展开|收起)(?:全文|更多|全部)?|(?:查看|阅读|点击)(?:更多|原文|全文|详情|查看.{0,8}|阅读全文|进入.{0,6})\s*[>»…]*|阅读全文.*|更多\s*[>»….]+|read\ more.*|
      未经.{0,16}(?:授权|许可|同意)[，,\s]*(?:请勿|谢绝|严禁|禁止|不得)(?:擅自|非法|私自)?(?:转载|复制|搬运|引用).{0,16}|(?:欢迎)?转载(?:请|需|须|务必|时).{0,4}(?:注明|联系|标明|保留).{0,40}|请勿(?:非法)?转载.*|
      扫(?:一扫|码|描).{0,16}(?:关注|下载|二维码|查看|加群|咨询).{0,20}|.{0,8}没有了[！。]?
    )[\s\]】）)>»|]*$""",
    re.X | re.I,
)


def frame_line(line: str) -> bool:
    """Whether a line in which `suspicious` found FRAME is page furniture: navigation, copyright, counters,
    sharing."""
    return len(line) <= _FRAME_LENGTH and bool(_FRAME.match(line))


def vices(text: str) -> int:
    """How often a text names betting, pornography or forged papers the way their sellers do; a trade's own
    name counts once."""
    return len(set(_TRADE_ANY.findall(text))) + len(_ENTRANCE_ANY.findall(text))


def promotional_points(line: str, vicious: bool = True) -> float:
    """How much of an advertisement is in a line, in points; 3 and above is one (see
    `CleanConfig.promotion_points`).

    A way of contact 2 (at most 3), an address 0.5 (several 1), offers and calls 1 each by distinct phrase
    (at most 2 without any of the harder marks, 3 with), vices 1.5 each (at most 3), shouting 0.5, a long
    number 0.5. Prose spreads such words
    thinly: a long line needs more points in proportion.

    Args:
        vicious: whether the line may name a vice; `suspicious` tells.
    """
    calls, offers, vice = (
        set(_CALL_ANY.findall(line)),
        set(_OFFER_ANY.findall(line)),
        min(3.0, 1.5 * vices(line)) if vicious else 0.0,
    )
    if not (calls or offers or vice):  # an address or a phone number alone is a reference, not an offer
        return 0.0
    contact = min(3.0, 2.0 * len(_CONTACT_ANY.findall(line)))
    address = min(1.0, 0.5 * len(_URL_ANY.findall(line)))
    phrases = sum(map(len, calls | offers))
    words = float(len(calls) + len(offers))
    if words > 2 and phrases > 0.25 * len(line):
        words += 1.0
    shout = 0.5 if len(_SHOUT.findall(line)) >= 2 or line.count("！") + line.count("!") >= 2 else 0.0
    number = 0.5 if _DIGITS.search(line) and not contact else 0.0
    hard = contact + address + vice + shout + number
    words = min(words, 3.0 if hard or (calls and offers) else 2.0)
    points = hard + words
    return points * _LONG / len(line) if len(line) > _LONG else points
