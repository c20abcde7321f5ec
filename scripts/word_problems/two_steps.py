"""Situations of two steps."""

from __future__ import annotations

from scripts.word_problems.problem import Template

TEMPLATES: tuple[Template, ...] = (
    Template(
        "gain_lose",
        "a 5-60, b 3-40, c 3-40",
        "a + b, x - c",
        (
            "{A} has {a} {t}, gets {b} more and loses {c}. How many {t} does {A.he} have now?",
            "{A} had {a} {t}. {B} gave {A.him} {b} and took {c}. How many {t} does {A} have now?",
            "A {box.one} holds {a} {t}. {b} are put in, then {c} are taken out. How many are left?",
        ),
        "t small, box box",
    ),
    Template(
        "lose_gain",
        "a 10-60, b 3-40, c 3-40",
        "a - b, x + c",
        (
            "A {v.one} has {a} people. {b} get off and {c} get on. How many are on it now?",
            "{A} had {a} {t}, sold {b} and bought {c}. How many {t} does {A.he} have now?",
            "{A} had ${a}, spent ${b} and then earned ${c}. How many dollars does {A.he} have now?",
        ),
        "t ware, v vehicle",
    ),
    Template(
        "lose_lose",
        "a 20-90, b 3-40, c 3-40",
        "a - b, x - c",
        (
            "{A} had {a} {t}. {A.He} gave {b} to {B} and ate {c}. How many {t} are left?",
            "{A} has ${a} and spends ${b} on food and ${c} on {u}. How many dollars are left?",
            "Of {a} {f}, {b} swim, {c} run and the rest cycle. How many cycle?",
        ),
        "t food, u ware, f folk",
    ),
    Template(
        "boxes_and_loose",
        "a 2-12, b 2-15, c 2-40",
        "a * b, x + c",
        (
            "{A} has {a} {box} of {b} {t} and {c} loose {t}. How many {t} does {A.he} have?",
            "There are {a} {box} with {b} {t} each, and {c} {t} beside them. How many {t} in all?",
            "{A} picks {b} {u} a day for {a} days, then {c} more. How many {u} is that?",
        ),
        "t food, box box, u fruit",
    ),
    Template(
        "boxes_minus",
        "a 2-12, b 2-15, c 2-40",
        "a * b, x - c",
        (
            "{A} buys {a} {box} of {b} {t} and uses {c} {t}. How many {t} are left?",
            "A {s.one} has {a} {box} of {b} {t} and sells {c} {t}. How many {t} remain?",
            "{a} {box} held {b} {t} each, but {c} {t} were bad. How many {t} were good?",
        ),
        "t food, box box, s shop",
    ),
    Template(
        "many_and_one",
        "a 2-12, b 2-15, c 3-50",
        "a * b, x + c",
        (
            "{A} buys {a} {t} at ${b} each and {u.a} for ${c}. How many dollars is that?",
            (
                "{t.Many} cost ${b} each. {A} gets {a} of them and pays ${c} for {u.a}. "
                "What is the total in dollars?"
            ),
            (
                "A {j.one} works {a} hours for ${b} an hour and gets a tip of ${c}. "
                "How many dollars is that?"
            ),
        ),
        "t ware, u ware, j job",
    ),
    Template(
        "change_of_many",
        "c 30-150, a 2-12, b 2-15",
        "a * b, c - x",
        (
            "{A} buys {a} {t} at ${b} each and pays with ${c}. How many dollars are returned?",
            "{A} has ${c} and buys {a} {t} for ${b} apiece. How many dollars are left?",
            "Out of ${c}, {A} pays ${b} to each of {a} {f}. How many dollars remain?",
        ),
        "t ware, f folk",
    ),
    Template(
        "share_rest",
        "a 12-90, b 2-40, c 2-9",
        "a - b, x / c",
        (
            "{A} has {a} {t}, eats {b} and shares the rest among {c} {f}. How many does each get?",
            (
                "Of {a} {t}, {b} are spoiled. {c} {f} split the others evenly. "
                "How many {t} does each of them get?"
            ),
            (
                "A book has {a} pages. {A} has read {b} and reads {c} a day. "
                "How many days does the rest take?"
            ),
        ),
        "t food, f folk",
    ),
    Template(
        "share_sum",
        "a 4-60, b 4-60, c 2-9",
        "a + b, x / c",
        (
            (
                "{A} has {a} {t}, {B} has {b}. They put them evenly in {c} {box}. "
                "How many are in each?"
            ),
            (
                "{a} {c1.one} and {b} {c2.one} {t} are sorted into packs of {c}. "
                "How many packs is that?"
            ),
            "{a} boys and {b} girls form teams of {c}. How many teams are there?",
        ),
        "t small, box box, c1 color, c2 color",
    ),
    Template(
        "share_then_less",
        "a 12-150, b 2-9, c 2-12",
        "a / b, x - c",
        (
            (
                "{b} {f} share {a} {t} equally. {A}, one of them, eats {c}. "
                "How many {t} does {A} have left?"
            ),
            "{A} packs {a} {t} into {box} of {b} and sells {c} {box}. How many {box} are left?",
            (
                "{b} {f} split a bill of ${a} evenly, but {A} gets ${c} off. "
                "How many dollars does {A} pay?"
            ),
        ),
        "t food, box box, f folk",
    ),
    Template(
        "share_then_more",
        "a 12-150, b 2-9, c 2-40",
        "a / b, x + c",
        (
            (
                "{b} {f} share {a} {t} equally. {A}, one of them, had {c} before. "
                "How many does {A.he} have now?"
            ),
            (
                "{A} and {B} sort {a} {t} into {b} equal heaps. "
                "{A} takes one heap and finds {c} more. "
                "How many {t} does {A.he} have?"
            ),
            (
                "{b} {f} split a bill of ${a} evenly, and {A} adds a tip of ${c}. "
                "How many dollars does {A} pay?"
            ),
        ),
        "t small, f folk",
    ),
    Template(
        "more_and_total",
        "a 4-50, b 3-30",
        "a + b, x + a",
        (
            "{A} has {a} {t} and {B} has {b} more than {A}. How many do they have together?",
            "{A} baked {a} {u}. {B} baked {b} more than that. How many {u} did both bake?",
            "A pen has {a} {p} and {b} more {q} than {p}. How many animals are in it?",
        ),
        "t small, u baked, p pet, q pet",
    ),
    Template(
        "fewer_and_total",
        "a 10-70, b 3-40",
        "a - b, x + a",
        (
            "{A} has {a} {t} and {B} has {b} fewer than {A}. How many do they have together?",
            "{A} made {a} {u}. {B} made {b} fewer. How many {u} did they make in all?",
            "On {d1.one} {a} {f} came, on {d2.one} {b} fewer. How many came on both days?",
        ),
        "t small, u craft, f folk, d1 day, d2 day",
    ),
    Template(
        "times_and_total",
        "a 3-30, b 3-6",
        "a * b, x + a",
        (
            "{A} has {a} {t} and {B} has {b} times as many. How many do they have together?",
            "A farm has {a} {p} and {b} times as many {q}. How many {p} and {q} does it have?",
            "{A} jogs {a} km. {B} cycles {b} times as far. How many km is that in all?",
        ),
        "t small, p pet, q pet",
    ),
    Template(
        "twice_minus",
        "a 4-45, b 3-40",
        "a * 2, x - b",
        (
            "{A} has {a} {t}. {B} had twice as many but lost {b}. How many {t} does {B} have now?",
            "{A} doubled {A.his} ${a} and then spent ${b}. How many dollars are left?",
            "{B} is {b} years younger than twice {A}'s age. {A} is {a}. How old is {B}?",
        ),
        "t small",
    ),
    Template(
        "twice_plus",
        "a 4-60, b 3-40",
        "a * 2, x + b",
        (
            "{A} has {a} {t}. {B} has {b} more than twice as many. How many {t} does {B} have?",
            "{A} doubled {A.his} ${a} and then earned ${b}. How many dollars does {A.he} have now?",
            "A rope is {b} cm longer than twice a stick of {a} cm. How many cm long is the rope?",
        ),
        "t small",
    ),
    Template(
        "half_minus",
        "a 12-160, b 2-40",
        "a / 2, x - b",
        (
            "{A} had {a} {t}. Half were sold, and {b} of the others got lost. How many are left?",
            "Half of {a} {f} stayed. Later {b} of those left too. How many were still there?",
            "{B} has {b} fewer {t} than half of {A}'s {a}. How many {t} does {B} have?",
        ),
        "t craft, f folk",
    ),
    Template(
        "half_plus",
        "a 12-160, b 2-40",
        "a / 2, x + b",
        (
            "{A} had {a} {t}, gave half away and then got {b}. How many does {A.he} have now?",
            "Half of {a} {f} stayed, and {b} new ones came. How many were there then?",
            "{B} has {b} more {t} than half of {A}'s {a}. How many {t} does {B} have?",
        ),
        "t small, f folk",
    ),
    Template(
        "third_part",
        "b 3-40, c 3-40, a 20-100",
        "b + c, a - x",
        (
            (
                "Of {a} {t}, {b} are {c1.one}, {c} are {c2.one}, the rest {c3.one}. "
                "How many are {c3.one}?"
            ),
            "{A}, {B} and {C} have {a} {t}. {A} has {b} and {B} has {c}. How many does {C} have?",
            (
                "A trip is {a} km. {A} did {b} km on {d1.one} and {c} km on {d2.one}. "
                "How many km remain?"
            ),
        ),
        "t small, c1 color, c2 color, c3 color, d1 day, d2 day",
    ),
    Template(
        "goal_left",
        "b 2-15, c 2-10, a 30-150",
        "b * c, a - x",
        (
            "{A} must read {a} pages and reads {b} a day for {c} days. How many pages are left?",
            "{A} needs {a} {t} and makes {b} a day. How many are missing after {c} days?",
            "A tank of {a} liters leaks {b} liters an hour. How many are left after {c} hours?",
        ),
        "t craft",
    ),
    Template(
        "time_to_finish",
        "a 20-120, b 3-60, c 2-12",
        "a - b, x / c",
        (
            "{A} needs ${a}, has ${b} and saves ${c} a week. How many weeks will it take?",
            "{A} has done {b} of {a} tasks and does {c} a day. How many days are still needed?",
            "A {v.one} has gone {b} of {a} km and does {c} km a minute. How many minutes remain?",
        ),
        "v vehicle",
    ),
    Template(
        "ages_later",
        "a 4-40, b 3-30, c 2-20",
        "a + b, x + c",
        (
            "{A} is {a}. {B} is {b} years older. How old will {B} be in {c} years?",
            (
                "{B} is {b} years older than {A}, and {C} is {c} years older than {B}. {A} is {a}. "
                "How old is {C}?"
            ),
            "{c} years ago {B} was {b} years older than {A}, who was {a} then. How old is {B} now?",
        ),
    ),
    Template(
        "ages_before",
        "a 4-16, b 2-5, c 2-20",
        "a * b, x - c",
        (
            "{A} is {a}. {B} is {b} times as old. How old was {B} {c} years ago?",
            (
                "{B} is {b} times as old as {A}, who is {a}. {C} is {c} years younger than {B}. "
                "How old is {C}?"
            ),
            "{A} is {a} and {A.his} aunt {b} times as old. How old was the aunt {c} years ago?",
        ),
    ),
    Template(
        "perimeter",
        "a 4-60, b 3-40",
        "a + b, x * 2",
        (
            "A field is {a} m long and {b} m wide. How many m of fence go around it?",
            (
                "{A} walks {a} m to the {w.one} and {b} m on to the {z.one}, then the "
                "same way back. How many m is that?"
            ),
            "What is the perimeter in cm of a card that is {a} cm by {b} cm?",
        ),
        "w place, z place",
    ),
    Template(
        "sum_times",
        "a 2-15, b 2-15, c 2-9",
        "a + b, x * c",
        (
            "{A} eats {a} {t} and {b} {u} a day. How many is that in {c} days?",
            "A {box.one} holds {a} {t} and {b} {u}. How many items are in {c} such {box}?",
            "Each day {A} makes {a} and {B} {b} {k}. How many {k} do they make in {c} days?",
        ),
        "t food, u food, box box, k craft",
    ),
    Template(
        "difference_times",
        "a 8-40, b 2-30, c 2-9",
        "a - b, x * c",
        (
            "{A} earns ${a} a day and spends ${b} of it. How many dollars are left after {c} days?",
            "{t.Many} cost ${a} each, today ${b} less. How many dollars do {c} {t} cost?",
            "Each of {c} {box} held {a} {u}, but {b} in each were bad. How many {u} were good?",
        ),
        "t ware, box box, u food",
    ),
    Template(
        "three_addends",
        "a 3-50, b 3-50, c 3-50",
        "a + b, x + c",
        (
            "{A} has {a} {t}, {B} has {b} and {C} has {c}. How many {t} do they have in all?",
            (
                "{A} sold {a} {u} on {d1.one}, {b} on {d2.one} and {c} on {d3.one}. "
                "How many did {A.he} sell?"
            ),
            "A farm has {a} {p}, {b} {q} and {c} {r}. How many animals is that?",
        ),
        "t small, u ware, d1 day, d2 day, d3 day, p pet, q pet, r pet",
    ),
    Template(
        "unit_price_scaled",
        "a 6-90, b 2-9, c 2-12",
        "a / b, x * c",
        (
            "{b} {t} cost ${a}. How many dollars do {c} {t} cost?",
            "{A} earns ${a} in {b} hours. How many dollars does {A.he} earn in {c} hours?",
            "A {v.one} goes {a} km in {b} minutes. How many km does it go in {c} minutes?",
        ),
        "t ware, v vehicle",
    ),
    Template(
        "pieces",
        "a 20-150, b 3-60, c 2-15",
        "a - b, x / c",
        (
            (
                "{A} cuts {b} cm off a rope of {a} cm and cuts the rest into pieces of {c} cm. "
                "How many pieces are there?"
            ),
            (
                "From {a} liters of juice {b} are drunk. The rest fills jugs of {c} liters. "
                "How many jugs is that?"
            ),
            (
                "{A} keeps {b} of {a} {t} and packs the others {c} to a {box.one}. "
                "How many {box} does {A.he} fill?"
            ),
        ),
        "t small, box box",
    ),
    Template(
        "nested_groups",
        "a 2-9, b 2-9, c 2-9",
        "a * b, x * c",
        (
            (
                "{w.A} has {a} rooms with {b} shelves each and {c} {t} on each shelf. "
                "How many {t} is that?"
            ),
            "{a} {f} each carry {b} {box} of {c} {u}. How many {u} do they carry?",
            "{A} makes {c} {k} an hour, {b} hours a day. How many {k} in {a} days?",
        ),
        "t ware, w place, f folk, box box, u food, k craft",
    ),
    Template(
        "free_seats",
        "a 2-15, b 2-12, c 3-60",
        "a * b, x - c",
        (
            "{a} tables seat {b} people each. {c} {f} sit down. How many seats are free?",
            "{a} {v} have {b} seats each, and {c} people get on. How many seats are empty?",
            "A hall has {a} rows of {b} chairs. {c} are broken. How many chairs can be used?",
        ),
        "v vehicle, f folk",
    ),
    Template(
        "before_both",
        "a 20-80, c 3-30, b 3-30",
        "a - c, x + b",
        (
            (
                "{A} gave {b} {t} away, then got {c}, and now has {a}. "
                "How many did {A.he} have at first?"
            ),
            (
                "{b} people left a {v.one} and {c} got on. Now {a} are on it. "
                "How many were there at first?"
            ),
            (
                "{A} spent ${b}, then earned ${c}, and now has ${a}. "
                "How many dollars did {A.he} have at first?"
            ),
        ),
        "t small, v vehicle",
    ),
    Template(
        "round_trips",
        "a 3-30, b 2-9",
        "a * 2, x * b",
        (
            (
                "{A} lives {a} km from the {w.one}. How many km does {A.he} ride there and back on "
                "{b} days?"
            ),
            "A {v.one} goes {a} km each way. How many km are {b} round trips?",
            (
                "On each of {b} days {A} pays ${a} to ride to the {w.one} and ${a} to ride back. "
                "How many dollars is that?"
            ),
        ),
        "v vehicle, w place",
    ),
)
