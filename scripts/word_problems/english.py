"""People and things, with the forms that a sentence needs."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Person:
    """A person; `str()` is the name, the attributes are the pronouns."""

    name: str
    he: str
    him: str
    his: str

    def __str__(self) -> str:
        return self.name

    @property
    def He(self) -> str:  # noqa: N802  (the capital is the point)
        """The subject pronoun at the start of a sentence."""
        return self.he.capitalize()

    @property
    def His(self) -> str:  # noqa: N802
        """The possessive pronoun at the start of a sentence."""
        return self.his.capitalize()


@dataclass(frozen=True)
class Noun:
    """A countable thing; `str()` is the plural, since most sentences count."""

    one: str
    many: str

    def __str__(self) -> str:
        return self.many

    @property
    def a(self) -> str:
        """The singular with its indefinite article."""
        return f"{'an' if self.one[0] in 'aeiou' else 'a'} {self.one}"

    @property
    def A(self) -> str:  # noqa: N802
        """The singular with its article at the start of a sentence."""
        return self.a.capitalize()

    @property
    def Many(self) -> str:  # noqa: N802
        """The plural at the start of a sentence."""
        return self.many[0].upper() + self.many[1:]


def _plural(one: str) -> str:
    if one.endswith(("s", "x", "ch", "sh")):
        return one + "es"
    if one.endswith("y") and one[-2] not in "aeiou":
        return one[:-1] + "ies"
    return one + "s"


def _nouns(words: str) -> tuple[Noun, ...]:
    """Nouns from "apple, loaf/loaves": comma-separated, an irregular plural after a slash."""
    nouns = []
    for word in words.split(","):
        one, _, many = word.strip().partition("/")
        nouns.append(Noun(one, many or _plural(one)))
    return tuple(nouns)


_MEN = (
    "Tom, Ben, Sam, Leo, Max, Omar, Ravi, Ken, Luis, Paul, Adam, Jack, Noah, Ivan, Hugo, Amir, "
    "David, Peter, Felix, Carlos, Daniel, Oscar, Ali, Mark, Eric, Kofi"
)
_WOMEN = (
    "Anna, Mia, Lucy, Emma, Nina, Sara, Rosa, Kate, Zoe, Julia, Maria, Amy, Ella, Grace, Leila, "
    "Priya, Ruth, Clara, Alice, Yuki, Laura, Helen, Ines, Joan, Dina, Amina"
)
PEOPLE: tuple[Person, ...] = tuple(
    Person(name, *pronouns)
    for names, pronouns in ((_MEN, ("he", "him", "his")), (_WOMEN, ("she", "her", "her")))
    for name in names.split(", ")
)

NOUNS: dict[str, tuple[Noun, ...]] = {
    "small": _nouns(
        "marble, sticker, stamp, coin, shell, card, button, bead, toy car, badge, crayon, pencil, "
        "ribbon, magnet, balloon, rubber band, paper clip, key ring, postcard, seed"
    ),
    "food": _nouns(
        "apple, orange, cookie, muffin, pear, plum, peach, carrot, bun, cupcake, lemon, egg, "
        "tomato/tomatoes, bagel, cherry, potato/potatoes, strawberry, sandwich, pancake, fig"
    ),
    "baked": _nouns("cookie, muffin, bun, cupcake, bagel, pancake, pie, scone, roll, tart, waffle"),
    "fruit": _nouns(
        "apple, orange, pear, plum, peach, lemon, tomato/tomatoes, cherry, strawberry, fig, melon"
    ),
    "ware": _nouns(
        "notebook, mug, book, toy, hat, scarf/scarves, plant, poster, puzzle, ball, candle, brush, "
        "kite, ticket, bowl, bag, shirt, plate, comic, umbrella"
    ),
    "box": _nouns("box, bag, basket, crate, bin, bucket, sack, case"),
    "pet": _nouns(
        "hen, cow, sheep/sheep, goat, duck, rabbit, horse, goose/geese, pig, turkey, donkey, lamb"
    ),
    "folk": _nouns(
        "student, player, guest, visitor, worker, child/children, dancer, singer, camper, scout, "
        "tourist, hiker"
    ),
    "vehicle": _nouns("bus, van, train, boat, tram, ferry"),
    "plant": _nouns("tree, rose, tulip, bush, fern, shrub, sunflower, lily, vine, daisy"),
    "color": _nouns("red/red, blue/blue, green/green, white/white, yellow/yellow, black/black"),
    "craft": _nouns(
        "mask, basket, lantern, bracelet, candle, paper crane, clay pot, card, scarf/"
        "scarves, paper star"
    ),
    "place": _nouns("library, school, shop, museum, club, office, hotel, station"),
    "shop": _nouns("shop, market stall, store, kiosk"),
    "day": _nouns("Monday, Tuesday, Wednesday, Thursday, Friday, Saturday, Sunday"),
    "job": _nouns("baker, gardener, farmer, teacher, painter, coach, cook, clerk, driver, grocer"),
}
