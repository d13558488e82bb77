"""Tokens that perhaps should not be in a vocabulary: simple criteria, each with a name, its reason, and what
it found in the token.

A vocabulary takes in whatever its corpus repeats, so spam and dirt show here before they show in a model.
None of it proves anything: look at the tokens, then at the corpus they came from.
"""

from __future__ import annotations

import functools
import re
import unicodedata

from hanlin.common.messages import Text

CRITERIA = {
    "mojibake": Text("text read in the wrong encoding, or replacement characters"),
    "invisible": Text("invisible characters: controls, zero-width, private use, unassigned"),
    "contact": Text("ways of contact: messengers, groups, hotlines, numbers in words"),
    "advert": Text("advertising: gambling, pornography, loans, sites of novels and downloads"),
    "boilerplate": Text("page furniture: copyright notices, paging, signing in, reprint notices"),
    "web": Text("parts of web addresses"),
    "repeat": Text("one character or one string over and over"),
    "punctuation": Text("a long run of punctuation"),
    "mixed_script": Text("simplified and traditional characters in one token"),
}

PUNCTUATION_RUN = 12  # shorter ones are at home in Markdown and in source code

# Written for this file. Phrases and not words: 微信 or 下载 alone are at home in any text.
_CONTACT = re.compile(
    r"(?:[加添]|联系|咨询|关注|搜索|扫描?|请加|我的|客服|企业|官方)(?:我|上|下方|下面的)?(?:微信|薇信|威信|[vV][xX]|扣扣|[qQ]{2}|[qQ]?群|公众号|二维码)"
    r"|(?:微信|薇信|威信|扣扣|[qQ]{2})(?:公众号|号|群|同号|扫码|[:：])|[qQ]群|加群|群号|公众号[:：]|扫码(?:关注|添加|加|进|领)"
    r"|(?:客服|咨询|服务|订购|预约|投诉)(?:电话|热线|[qQ]{2}|微信)|(?:联系|手机)(?:电话|号码?)[:：]|热线[:：]|电话[:：]"
    r"|[0-9０-９]{7,}|[零〇一二三四五六七八九]{7,}|[①-⑨]{5,}"
)
_ADVERT = re.compile(
    r"彩票|博彩|时时彩|六合彩|北京赛车|快三|开奖|赌场|赌博网|娱乐城|娱乐平台|真人(?:娱乐|视讯|荷官)|百家乐|棋牌(?:游戏|平台)|老虎机|投注|返水|下注|送彩金"
    r"|成人(?:视频|电影|网站|影片)|黄色(?:视频|网站)|免费(?:视频|观看|看片)|在线(?:观看|视频|播放|播出)|毛片|无码|一区二区|三级片|约炮|裸聊|情色"
    r"|代开发票|代办(?:证件|信用卡)|办证|无抵押|秒到账|低息贷款|刷单|兼职日结|日赚|月入过?万|稳赚|免费(?:领取|加入|注册|下载|阅读|试看)|点击(?:下载|领取|进入|观看)"
    r"|最新章节|全文(?:免费)?阅读|无弹窗|手机(?:用户|阅读|版阅读)|笔趣阁|顶点小说|小说网|书友|求(?:月票|推荐票|收藏)|天天中|厂家直销|货到付款|包邮|优惠券|限时(?:抢购|优惠|特价)"
    r"|祖传秘方|一针见效|增大增粗|治疗(?:哪家|最好|医院)|专业治疗|包治"
)
_BOILERPLATE = re.compile(
    r"版权所有|本文来自|不代表[^，。]{0,8}(?:观点|立场)|上一页|下一页|未经(?:书面)?(?:授权|许可|允许)|(?:请勿|禁止|不得|谢绝)转载|转载(?:请|须|需)?注明|保留所有权利|免责声明|本站(?:域名|所有|内容|提供|不)|收藏本站|返回(?:首页|顶部|目录)"
    r"|点击(?:查看|阅读|这里|此处|链接)|阅读(?:全文|原文|更多)|查看(?:全文|更多|详情)|展开全文|加载更多"
    r"|(?:请先?|立即|免费|会员|用户)(?:登录|登陆|注册)|登录注册|忘记密码|记住密码|责任编辑|网站地图|友情链接"
    r"|联系我们|关于我们|ICP备|公网安备|All ?Rights ?Reserved"
)
_WEB = re.compile(
    r"://|^[^A-Za-z]?(?:www|wap)$|^\.(?:com|cn|net|org|gov|edu|cc|xyz|top|info|vip|club|tk|me|s?html?|aspx?|jsp)$"
)
_GARBLED = re.compile("\ufffd|锟斤|斤拷|拷锟|烫烫烫|屯屯屯|锘[匡挎]|[ÃÂ][\u0080-\u00bf]|â€|ï¿½|ï»¿|Ã[A-Z¡-ÿ]")


