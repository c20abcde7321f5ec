"""Situations of three steps."""

from __future__ import annotations

from scripts.word_problems.problem import Template

TEMPLATES: tuple[Template, ...] = (
    Template(
        "gain_lose_share",
        "a 8-60, b 3-40, c 3-30, d 2-8",
        "a + b, x - c, y / d",
        (
            (
                "{A} has {a} {t}, buys {b}, eats {c} and shares the rest among {d} {f}. "
                "How many does each get?"
            ),
            (
                "{A} had {a} {t} and got {b}. {c} were bad, the others went into {d} equal heaps. "
                "How many are in each heap?"
            ),
            (
                "{a} {f} and {b} guests came, {c} left, and the others sat at {d} tables evenly. "
                "How many sat at each table?"
            ),
        ),
        "t food, f folk",
    ),
    Template(
        "two_products_sum",
        "a 2-12, b 2-12, c 2-12, d 2-12",
        "a * b, c * d, x + y",
        (
            "{A} buys {a} {t} at ${b} each and {c} {u} at ${d} each. How many dollars is that?",
            "There are {a} {box} of {b} {k} and {c} {box} of {d} {k}. How many {k} in all?",
            (
                "{A} runs {b} km on each of {a} days and {d} km on each of {c} days. "
                "How many km is that?"
            ),
        ),
        "t ware, u ware, box box, k food",
    ),
    Template(
        "two_products_difference",
        "a 2-15, b 2-12, c 2-12, d 2-12",
        "a * b, c * d, x - y",
        (
            (
                "{A} has {a} {box} of {b} {t}, {B} has {c} {box} of {d}. "
                "How many more {t} does {A} have?"
            ),
            (
                "{A} works {a} hours at ${b} an hour and then buys {c} {u} at ${d} each. "
                "How many dollars are left?"
            ),
            (
                "{A} picks {b} {r} a day for {a} days and eats {d} a day for {c} days. "
                "How many {r} remain?"
            ),
        ),
        "t food, box box, u ware, r fruit",
    ),
    Template(
        "change_of_two",
        "a 2-10, b 2-12, c 3-40, d 40-180",
        "a * b, x + c, d - y",
        (
            (
                "{A} buys {a} {t} at ${b} each and {u.a} for ${c}. {A.He} pays with ${d}. "
                "How many dollars are returned?"
            ),
            (
                "{A} has ${d}. {A.He} buys {a} {t} for ${b} apiece and spends ${c} on food. "
                "How many dollars are left?"
            ),
            (
                "A book has {d} pages. {A} reads {b} a day for {a} days, then {c} more. "
                "How many pages are left?"
            ),
        ),
        "t ware, u ware",
    ),
    Template(
        "twice_total_minus",
        "a 4-45, b 3-40",
        "a * 2, x + a, y - b",
        (
            (
                "{A} has {a} {t}, {B} has twice as many. Together they give {b} away. "
                "How many are left?"
            ),
            "A farm has {a} {p} and twice as many {q}. It sells {b} animals. How many remain?",
            "{A} baked {a} {u} and {B} twice as many. {b} were eaten. How many {u} are left?",
        ),
        "t small, p pet, q pet, u baked",
    ),
    Template(
        "boxes_minus_shared",
        "a 2-12, b 2-15, c 2-30, d 2-8",
        "a * b, x - c, y / d",
        (
            (
                "{A} has {a} {box} of {b} {t}, keeps {c} and shares the rest among {d} {f}. "
                "How many does each get?"
            ),
            (
                "{a} trays hold {b} {u} each. {c} are burnt, and {d} {f} split the others. "
                "How many does each get?"
            ),
            (
                "{A} gets {a} packs of {b} {t}, loses {c} and puts the rest evenly in {d} {box}. "
                "How many are in each?"
            ),
        ),
        "t small, box box, f folk, u baked",
    ),
    Template(
        "wages",
        "a 3-20, b 2-9, c 3-40, d 3-40",
        "a * b, x - c, y + d",
        (
            (
                "{A} saves ${a} a week for {b} weeks, spends ${c} and then gets ${d}. "
                "How many dollars does {A.he} have?"
            ),
            (
                "A {s.one} has {b} {box} of {a} {t}, sells {c} and gets {d} new ones. "
                "How many {t} does it have now?"
            ),
            (
                "{a} rows of {b} {k} were planted. {c} died, and {d} were added. "
                "How many {k} are there now?"
            ),
        ),
        "s shop, box box, t food, k plant",
    ),
    Template(
        "chain_of_three",
        "a 3-30, b 2-20",
        "a + b, x * 2, y + a",
        (
            (
                "{A} has {a} {t}, {B} has {b} more, and {C} has twice as many as {B}. "
                "How many do {A} and {C} have together?"
            ),
            (
                "{A} sold {a} {u}. {B} sold {b} more, {C} twice as many as {B}. "
                "How many did {A} and {C} sell?"
            ),
            (
                "{A} ran {a} km, {B} ran {b} km more, and {C} ran twice as far as {B}. "
                "How many km did {A} and {C} run?"
            ),
        ),
        "t small, u ware",
    ),
    Template(
        "bus_stops",
        "a 12-60, b 3-30, c 3-40, d 3-30",
        "a - b, x + c, y - d",
        (
            (
                "A {v.one} has {a} people. {b} get off, {c} get on, then {d} get off. "
                "How many are on it?"
            ),
            (
                "{A} had {a} {t}, lost {b}, found {c} and gave away {d}. "
                "How many does {A.he} have now?"
            ),
            "{A} had ${a}, paid ${b}, earned ${c} and paid ${d}. How many dollars are left?",
        ),
        "v vehicle, t small",
    ),
    Template(
        "packs_left",
        "a 8-70, b 8-70, c 2-9, d 2-12",
        "a + b, x / c, y - d",
        (
            (
                "{A} picks {a} {t}, {B} picks {b}. They pack them {c} to a {box.one} and sell {d} "
                "{box}. How many {box} are left?"
            ),
            "{a} boys and {b} girls form teams of {c}. {d} teams go home. How many teams stay?",
            (
                "{A} ties {a} {c1.one} and {b} {c2.one} {k} into bunches of {c} and sells {d} "
                "bunches. "
                "How many bunches remain?"
            ),
        ),
        "t fruit, box box, k plant, c1 color, c2 color",
    ),
    Template(
        "fence_with_gate",
        "a 5-40, b 4-30, c 2-20",
        "a + b, x * 2, y - c",
        (
            (
                "A yard is {a} m by {b} m. A fence goes around it except for a gate of {c} m. "
                "How many m of fence is that?"
            ),
            (
                "{A} frames a picture of {a} cm by {b} cm with tape and already has {c} cm. "
                "How many more cm go around it?"
            ),
            (
                "{A} walks {a} m, then {b} m, and the same way back, but rides the last {c} m. "
                "How many m does {A.he} walk?"
            ),
        ),
    ),
    Template(
        "fence_price",
        "a 2-20, b 2-15, c 2-6",
        "a + b, x * 2, y * c",
        (
            (
                "A flower bed is {a} m by {b} m. An edge around it costs ${c} a m. "
                "How many dollars is that?"
            ),
            "{A} walks around a yard of {a} m by {b} m {c} times. How many m is that?",
            (
                "Each day {A} cycles {a} km to the {w.one}, {b} km on to the {z.one}, "
                "and back again. How many km is that in {c} days?"
            ),
        ),
        "w place, z place",
    ),
    Template(
        "half_gain_lose",
        "a 10-150, b 3-40, c 3-40",
        "a / 2, x + b, y - c",
        (
            "{A} had {a} {t}, gave half away, got {b} and lost {c}. How many does {A.he} have now?",
            "Half of {a} {f} went home. Then {b} came and {c} left. How many were there then?",
            "{A} spent half of ${a}, earned ${b} and paid ${c}. How many dollars are left?",
        ),
        "t small, f folk",
    ),
    Template(
        "all_after_eating",
        "a 12-150, b 2-9, c 2-12",
        "a / b, x - c, y * b",
        (
            "{b} {f} share {a} {t} equally, and each eats {c}. How many {t} are left in all?",
            (
                "{a} {t} lie evenly in {b} {box}. {c} are taken from each {box.one}. "
                "How many {t} are left in all?"
            ),
            (
                "{b} {f} split ${a} evenly, and each spends ${c}. "
                "How many dollars do they still have together?"
            ),
        ),
        "t food, f folk, box box",
    ),
    Template(
        "two_shifts",
        "a 2-10, b 2-10, c 2-15, d 3-60",
        "a + b, x * c, y - d",
        (
            (
                "{A} works {a} hours on {d1.one} and {b} on {d2.one} at ${c} an hour "
                "and spends ${d}. How many dollars are left?"
            ),
            (
                "{A} makes {a} {t} an hour and {B} makes {b}. "
                "They sell {d} of those made in {c} hours. How many {t} are left?"
            ),
            "{a} boys and {b} girls bring {c} {u} each, and {d} get eaten. How many {u} are left?",
        ),
        "t craft, u food, d1 day, d2 day",
    ),
    Template(
        "ages_of_three",
        "a 4-60, b 2-30, c 2-30",
        "a + b, x / 2, y + c",
        (
            (
                "{B} is {b} years older than {A}, who is {a}. {C} is half as old as {B}. "
                "How old will {C} be in {c} years?"
            ),
            (
                "{A} has {a} {t}, {B} has {b} more. {C} had half as many as {B} and got {c}. "
                "How many does {C} have now?"
            ),
            (
                "{A} puts {a} and {b} {t} together, gives half away and gets {c}. "
                "How many does {A.he} have now?"
            ),
        ),
        "t small",
    ),
    Template(
        "reduced_price",
        "a 5-30, b 2-20, c 2-9, d 3-50",
        "a - b, x * c, y + d",
        (
            (
                "{t.Many} cost ${a}, today ${b} less. {A} buys {c} and {u.a} for ${d}. "
                "How many dollars is that?"
            ),
            (
                "{A} earns ${a} a day and spends ${b} of it. {A.He} had ${d}. "
                "How many dollars does {A.he} have after {c} days?"
            ),
            (
                "{c} {box} of {a} {k} had {b} bad ones each. {d} good {k} were added. "
                "How many good {k} is that?"
            ),
        ),
        "t ware, u ware, box box, k food",
    ),
    Template(
        "seats_for_groups",
        "a 3-15, b 3-12, c 3-40, d 3-40",
        "a * b, c + d, x - y",
        (
            "{a} tables seat {b} each. {c} boys and {d} girls sit down. How many seats are free?",
            (
                "{A} fills {a} {box} with {b} {t}, then gives {c} to {B} and {d} to {C}. "
                "How many {t} are left?"
            ),
            (
                "{A} earns ${b} a day for {a} days and pays ${c} for food and ${d} for rent. "
                "How many dollars are left?"
            ),
        ),
        "box box, t small",
    ),
    Template(
        "rest_divided",
        "b 3-40, c 3-40, a 30-150, d 2-9",
        "b + c, a - x, y / d",
        (
            (
                "Of {a} {t}, {A} eats {b} and {B} eats {c}. {d} {f} split the rest. "
                "How many does each get?"
            ),
            (
                "{A} has ${a} and pays ${b} and ${c}. The rest lasts {d} days. "
                "How many dollars is that a day?"
            ),
            (
                "A trip is {a} km: {b} km by bus, {c} km by train, "
                "the rest by bicycle in {d} days. How many km is that a day?"
            ),
        ),
        "t food, f folk",
    ),
    Template(
        "saving_weeks",
        "a 30-150, b 3-60, c 2-12, d 2-20",
        "a - b, x / c, y + d",
        (
            (
                "{A} wants ${a}, has ${b} after {d} weeks and now saves ${c} a week. "
                "How many weeks is that in all?"
            ),
            (
                "{A} read {b} of {a} pages in {d} days and reads {c} a day from now on. "
                "How many days is that in all?"
            ),
            (
                "{A} puts all but {b} of {a} {t} into {box} of {c}. {B} brings {d} more {box}. "
                "How many {box} are there?"
            ),
        ),
        "t small, box box",
    ),
    Template(
        "weights",
        "a 10-120, b 2-9, c 2-12, d 2-40",
        "a / b, x * c, y - d",
        (
            (
                "{b} {box} of rice weigh {a} kg. {A} has {c} such {box} and uses {d} kg. "
                "How many kg are left?"
            ),
            (
                "{b} {t} cost ${a}. {A} buys {c} with a coupon for ${d} off. "
                "How many dollars does {A.he} pay?"
            ),
            (
                "{A} earns ${a} in {b} hours, works {c} hours and spends ${d}. "
                "How many dollars are left?"
            ),
        ),
        "box box, t ware",
    ),
    Template(
        "combined_rates",
        "a 2-15, b 2-15, c 2-8, d 3-60",
        "a + b, x * c, y + d",
        (
            (
                "{A} packs {a} {box} an hour and {B} packs {b}. {d} are packed already. "
                "How many are packed after {c} hours?"
            ),
            (
                "Each day {A} saves ${a} and {B} ${b}. They start with ${d}. "
                "How many dollars do they have after {c} days?"
            ),
            (
                "Each of {c} {f} gets {a} {t} and {b} {u}, and {d} items are left over. "
                "How many items were there?"
            ),
        ),
        "box box, f folk, t food, u food",
    ),
    Template(
        "times_less_total",
        "a 3-30, b 2-6, c 2-30",
        "a * b, x - c, y + a",
        (
            (
                "{A} has {a} {t}. {B} had {b} times as many but lost {c}. "
                "How many do they have together now?"
            ),
            (
                "A farm has {a} {p}. It had {b} times as many {q} but sold {c} of them. "
                "How many animals does it have now?"
            ),
            (
                "{A} earned ${a}. {B} earned {b} times as much but spent ${c}. "
                "How many dollars do they have together?"
            ),
        ),
        "t small, p pet, q pet",
    ),
    Template(
        "three_days",
        "a 3-40, b 2-30, c 2-20",
        "a + b, x - c, y + a",
        (
            (
                "{A} sold {a} {t} on {d1.one}, {b} more on {d2.one}, and on {d3.one} {c} fewer "
                "than on "
                "{d2.one}. How many did {A.he} sell on {d1.one} and {d3.one}?"
            ),
            (
                "{A} has {a} {u}, {B} has {b} more than {A}, {C} has {c} fewer than {B}. "
                "How many do {A} and {C} have?"
            ),
            (
                "{B} is {b} years older than {A}, who is {a}, and {C} is {c} years "
                "younger than {B}. How old are {A} and {C} together?"
            ),
        ),
        "t ware, u small, d1 day, d2 day, d3 day",
    ),
)
