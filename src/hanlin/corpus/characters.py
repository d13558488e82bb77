"""What kind of character each code point is, and how ordinary a piece of Chinese looks."""

from __future__ import annotations

import functools

import numpy as np

# Flags of `table()`, one bit each.
HAN, DIGIT, LETTER, SPACE, PUNCTUATION, TERMINAL, SYMBOL, NEWLINE, REPLACEMENT, COMMON, LATIN1, GBK_TRACE, BULLET, BRACKET = (
    1 << bit for bit in range(14)
)

# The most frequent characters of modern written Chinese, simplified and traditional: about two thirds of any such text,
# half of a classical one, and next to nothing of text read in the wrong encoding.
COMMON_HAN = frozenset(
    "的一是不了在人有我他这个们中来上大为和国地到以说时要就出会可也你对生能而子那得于着下自之年过发后作里用道行所然家种事成方"
    "多经么去法学如都同现当没动面起看定天分还进好小部其些主样理心她本前开但因只从想实日军者意无力它与长把机十民第公此已工使情"
    "明性知全三又关点正业外将两高间由问很最重并物手应向头文体政美相见被利什二等产或新己制身果加西斯月话合回特代内信表化老给世"
    "位次度门任常先海通教儿原东声提立及比员解水名真论处走义各入几口认条平系气题活尔更别打女变四神总何电数安少报才结反受目太量"
    "再感建务做接必场件计管期市直德资命山金指克许统区保至队形社便空决治展马科司五基眼书非则听白却界达光放强即像难且权思王象完"
    "设式色路记南品住告类求据程北边死张该交规万取拉格望觉术领共确传师观清今切院让识候带导争运笑飞风步改收根干造言持组每车亲极"
    "林服快办议往元英士证近失转夫令准布始怎呢存未远叫台单影具罗字爱击流备兵连调深商算质团集百需价花党华城石级整府离况亚请技际"
    "约示复病息究线似官火断精满支视消越器容照须九增研写称企八功吗包片史委乎查轻易早曾除农找装广显吧阿李标谈吃图念六引历首医局"
    "突专费号尽另周较注语仅考落青随选列吴哪水吾其曰乃矣焉哉故若夫者也亦皆"
    "這個們來為國時說會對過發後裡種經麼學現當沒動還進樣開從實軍無與長機關點業將兩間問應頭體見產話給門教員解論義條氣題爾別變"
    "總電數報結務場計隊治馬書聽達強難權萬術確師觀讓識帶導爭運飛組車親極議證轉單愛擊備連調團價華級請際約復線滿視須寫稱農裝廣顯"
    "標談圖歷醫費號盡較語僅選隨處幾認係灣臺於著並麗專區東樂靈聲"
)
_TERMINAL = '。！？；…!?;.:：”」』’）)》】"～~'
_BULLETS = "•●▪■◆◇★☆▶►·-*–—"


def is_han(character: str) -> bool:
    """Whether a character is a Chinese ideograph (URO, extensions A–H, compatibility, 〇)."""
    point = ord(character)
    return (
        0x4E00 <= point <= 0x9FFF
        or 0x3400 <= point <= 0x4DBF
        or 0xF900 <= point <= 0xFAFF
        or 0x20000 <= point <= 0x323AF
        or point == 0x3007
    )


@functools.cache
def table() -> np.ndarray:
    """Flags of every code point of the basic plane, (65536,) uint16; see `flags` for the others."""
    import unicodedata

    flags = np.zeros(1 << 16, np.uint16)
    by_category = {"L": LETTER, "M": LETTER, "N": DIGIT, "P": PUNCTUATION, "S": SYMBOL, "Z": SPACE}
    for point in range(1 << 16):
        character = chr(point)
        category = unicodedata.category(character)
        value = by_category.get(category[0], 0)
        if is_han(character):
            value = HAN
            lead_trail = character.encode("gbk", "ignore")
            # UTF-8 of Chinese is E3–E9 (or EF) 80–BF 80–BF; read as GBK pairs, every second character keeps such a pair.
            if len(lead_trail) == 2 and (0xE3 <= lead_trail[0] <= 0xE9 or lead_trail[0] == 0xEF) and 0x80 <= lead_trail[1] <= 0xBF:
                value |= GBK_TRACE
        if character in COMMON_HAN:
            value |= COMMON
        if character in _TERMINAL:
            value |= TERMINAL
        if character in _BULLETS:
            value |= BULLET
        if character in "【】":
            value |= BRACKET
        if 0x80 <= point <= 0xFF:
            value |= LATIN1
        flags[point] = value
    flags[ord("\n")] = NEWLINE | SPACE
    flags[ord("\t")] = SPACE
    flags[0xFFFD] = REPLACEMENT
    return flags


def flags(points: np.ndarray) -> np.ndarray:
    """Flags of code points, (N,) uint32 → (N,) uint16."""
    result = table()[np.minimum(points, 0xFFFF)]
    astral = points > 0xFFFF
    if astral.any():
        result[astral] = np.where((points[astral] >= 0x20000) & (points[astral] <= 0x323AF), HAN, SYMBOL)
    return result


def code_points(text: str) -> np.ndarray:
    """A string's code points, (len(text),) uint32; a lone surrogate stays one."""
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)


def plausibility(text: str) -> float:
    """Share of a text's ideographs that are among the most common ones; text without any scores 0.

    Measured on real sources: modern prose 0.70–0.85, classical 0.45–0.65, GBK read as Big5 or UTF-8 read as GBK below 0.15.
    """
    kinds = flags(code_points(text))
    han = int(((kinds & HAN) != 0).sum())
    return float(((kinds & COMMON) != 0).sum()) / han if han else 0.0
