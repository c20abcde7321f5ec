"""Situations of one step."""

from __future__ import annotations

from scripts.word_problems.problem import Template

TEMPLATES: tuple[Template, ...] = (
    Template(
        "gain",
        "a 5-60, b 3-40",
        "a + b",
        (
            "{A} has {a} {t}. {B} gives {A.him} {b} more. How many {t} does {A} have now?",
            "There were {a} {t} in a {box.one}. {A} put in {b} more. How many are in it now?",
            "{A} owned {a} {t} and then bought {b} more. How many {t} does {A.he} own now?",
        ),
        "t small, box box",
    ),
    Template(
        "lose",
        "a 10-60, b 3-50",
        "a - b",
        (
            "{A} has {a} {t} and gives {b} of them to {B}. How many {t} does {A} have left?",
            "There were {a} {t} in a {box.one}. {A} took out {b}. How many {t} are still in it?",
            "{A} had {a} {t} but lost {b} of them. How many {t} remain?",
        ),
        "t small, box box",
    ),
    Template(
        "two_kinds",
        "a 3-60, b 3-60",
        "a + b",
        (
            "{A} has {a} {c1.one} {t} and {b} {c2.one} ones. How many {t} is that in all?",
            "A {box.one} holds {a} {c1.one} and {b} {c2.one} {t}. How many {t} does it hold?",
            "{A} counts {a} {c1.one} {t} and {b} {c2.one} {t}. How many {t} does {A.he} count?",
        ),
        "t small, box box, c1 color, c2 color",
    ),
    Template(
        "price_times_count",
        "a 2-20, b 2-20",
        "a * b",
        (
            "{A} buys {a} {t} at ${b} each. How many dollars does {A.he} pay?",
            "One {t.one} costs ${b}. How many dollars do {a} {t} cost?",
            "A {s.one} sells {a} {t} for ${b} apiece. How many dollars does it take in?",
        ),
        "t ware, s shop",
    ),
    Template(
        "share_equally",
        "a 8-120, b 2-12",
        "a / b",
        (
            "{A} shares {a} {t} equally among {b} {f}. How many {t} does each get?",
            "{b} {f} split {a} {t} evenly. How many {t} are there for each of them?",
            "{a} {t} are dealt out equally to {b} {f}. How many {t} does one receive?",
        ),
        "t food, f folk",
    ),
    Template(
        "rows",
        "a 2-20, b 2-20",
        "a * b",
        (
            "There are {a} rows of {b} {t}. How many {t} are there?",
            "{A} plants {a} rows with {b} {t} in each row. How many {t} does {A.he} plant?",
            "A garden has {a} beds, and {b} {t} grow in each. How many {t} grow there?",
        ),
        "t plant",
    ),
    Template(
        "how_many_more",
        "a 10-80, b 3-70",
        "a - b",
        (
            "{A} has {a} {t} and {B} has {b}. How many more {t} does {A} have than {B}?",
            "{A} bought {a} {t}, {B} bought {b}. How many fewer {t} did {B} buy?",
            "A {box.one} holds {a} {t}, another holds {b}. What is the difference?",
        ),
        "t food, box box",
    ),
    Template(
        "more_than",
        "a 5-70, b 3-40",
        "a + b",
        (
            "{A} has {a} {t}. {B} has {b} more than {A}. How many {t} does {B} have?",
            "{A} made {a} {t}, which is {b} fewer than {B} made. How many did {B} make?",
            "{B} sold {b} more {t} than {A}, who sold {a}. How many {t} did {B} sell?",
        ),
        "t craft",
    ),
    Template(
        "fewer_than",
        "a 10-80, b 3-40",
        "a - b",
        (
            "{A} has {a} {t}. {B} has {b} fewer than {A}. How many {t} does {B} have?",
            "{A} made {a} {t}, which is {b} more than {B} made. How many did {B} make?",
            "{B} sold {b} fewer {t} than {A}, who sold {a}. How many {t} did {B} sell?",
        ),
        "t craft",
    ),
    Template(
        "times_as_many",
        "a 3-35, b 3-9",
        "a * b",
        (
            "{A} has {a} {t}. {B} has {b} times as many. How many {t} does {B} have?",
            "{B} collects {b} times as many {t} as {A}, who collects {a}. How many is that?",
            "{A} keeps {a} {p} and {B} keeps {b} times as many. How many {p} does {B} keep?",
        ),
        "t small, p pet",
    ),
    Template(
        "twice",
        "a 3-95",
        "a * 2",
        (
            "{A} has {a} {t}. {B} has twice as many. How many {t} does {B} have?",
            "A farm has {a} {p} and twice as many {q}. How many {q} does it have?",
            "{A} ran {a} minutes. {B} ran twice as long. How many minutes did {B} run?",
        ),
        "t small, p pet, q pet",
    ),
    Template(
        "half",
        "a 6-190",
        "a / 2",
        (
            "{A} had {a} {t} and gave half of them to {B}. How many {t} did {B} get?",
            "Half of the {a} {f} at a camp are new. How many {f} are new?",
            "A ribbon of {a} cm is cut in half. How many cm long is each piece?",
        ),
        "t food, f folk",
    ),
    Template(
        "change",
        "a 20-100, b 3-80",
        "a - b",
        (
            "{A} pays for {t.a} of ${b} with ${a}. How many dollars of change are due?",
            "{A} has ${a} and spends ${b} on {t}. How many dollars are left?",
            "{t.A} costs ${b}. {A} hands over ${a}. How many dollars does {A.he} get back?",
        ),
        "t ware",
    ),
    Template(
        "pages_left",
        "a 20-150, b 5-120",
        "a - b",
        (
            "{A}'s book has {a} pages. {A.He} has read {b}. How many pages are left to read?",
            "{A} must type {a} pages and has typed {b}. How many pages remain?",
            "Of the {a} pages in a notebook, {b} are used. How many pages are blank?",
        ),
    ),
    Template(
        "age_later",
        "a 4-60, b 3-30",
        "a + b",
        (
            "{A} is {a} years old. How old will {A.he} be in {b} years?",
            "{B} is {b} years older than {A}, who is {a}. How old is {B}?",
            "{b} years ago {A} was {a} years old. How old is {A.he} now?",
        ),
    ),
    Template(
        "age_before",
        "a 20-90, b 3-40",
        "a - b",
        (
            "{A} is {a} years old. How old was {A.he} {b} years ago?",
            "{B} is {b} years younger than {A}, who is {a}. How old is {B}?",
            "In {b} years {A} will be {a} years old. How old is {A.he} now?",
        ),
    ),
    Template(
        "speed",
        "a 3-60, b 2-12",
        "a * b",
        (
            "A {v.one} travels {a} km an hour. How many km does it travel in {b} hours?",
            "{A} drives {b} hours at {a} km an hour. How many km does {A.he} drive?",
            "A snail crawls {a} cm a minute. How many cm does it crawl in {b} minutes?",
        ),
        "v vehicle",
    ),
    Template(
        "per_day",
        "a 3-40, b 2-14",
        "a * b",
        (
            "{A} makes {a} {t} a day. How many {t} does {A.he} make in {b} days?",
            "A workshop turns out {a} {t} every day for {b} days. How many {t} is that?",
            "For {b} weeks {A} saves ${a} a week. How many dollars does {A.he} save?",
        ),
        "t craft",
    ),
    Template(
        "packs_needed",
        "a 12-150, b 3-15",
        "a / b",
        (
            "{A} puts {a} {t} into packs of {b}. How many packs does {A.he} fill?",
            "Each {box.one} takes {b} {t}. How many {box} are needed for {a} {t}?",
            "{a} {f} form teams of {b}. How many teams are there?",
        ),
        "t food, box box, f folk",
    ),
    Template(
        "boarding",
        "a 6-60, b 3-40",
        "a + b",
        (
            "A {v.one} carries {a} people, and {b} more get on. How many people are on it now?",
            "A club of {a} members takes in {b} new ones. How many members does it have now?",
            "{a} {f} are at a party when {b} more arrive. How many are there then?",
        ),
        "v vehicle, f folk",
    ),
    Template(
        "leaving",
        "a 12-80, b 3-60",
        "a - b",
        (
            "A {v.one} carries {a} people, and {b} get off. How many people stay on it?",
            "Of {a} {f}, {b} go home early. How many {f} stay?",
            "A farm had {a} {p} and sold {b}. How many {p} does it still have?",
        ),
        "v vehicle, f folk, p pet",
    ),
    Template(
        "cut_off",
        "a 15-150, b 4-90",
        "a - b",
        (
            "{A} cuts {b} cm off a rope of {a} cm. How many cm of rope are left?",
            "A tank holds {a} liters, and {b} liters are drained. How many liters are left?",
            "{A} is on a walk of {a} km and has walked {b} km. How many km remain?",
        ),
    ),
    Template(
        "other_part",
        "a 12-90, b 4-70",
        "a - b",
        (
            "Of {a} {t}, {b} are {c1.one} and the rest {c2.one}. How many are {c2.one}?",
            "A class has {a} pupils, {b} of them boys. How many girls are in it?",
            "{A} and {B} have {a} {t} together. {A} has {b}. How many does {B} have?",
        ),
        "t small, c1 color, c2 color",
    ),
    Template(
        "before_loss",
        "a 4-60, b 3-40",
        "a + b",
        (
            "{A} gave {b} {t} away and has {a} left. How many {t} did {A.he} have at first?",
            "After {b} {f} left a room, {a} were still there. How many were there before?",
            "{A} spent ${b} and still has ${a}. How many dollars did {A.he} have before?",
        ),
        "t small, f folk",
    ),
    Template(
        "before_gain",
        "a 12-80, b 3-50",
        "a - b",
        (
            "{A} found {b} {t} and now has {a}. How many {t} did {A.he} have at first?",
            "After {b} {f} came in, a room held {a}. How many were there before?",
            "{A} earned ${b} and now has ${a}. How many dollars did {A.he} have before?",
        ),
        "t small, f folk",
    ),
    Template(
        "unit_price",
        "a 8-150, b 2-15",
        "a / b",
        (
            "{b} {t} cost ${a} in all. How many dollars does one {t.one} cost?",
            "{A} pays ${a} for {b} {t}. How many dollars is that for each {t.one}?",
            "{A} earns ${a} in {b} hours. How many dollars is that an hour?",
        ),
        "t ware",
    ),
    Template(
        "laps",
        "a 2-20, b 2-15",
        "a * b",
        (
            "One lap takes {A} {a} minutes. How many minutes do {b} laps take {A.him}?",
            "{A} swims {b} times a week, {a} laps each time. How many laps is that a week?",
            "{A} needs {a} minutes for one {t.one}. How many minutes for {b} {t}?",
        ),
        "t craft",
    ),
    Template(
        "still_needed",
        "a 20-100, b 4-80",
        "a - b",
        (
            "{A} wants {t.a} of ${a} and has saved ${b}. How many more dollars are needed?",
            "{A} needs {a} {u} for a show and has {b}. How many more does {A.he} need?",
            "A hall has {a} seats, and {b} are taken. How many seats are free?",
        ),
        "t ware, u craft",
    ),
    Template(
        "temperature",
        "a 5-40, b 3-30",
        "a + b",
        (
            "At dawn it was {a} degrees. By noon it was {b} degrees warmer. How warm was it then?",
            "A plant of {a} cm grows {b} cm. How many cm tall is it then?",
            "A tank with {a} liters gets {b} liters more. How many liters are in it?",
        ),
    ),
    Template(
        "containers",
        "a 2-20, b 2-20",
        "a * b",
        (
            "{A} fills {a} {box} with {b} {t} each. How many {t} does {A.he} use?",
            "There are {b} {t} in each of {a} {box}. How many {t} are there?",
            "Each {box.one} holds {b} {t}. How many {t} do {a} {box} hold?",
        ),
        "t food, box box",
    ),
)
