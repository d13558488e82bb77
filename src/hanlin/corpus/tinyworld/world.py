"""The state of the world and the planning of stories: events are chosen among what the state allows, never
written ahead.

An event is a tuple (verb, who, …); a thing is carried as (name, colour) with colour "" where it has none:

    be       who, place, activity           who is at the place from the start
    carry    who, thing                     who sets out with the thing
    handed   who, kin, thing                a relative gave who the thing before setting out
    go       who, place, activity           activity may be ""
    together who, other, place
    meet     who, other                     other is met where who is
    come     who, place, other              who comes to where other is
    buy · find · take_out  who, thing
    give     who, other, thing
    swap     who, other, thing, thing
    put      who, thing, spot
    fetch    who, thing, spot
    eat      who, thing
    share    who, other, activity           both do it where they are
"""

from __future__ import annotations

from typing import Any, NamedTuple

from hanlin.corpus.tinyworld.draw import Draw
from hanlin.corpus.tinyworld.lexicon import (
    ADULTS,
    CHILDREN,
    EATEN,
    IN_BAG,
    KIN,
    LOSABLE,
    PLACE,
    PLACES,
    SCHOOL_PLACES,
    SOLD_AT,
    SPOTS_AT,
    THING,
    THINGS,
    TIMES,
    WEATHER,
    WEEKDAYS,
    colours_of,
)

Event = tuple[Any, ...]
Item = tuple[str, str]


class Story(NamedTuple):
    """What happens, apart from how it is told. `weekday`, `time` and `weather` may be "" (not mentioned)."""

    people: tuple[str, ...]
    weekday: str
    time: str
    weather: str
    events: tuple[Event, ...]

    def structure(self) -> Any:
        """What decides the split: people, places, things and events; not the day, not the wording."""
        return ("story", self.events)


class State:
    """Who is where and who holds what, after the events applied so far."""

    def __init__(self) -> None:
        self.place: dict[str, str] = {}
        self.held: dict[str, list[Item]] = {}
        self.spot: dict[Item, tuple[str, str]] = {}  # thing -> (spot, place)

    def apply(self, event: Event) -> None:
        """Change the state as the event says."""
        verb, who = event[0], event[1]
        if who not in self.held:
            self.held[who] = []
        if verb in ("be", "go", "come"):
            self.place[who] = event[2]
        elif verb == "together":
            self.place[who] = self.place[event[2]] = event[3]
        elif verb == "meet":
            self.place[event[2]] = self.place[who]
            self.held.setdefault(event[2], [])
        elif verb in ("carry", "buy", "find", "take_out"):
            self.held[who].append(event[2])
        elif verb == "handed":
            self.held[who].append(event[3])
        elif verb == "give":
            self.held[who].remove(event[3])
            self.held[event[2]].append(event[3])
        elif verb == "swap":
            _, _, other, mine, theirs = event
            self.held[who].remove(mine)
            self.held[other].remove(theirs)
            self.held[who].append(theirs)
            self.held[other].append(mine)
        elif verb == "put":
            self.held[who].remove(event[2])
            self.spot[event[2]] = (event[3], self.place[who])
        elif verb == "fetch":
            del self.spot[event[2]]
            self.held[who].append(event[2])
        elif verb == "eat":
            self.held[who].remove(event[2])
        elif verb == "share":
            pass
        else:
            raise ValueError(f"unknown event {event!r}")

    def beside(self, who: str) -> list[str]:
        """The others at the same place."""
        here = self.place[who]
        return [other for other, place in self.place.items() if place == here and other != who]


def replay(events: tuple[Event, ...]) -> State:
    """The state after all events."""
    state = State()
    for event in events:
        state.apply(event)
    return state


