"""Telling a story: each event has several wordings; neighbours with one subject share a sentence; pronouns
only where they are clear."""

from __future__ import annotations

from hanlin.corpus.tinyworld.draw import Draw
from hanlin.corpus.tinyworld.lexicon import EATEN, PRONOUN, THING, TIMES, WANTS, WEATHER, a
from hanlin.corpus.tinyworld.world import Event, Item, State, Story

_LATER = ("后来", "过了一会儿", "接着", "不久", "然后")
_ARRIVING = ("这时", "不久", "过了一会儿", "正巧")
_ENDINGS = ("今天真开心。", "大家都很高兴。", "这一天过得很快。", "真是有意思的一天。", "多么快乐的一天啊！")


def tell(story: Story, draw: Draw, ending: bool = True) -> str:
    """Word a story. Everything the events change is said; nothing else that would change the state is.

    Args:
        ending: whether a closing remark may follow.
    """
    return _Teller(story, draw).run(ending)


class _Teller:
    def __init__(self, story: Story, draw: Draw) -> None:
        self.story, self.draw = story, draw
        self.state = State()
        self.holders: dict[
            Item, set[str]
        ] = {}  # everyone who has held a thing so far; the key's presence means it was named
        self.found: set[Item] = set()
        self.text: list[str] = []
        self.clauses: list[str] = []
        self.subject = ""
        self.others: tuple[str, ...] = ()  # people the last sentence names besides its subject
        self.lead = ""  # a clause with another subject that must come first
        self.adverbs = {""}  # connectives already used; none is used twice
        self.time = TIMES.index(story.time) if story.time else -1

    def run(self, ending: bool) -> str:
        self.text.append(self.opening())
        previous: Event = ("", "")
        for event in self.story.events:
            self.event(event, previous)
            self.state.apply(event)
            self.reaction(event)
            previous = event
        self.close()
        if ending and self.draw.chance(0.2):
            self.text.append(self.draw.pick(_ENDINGS))
        return "".join(self.text)

    def opening(self) -> str:
        draw, story = self.draw, self.story
        day = story.weekday + story.time
        if not story.weekday and story.time and draw.chance(0.4):
            day = draw.pick(("今天", "昨天", "这天")) + story.time
        if story.weather:
            names = WEATHER[story.weather][0]
            weather = names[0] if story.time == "傍晚" else draw.pick(names)  # no strong sun at dusk
            return f"{day}，{weather}。" if day else f"{draw.pick(('今天', '这天', ''))}{weather}。"
        return f"{day}，" if day else draw.pick(("", "", "有一天，", "今天，", "昨天，"))

    def close(self) -> None:
        if self.clauses:
            self.text.append("，".join(self.clauses) + ("" if self.clauses[-1].endswith("”") else "。"))
            self.clauses = []

    def event(self, event: Event, previous: Event) -> None:
        """Add the event to the sentence being built, or begin a new one."""
        draw, verb, who = self.draw, event[0], event[1]
        self.lead = ""
        subject, predicate = self.clause(event, previous)
        if previous[0] == "carry" and previous[1] == who and self.clauses:  # 带着一把雨伞去了车站
            self.clauses[-1] += predicate
        elif (
            subject == self.subject
            and self.clauses
            and len(self.clauses) < 3
            and not self.lead
            and draw.chance(0.55)
        ):
            link = (
                draw.pick(("", "", "又", "然后"))
                if verb in ("go", "put", "give") and previous[0] != verb
                else ""
            )
            link = "" if link == "然后" and link in self.adverbs else link
            self.adverbs.add(link)
            self.clauses.append(link + predicate)
        else:
            repeated = subject == self.subject
            self.close()
            adverb = self.adverb(event) if len(self.text) > 1 else ""
            clear = (
                repeated
                and not self.lead
                and subject in PRONOUN
                and not any(PRONOUN[name] == PRONOUN[subject] for name in self.others)
            )
            shown = PRONOUN[subject] if clear and draw.chance(0.35) else subject
            self.clauses = [f"{adverb}{self.lead}{shown}{predicate}"]
            self.others = ()
        self.subject = "" if self.lead else subject
        self.others += tuple(name for name in event[1:3] if name in PRONOUN and name != subject)
        for item in event[2:]:
            if isinstance(item, tuple):
                self.holders.setdefault(item, set()).update(
                    (who, event[2]) if verb in ("give", "swap") else (who,)
                )

    def adverb(self, event: Event) -> str:
        """A connective or the time, now and then, and never the same twice."""
        draw, verb = self.draw, event[0]
        if verb in ("go", "together", "come") and 0 <= self.time < 4 and draw.chance(0.12):
            self.time += 1
            return TIMES[self.time] + "，"
        if verb in ("be", "carry"):
            word = draw.pick(("", "这时"))
        elif verb == "come":
            word = draw.pick(_ARRIVING) if draw.chance(0.5) else ""
        else:
            word = draw.pick(_LATER) if draw.chance(0.25) else ""
        if word in self.adverbs:
            return ""
        self.adverbs.add(word)
        return word + "，"

    def thing(self, item: Item) -> str:
        name, colour = item
        if item not in self.holders:
            return a(name, colour)
        kind = self.draw.random()
        if kind < 0.1 and colour:
            return f"{colour}的{name}"
        return f"那{THING[name].unit}{name}" if kind > 0.95 else name

    def clause(self, event: Event, previous: Event) -> tuple[str, str]:
        """The grammatical subject and the rest of one event."""
        draw, verb, who = self.draw, event[0], event[1]
        if verb == "handed":
            kin = event[2]
            return (
                (kin, f"给了{who}{self.thing(event[3])}")
                if draw.chance(0.7)
                else (who, f"从{kin}手里接过{self.thing(event[3])}")
            )
        if verb == "give":
            return self.give(who, event[2], event[3])
        if verb in ("together", "share"):
            return self.pair(who, event[2]), getattr(self, verb)(event)
        return who, getattr(self, verb)(event, previous)

    def pair(self, who: str, other: str) -> str:
        if len(self.state.place) == 2 and self.draw.chance(0.4):
            return self.draw.pick(("他们" if "他" in (PRONOUN[who], PRONOUN[other]) else "她们", "两个人"))
        return f"{who}和{other}"

    def together(self, event: Event) -> str:
        return f"一起{self.draw.pick(('去了', '来到', '走到'))}{event[3]}"

    def share(self, event: Event) -> str:
        return f"{self.draw.pick(('一起', f'一起在{self.state.place[event[1]]}'))}{event[3]}"

    def go(self, event: Event, previous: Event) -> str:
        _, who, place, activity = event
        draw, here = self.draw, self.state.place.get(who)
        if activity:
            return draw.pick(("去", "来到", "到")) + place + activity
        held = self.state.held.get(who)
        if here and held and draw.chance(0.3):
            return f"{draw.pick(('带着', '拿着'))}{self.thing(held[-1])}{draw.pick(('去了', '来到'))}{place}"
        if here and draw.chance(0.3):
            return draw.pick((f"离开{here}，去了{place}", f"从{here}走到{place}", f"离开{here}，来到{place}"))
        return draw.pick(("去了", "来到", "走到" if here else "去了")) + place

    def be(self, event: Event, previous: Event) -> str:
        return f"{self.draw.pick(('在', '正在'))}{event[2]}{event[3]}"

    def carry(self, event: Event, previous: Event) -> str:
        return f"{self.draw.pick(('带着', '拿着', '带着'))}{self.thing(event[2])}"

    def meet(self, event: Event, previous: Event) -> str:
        met = self.draw.pick(("遇见了", "遇到了", "碰见了"))
        if previous[1] == event[1] and previous[0] in ("go", "be", "come"):
            return f"{self.draw.pick(('在那里', '')) if self.clauses else ''}{met}{event[2]}"
        return f"{self.draw.pick(('在' + self.state.place[event[1]], '', ''))}{met}{event[2]}"

    def come(self, event: Event, previous: Event) -> str:
        place, other = event[2:]
        return self.draw.pick(
            (f"也来到{place}", f"也来到了{place}", f"来{place}找{other}", f"也到{place}来了")
        )

    def buy(self, event: Event, previous: Event) -> str:
        here = previous[1] == event[1] and (previous[0] in ("buy", "meet") or self.draw.chance(0.7))
        bought = "又买了" if previous[:2] == event[:2] else self.draw.pick(("买了", "买了", "挑了"))
        return f"{'' if here else '在' + self.state.place[event[1]]}{bought}{self.thing(event[2])}"

    def find(self, event: Event, previous: Event) -> str:
        self.found.add(event[2])
        return f"{self.draw.pick(('捡到', '捡到了', '在地上捡到'))}{self.thing(event[2])}"

    def take_out(self, event: Event, previous: Event) -> str:
        use = THING[event[2][0]].use
        last = event is self.story.events[-1]  # a story does not end on a thing just taken out for nothing
        plan = (
            f"，{'准备' + use if use != '留作纪念' else '看了又看'}" if last or self.draw.chance(0.25) else ""
        )
        return f"{self.draw.pick(('拿出', '从包里拿出', '从包里拿出'))}{self.thing(event[2])}{plan}"

    def give(self, who: str, other: str, item: Item) -> tuple[str, str]:
        draw, name, he = self.draw, item[0], PRONOUN[other]
        food, unit = THING[name].category in EATEN, THING[name].unit
        kind = draw.random()
        if other in self.holders.get(item, ()):
            return who, f"把{self.thing(item)}还给了{other}"
        if item in self.found:
            return who, f"把{self.thing(item)}交给了{other}"
        if kind < 0.08:
            return other, f"从{who}那里{draw.pick(('拿到了', '得到了'))}{self.thing(item)}"
        if kind < 0.16:
            said = draw.pick((f"这{unit}{name}给你。", f"这{unit}{name}送给你。", f"给你这{unit}{name}。"))
            return who, f"对{other}说：“{said}”{other}接过{name}，说：“谢谢！”"
        if kind < 0.24:
            asked = f"能给我{a(name)}吗" if food else f"能把{name}借给我吗"
            self.lead = f"{other}问{who}：“{asked}？”"
            return (
                who,
                f"{draw.pick(('点点头，', '笑了笑，', ''))}把{name}{'给' if food else '借给'}了{other}",
            )
        if kind < 0.45 and name in WANTS:
            self.lead = f"{other}{WANTS[name]}，"
            return (
                who,
                (
                    f"就把{self.thing(item)}{draw.pick(('给了', '送给了') if food else ('给了', '借给了'))}"
                    f"{draw.pick((he, other)) if he != PRONOUN[who] else other}"
                ),
            )
        lends = not food and THING[name].category != "花"
        return (
            who,
            (
                f"把{self.thing(item)}"
                f"{draw.pick(('给了', '送给了', '交给了', '借给了' if lends else '给了'))}{other}"
            ),
        )

    def swap(self, event: Event, previous: Event) -> str:
        _, _, other, mine, theirs = event
        return self.draw.pick(
            (f"用{mine[0]}换了{other}的{theirs[0]}", f"用{mine[0]}和{other}换了{theirs[0]}")
        )

    def put(self, event: Event, previous: Event) -> str:
        return f"把{self.thing(event[2])}{self.draw.pick(('放在', '放到', '放在了'))}{event[3]}"

    def fetch(self, event: Event, previous: Event) -> str:
        name, spot = event[2][0], event[3]
        taken = f"从{spot}拿{'出' if spot.endswith('里') else '起'}{name}"
        return self.draw.pick((f"拿走了{spot}的{name}", taken, f"拿走了{name}"))

    def eat(self, event: Event, previous: Event) -> str:
        name = event[2][0]
        verb = EATEN[THING[name].category]
        why = ("口渴了，" if verb == "喝" else "肚子饿了，") if self.draw.chance(0.35) else ""
        return why + self.draw.pick((f"把{name}{verb}了", f"{verb}了{name}", f"{verb}完了{name}"))

    def reaction(self, event: Event) -> None:
        """Now and then a feeling or a word that follows from the event."""
        draw, verb = self.draw, event[0]
        if self.clauses and self.clauses[-1].endswith("”"):
            self.aside("")
        elif draw.chance(0.75):
            return
        elif verb == "give":
            other = event[2]
            self.aside(
                draw.pick(
                    (f"{other}很高兴。", f"{other}说：“谢谢你！”", f"{other}笑了。", f"{other}连声说谢谢。")
                )
            )
        elif verb == "meet":
            self.aside(draw.pick(("两个人都很高兴。", "两个人聊了一会儿。", f"{event[2]}笑着问好。")))
        elif verb == "eat":
            taste = EATEN[THING[event[2][0]].category]
            self.aside(draw.pick((f"真好{taste}！", "味道好极了！", "味道真不错。")))
        elif verb == "find":
            self.aside(draw.pick(("不知道是谁丢的。", "是谁丢的呢？")))
        elif verb == "buy":
            self.aside(f"{event[1]}很喜欢。")
        elif verb == "swap":
            self.aside("两个人都很满意。")

    def aside(self, sentence: str) -> None:
        self.close()
        self.text.append(sentence)
        self.subject, self.others = "", ()
