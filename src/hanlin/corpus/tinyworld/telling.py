"""Telling a story: each event has several wordings; neighbours with one subject share a sentence; pronouns only where they are clear."""

from __future__ import annotations

from .draw import Draw
from .lexicon import EATEN, PRONOUN, THING, TIMES, WEATHER, a
from .world import Event, Item, State, Story

_LATER = ("后来，", "过了一会儿，", "接着，", "不久，", "然后，")
_ARRIVING = ("这时，", "不久，", "过了一会儿，", "正巧，")
_ENDINGS = ("今天真开心。", "大家都很高兴。", "这一天过得很快。", "真是有意思的一天。", "多么快乐的一天啊！")


def tell(story: Story, draw: Draw, ending: bool = True) -> str:
    """Word a story. Everything the events change is said; nothing else that would change the state is."""
    return _Teller(story, draw).run(ending)


class _Teller:
    def __init__(self, story: Story, draw: Draw) -> None:
        self.story, self.draw = story, draw
        self.state = State()
        self.named: set[Item] = set()
        self.text: list[str] = []
        self.clauses: list[str] = []
        self.subject = ""
        self.others: tuple[str, ...] = ()  # people the last sentence names besides its subject
        self.time = TIMES.index(story.time) if story.time else -1

    def run(self, ending: bool) -> str:
        self.text.append(self.opening())
        previous: Event = ("",)
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
        if not story.weekday and (story.time and draw.chance(0.4)):
            day = draw.pick(("今天", "昨天", "这天")) + story.time
        if story.weather:
            weather = draw.pick(WEATHER[story.weather][0])
            return f"{day}，{weather}。" if day else f"{draw.pick(('今天', '这天', ''))}{weather}。"
        return f"{day}，" if day else draw.pick(("", "", "有一天，", "今天，", "昨天，"))

    def close(self) -> None:
        if self.clauses:
            self.text.append("，".join(self.clauses) + "。")
            self.clauses = []

    def event(self, event: Event, previous: Event) -> None:
        """Add the event to the sentence being built, or begin a new one."""
        draw, verb, who = self.draw, event[0], event[1]
        subject, predicate = self.clause(event, previous)
        if previous[0] == "carry" and previous[1] == who and self.clauses:  # 带着一把雨伞去了车站
            self.clauses[-1] += predicate
            return
        if subject == self.subject and self.clauses and len(self.clauses) < 3 and draw.chance(0.55):
            link = draw.pick(("", "", "又", "然后")) if verb in ("go", "put", "give") else ""
            self.clauses.append(link + predicate)
        else:
            repeated = subject == self.subject
            self.close()
            adverb = self.adverb(event) if len(self.text) > 1 else ""
            clear = repeated and subject in PRONOUN and not any(PRONOUN[name] == PRONOUN[subject] for name in self.others)
            shown = PRONOUN[subject] if clear and draw.chance(0.35) else subject
            self.clauses = [f"{adverb}{shown}{predicate}"]
            self.others = ()
        self.subject = subject
        self.others += tuple(name for name in event[1:3] if name in PRONOUN and name != subject)

    def adverb(self, event: Event) -> str:
        draw, verb = self.draw, event[0]
        if verb in ("go", "together", "come") and 0 <= self.time < 4 and draw.chance(0.15):
            self.time += 1
            return TIMES[self.time] + "，"
        if verb in ("be", "carry"):
            return draw.pick(("", "", "这时，"))
        if verb == "come":
            return draw.pick(_ARRIVING) if draw.chance(0.5) else ""
        return draw.pick(_LATER) if draw.chance(0.3) else ""

    def thing(self, item: Item) -> str:
        name, colour = item
        if item not in self.named:
            self.named.add(item)
            return a(name, colour)
        kind = self.draw.random()
        if kind < 0.12 and colour:
            return f"{colour}的{name}"
        return f"那{THING[name].unit}{name}" if kind > 0.93 else name

    def clause(self, event: Event, previous: Event) -> tuple[str, str]:
        """The grammatical subject and the rest of one event."""
        draw, verb, who = self.draw, event[0], event[1]
        if verb == "handed":
            return (event[2], f"给了{who}{self.thing(event[3])}") if draw.chance(0.7) else (who, f"从{event[2]}手里接过{self.thing(event[3])}")
        if verb == "give":
            return self.give(*event[1:])
        if verb == "together":
            pair = f"{who}和{event[2]}"
            if set(self.state.place) == {who, event[2]} and draw.chance(0.4):
                pair = draw.pick(("他们" if "他" in (PRONOUN[who], PRONOUN[event[2]]) else "她们", "两个人"))
            return pair, f"一起{draw.pick(('去了', '来到', '走到'))}{event[3]}"
        if verb == "go":
            return who, self.go(who, event[2], event[3])
        return who, getattr(self, verb)(event, previous)

    def go(self, who: str, place: str, activity: str) -> str:
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
        if previous[0] in ("go", "be") and self.subject == event[1] and self.clauses:
            return f"{self.draw.pick(('在那里', ''))}{met}{event[2]}"
        return f"{self.draw.pick(('在' + self.state.place[event[1]], ''))}{met}{event[2]}"

    def come(self, event: Event, previous: Event) -> str:
        place, other = event[2:]
        return self.draw.pick((f"也来到{place}", f"也来到了{place}", f"来{place}找{other}", f"也到{place}来了"))

    def buy(self, event: Event, previous: Event) -> str:
        place = self.state.place[event[1]]
        at = "" if previous[0] in ("go", "together") and self.draw.chance(0.7) else f"在{place}"
        return f"{at}{self.draw.pick(('买了', '买了', '挑了'))}{self.thing(event[2])}"

    def find(self, event: Event, previous: Event) -> str:
        return f"{self.draw.pick(('捡到', '捡到了', '在地上捡到'))}{self.thing(event[2])}"

    def take_out(self, event: Event, previous: Event) -> str:
        return f"{self.draw.pick(('拿出', '从包里拿出', '从包里拿出'))}{self.thing(event[2])}"

    def give(self, who: str, other: str, item: Item) -> tuple[str, str]:
        draw, name = self.draw, item[0]
        kind = draw.random()
        if kind < 0.1:
            return other, f"从{who}那里{draw.pick(('拿到了', '得到了'))}{self.thing(item)}"
        if kind < 0.2:
            unit = THING[name].unit
            said = draw.pick((f"这{unit}{name}给你。", f"这{unit}{name}送给你。", f"给你这{unit}{name}。"))
            return who, f"对{other}说：“{said}”{other}接过{name}，说：“谢谢！”"
        verbs = ("给了", "送给了", "交给了") if THING[name].category in EATEN or THING[name].category == "花" else ("给了", "送给了", "交给了", "借给了")
        return who, f"把{self.thing(item)}{draw.pick(verbs)}{other}"

    def swap(self, event: Event, previous: Event) -> str:
        _, _, other, mine, theirs = event
        return self.draw.pick((f"用{mine[0]}换了{other}的{theirs[0]}", f"用{mine[0]}和{other}换了{theirs[0]}"))

    def put(self, event: Event, previous: Event) -> str:
        return f"把{self.thing(event[2])}{self.draw.pick(('放在', '放到', '放在了'))}{event[3]}"

    def fetch(self, event: Event, previous: Event) -> str:
        name, spot = event[2][0], event[3]
        taken = f"从{spot}拿{'出' if spot.endswith('里') else '起'}{name}"
        return self.draw.pick((f"拿走了{spot}的{name}", taken, f"拿走了{name}"))

    def eat(self, event: Event, previous: Event) -> str:
        verb = EATEN[THING[event[2][0]].category]
        name = event[2][0]
        return self.draw.pick((f"把{name}{verb}了", f"{verb}了{name}", f"{verb}完了{name}"))

    def reaction(self, event: Event) -> None:
        """Now and then a feeling or a word that follows from the event."""
        draw, verb = self.draw, event[0]
        spoken = bool(self.clauses) and self.clauses[-1].endswith("”")
        if spoken:  # direct speech ends its own sentence
            self.text.append("，".join(self.clauses))
            self.clauses = []
        if draw.chance(0.75):
            return
        if verb == "give" and not spoken:
            self.aside(draw.pick((f"{event[2]}很高兴。", f"{event[2]}说：“谢谢你！”", f"{event[2]}笑了。", f"{event[2]}连声说谢谢。")))
        elif verb == "meet":
            self.aside(draw.pick(("两个人都很高兴。", "两个人聊了一会儿。", f"{event[2]}笑着问好。")))
        elif verb == "eat":
            taste = EATEN[THING[event[2][0]].category]
            self.aside(draw.pick((f"真好{taste}！", "味道好极了！", "味道真不错。")))
        elif verb == "find":
            self.aside(draw.pick(("不知道是谁丢的。", "是谁丢的呢？")))
        elif verb == "buy":
            self.aside(draw.pick((f"{event[1]}很喜欢。", "这是新的。")))
        elif verb == "swap":
            self.aside("两个人都很满意。")

    def aside(self, sentence: str) -> None:
        self.close()
        self.text.append(sentence)
        self.subject, self.others = "", ()