_OPEN = tuple(PLACES)
_SHELTERED = tuple(place for place in PLACES if place.indoor)
_WEEKEND = {
    kind: tuple(p for p in group if p.name not in SCHOOL_PLACES)
    for kind, group in ((False, _OPEN), (True, _SHELTERED))
}
_WEEKDAY = {False: _OPEN, True: _SHELTERED}
_WEATHERS = ((30.0, ""), (25.0, "晴"), (8.0, "雨"), (4.0, "雪"), (4.0, "风"), (6.0, "冷"), (6.0, "热"))
_NAMES = tuple(thing.name for thing in THINGS)
_CARRIED = tuple(thing.name for thing in THINGS if thing.name not in ("豆浆",))
_MOVES = frozenset(("go", "come", "together", "be", "meet"))
_NOT_FOR_FUN = frozenset(("医院", "银行", "邮局"))


def plan(draw: Draw, fewest: int = 3, most: int = 7) -> Story:
    """Plan a story of `fewest` … `most` events about two or three people, a few places and a few things."""
    return _Planner(draw).run(draw.between(fewest, most))


class _Planner:
    def __init__(self, draw: Draw) -> None:
        self.draw = draw
        self.weekday = draw.pick(WEEKDAYS) if draw.chance(0.4) else ""
        self.time = draw.pick(TIMES) if draw.chance(0.6) else ""
        self.weather = draw.weighted(_WEATHERS)
        bad = bool(self.weather) and WEATHER[self.weather][1]
        group = (_WEEKEND if self.weekday in WEEKDAYS[5:] else _WEEKDAY)[bad]
        self.cast = draw.some(CHILDREN, 3)
        if draw.chance(0.2):
            self.cast[draw.below(3)] = draw.pick(ADULTS)
        if draw.chance(0.35):
            self.cast.pop()
        self.places = [place.name for place in draw.some(group, 3)]
        self.state = State()
        self.events: list[Event] = []
        self.seen: set[str] = set()
        self.been: dict[str, str] = {}  # the place each person was at before the present one
        self.gained = 0
        self.swapped = self.shared = False
        self.found: Item = ("", "")

    def run(self, count: int) -> Story:
        self.begin(self.cast[0])
        while len(self.events) < count:
            self.step()
        people = tuple(name for name in self.cast if name in self.state.place)
        return Story(people, self.weekday, self.time, self.weather, tuple(self.events))

    def add(self, *event: Any) -> None:
        self.events.append(event)
        if event[0] in ("go", "together") and event[1] in self.state.place:
            for who in event[1:3] if event[0] == "together" else event[1:2]:
                self.been[who] = self.state.place[who]
        self.state.apply(event)

    def item(self, name: str) -> Item:
        """The named thing, with a colour more often than not if it comes in colours; each name only once in
        a story."""
        self.seen.add(name)
        self.gained += 1
        return (
            (name, self.draw.pick(colours_of(name)))
            if THING[name].colourful and self.draw.chance(0.6)
            else (name, "")
        )

    def new_name(self, names: tuple[str, ...]) -> str:
        while True:
            name = self.draw.pick(names)
            if name not in self.seen:
                return name

    def activity(self, place: str, probability: float) -> str:
        return self.draw.pick(PLACE[place].activities) if self.draw.chance(probability) else ""

    def begin(self, who: str) -> None:
        draw = self.draw
        kind = draw.random()
        if kind < 0.25:
            self.add("be", who, self.places[0], self.activity(self.places[0], 1.0))
            return
        if kind < 0.75:
            useful = WEATHER[self.weather][2] if self.weather and draw.chance(0.6) else ()
            thing = self.item(draw.pick(useful) if useful else self.new_name(_CARRIED))
            if kind < 0.6 or who not in CHILDREN:
                self.add("carry", who, thing)
            else:
                self.add("handed", who, draw.pick(KIN), thing)
            self.add("go", who, self.places[0], "")
            return
        self.add("go", who, self.places[0], self.activity(self.places[0], 0.5))

    def step(self) -> None:
        """Add one event, drawn from those the state allows with weights that keep a story moving."""
        draw, state, last = self.draw, self.state, self.events[-1]
        options: list[tuple[float, tuple[Any, ...]]] = []
        here = list(state.place)
        waiting = [name for name in self.cast if name not in state.place]
        focus = last[1] if last[1] in state.place else here[0]
        if waiting:
            options.append((4.0 if last[0] == "go" else 2.0, ("meet", focus, waiting[0])))
            options.append((3.0, ("come", waiting[0], state.place[focus], focus)))
            if len(self.events) <= 3:
                options.append((2.0, ("be", waiting[0], "?", "")))
        for who in here:
            held = state.held[who]
            beside = state.beside(who)
            weight = 1.0 if who == focus else 0.6
            just_moved = last[0] in _MOVES and who in last[1:3]
            if held:
                thing = held[-1]
                just_got = (last[0] == "give" and last[2] == who) or last[0] == "swap"
                if beside and not just_got:
                    options.append((11.0 * weight, ("give", who, draw.pick(beside), thing)))
                if not just_got:
                    options.append((2.0 * weight, ("put", who, thing, "?")))
                if THING[thing[0]].category in EATEN:
                    options.append((2.5 * weight, ("eat", who, thing)))
                if beside and not self.swapped and not just_got:
                    trades = ((other, state.held[other][-1]) for other in beside if state.held[other])
                    options.extend(
                        (3.5, ("swap", who, other, thing, theirs))
                        for other, theirs in trades
                        if self.found not in (thing, theirs)
                    )
            if len(held) < 2 and self.gained < 3:
                if any(name not in self.seen for name in SOLD_AT.get(state.place[who], ())):
                    options.append((3.0 * weight / (1 + len(held)), ("buy", who)))
                if not held:
                    options.append((0.7 * weight, ("take_out", who)))
                    if not PLACE[state.place[who]].indoor:
                        options.append((0.7 * weight, ("find", who)))
            if not held and last[0] != "put":
                options.extend(
                    (3.0, ("fetch", who, thing, spot))
                    for thing, (spot, place) in state.spot.items()
                    if place == state.place[who]
                )
            options.append(((0.25 if just_moved else 1.4) * weight, ("go", who)))
            if beside and not just_moved:
                options.append((1.2, ("together", who, draw.pick(beside))))
            if beside and not self.shared and state.place[who] not in _NOT_FOR_FUN:
                options.append((1.5 * weight, ("share", who, draw.pick(beside))))
        self.add_choice(draw.weighted(options))

    def add_choice(self, choice: tuple[Any, ...]) -> None:
        """Fill in what an option leaves open, then add it."""
        draw, state, verb, who = self.draw, self.state, choice[0], choice[1]
        if verb in ("go", "together"):
            recent = self.been.get(who, "")  # no walking back and forth
            place = draw.pick([place for place in self.places if place not in (state.place[who], recent)])
            self.add(*choice, place, *([self.activity(place, 0.3)] if verb == "go" else []))
        elif verb == "be":
            elsewhere = draw.pick([place for place in self.places if place != state.place[self.cast[0]]])
            self.add("be", who, elsewhere, self.activity(elsewhere, 1.0))
        elif verb == "buy":
            self.add("buy", who, self.item(self.new_name(SOLD_AT[state.place[who]])))
        elif verb in ("find", "take_out"):
            item = self.item(self.new_name(LOSABLE if verb == "find" else IN_BAG))
            if verb == "find":
                self.found = item
            self.add(verb, who, item)
        elif verb == "put":
            self.add("put", who, choice[2], draw.pick(SPOTS_AT[state.place[who]]))
        elif verb == "come":
            if self.gained < 3 and draw.chance(0.4):
                self.add("carry", who, self.item(self.new_name(_CARRIED)))
            self.add(*choice)
        elif verb == "share":
            self.shared = True
            self.add(*choice, draw.pick(PLACE[state.place[who]].activities))
        else:
            self.swapped |= verb == "swap"
            self.add(*choice)