def reasons(token: bytes) -> dict[str, str]:
    """Criteria that a token meets: {name of the criterion: the part of the token that meets it}; pieces of
    characters meet none."""
    try:
        text = token.decode()
    except UnicodeDecodeError:
        return {}
    found = {
        "mojibake": _mojibake(text),
        "invisible": _invisible(text),
        "contact": _first(_CONTACT, text),
        "advert": _first(_ADVERT, text),
        "boilerplate": _first(_BOILERPLATE, text),
        "web": _first(_WEB, text),
        "repeat": _repeat(text),
        "punctuation": text.strip()
        if len(text.strip()) >= PUNCTUATION_RUN
        and all(unicodedata.category(c)[0] in "PS" for c in text.strip())
        else "",
        "mixed_script": _mixed(text),
    }
    return {name: part for name, part in found.items() if part}


def _first(pattern: re.Pattern[str], text: str) -> str:
    match = pattern.search(text)
    return match[0] if match else ""


def _mojibake(text: str) -> str:
    if match := _GARBLED.search(text):
        return match[0]
    if len(text) < 3:
        return ""
    core = text.strip()
    for encoding in (
        "cp1252",
        "latin-1",
        "gbk",
    ):  # UTF-8 that was read as one of these: read back, it is Chinese (or accented letters) again
        try:
            again = core.encode(encoding).decode()
        except UnicodeError:
            continue
        letters = [c for c in again if ord(c) >= 0x80]
        if (
            again != core
            and len(letters) >= 2
            and all("\u3000" <= c <= "\u9fff" or "\uff00" <= c <= "\uff65" for c in letters)
        ):
            return f"{core} → {again}"
    return ""


def _invisible(text: str) -> str:
    """Its code points; not the joiner of emoji (U+200D), tabs and line breaks."""
    odd = [c for c in text if unicodedata.category(c) in ("Cc", "Cf", "Co", "Cn") and c not in "\t\n\r\u200d"]
    return (
        " ".join(f"U+{ord(c):04X}" for c in dict.fromkeys(odd))
        if len(text) > 1 or (odd and ord(odd[0]) >= 0x80)
        else ""
    )


def _repeat(text: str) -> str:
    """A unit of one character five times and more, of two three times, of three to eight twice; white space,
    punctuation aside."""
    core = text.strip()
    for size, times in ((1, 5), (2, 3), *((size, 2) for size in range(3, 9))):
        if (
            len(core) >= size * times
            and core == (core[:size] * (len(core) // size + 1))[: len(core)]
            and any(c.isalnum() for c in core[:size])
        ):
            return f"{core[:size]} × {len(core) / size:g}"
    return ""


def _mixed(text: str) -> str:
    simplified = [c for c in text if _only(c) == "simplified"]
    traditional = [c for c in text if _only(c) == "traditional"]
    return f"{simplified[0]} / {traditional[0]}" if simplified and traditional else ""


@functools.lru_cache(1 << 16)
def _only(character: str) -> str:
    """`simplified` or `traditional` where only one of the two national character sets has the character
    among its common ones.

    GB 2312 and Big5 both list common characters first; rare ones, as in old names, need not be in both to be
    the same in both scripts.
    """
    if not "\u4e00" <= character <= "\u9fff":
        return ""
    gb, big5 = (character.encode(encoding, "ignore") for encoding in ("gb2312", "big5"))
    if b"\xb0" <= gb < b"\xd8" and not big5:
        return "simplified"
    return "traditional" if b"\xa4" <= big5 < b"\xc7" and not gb else ""
