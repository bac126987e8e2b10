"""The facts of the world as data: eight relations of things, and two operations on numbers.

To teach the embedded model something new, add it here and pretrain again.
"""

from __future__ import annotations

from dataclasses import dataclass

NAMES = (  # noqa: SIM905
    "Ada Ben Cora Dan Ella Finn Gina Hugo Ivy Jack Kate Leo Mia Noah Olga Paul"
).split()
GOODS = (  # noqa: SIM905
    "apples pears plums eggs coins books stamps shells marbles cards buttons pens cups beads "
    "stones roses cakes balls kites rings"
).split()
NUM_CHOICES = 4
"""The number of values of a relation, and of choices of a question."""


@dataclass(frozen=True)
class Relation:
    """A relation between things and values, with sentences about it.

    Attributes:
        name: The name of the relation.
        statements: Sentences that state a fact; ``{s}`` is the thing and ``{v}`` its value.
        questions: Sentences that ask for ``{v}``.
        members: Value -> the things that have it: four values in a fixed order. A thing has one
            value in a relation.
    """

    name: str
    statements: tuple[str, ...]
    questions: tuple[str, ...]
    members: dict[str, str]


RELATIONS = (
    Relation(
        "home",
        (
            "the {s} lives in the {v}.",
            "the home of the {s} is the {v}.",
            "in the {v} lives the {s}.",
            "if you look for the {s}, go to the {v}.",
        ),
        (
            "Where does the {s} live?",
            "What is the home of the {s}?",
            "Where would you meet the {s}?",
        ),
        {
            "sea": "whale shark crab squid dolphin lobster jellyfish octopus",
            "forest": "deer owl fox bear badger woodpecker squirrel boar",
            "desert": "camel scorpion cobra vulture lizard jackal meerkat tortoise",
            "farm": "cow pig hen goat sheep donkey duck turkey",
        },
    ),
    Relation(
        "food",
        (
            "the {s} eats {v}.",
            "the food of the {s} is {v}.",
            "{v} is what the {s} eats.",
            "give the {s} some {v}.",
        ),
        (
            "What does the {s} eat?",
            "What is the food of the {s}?",
            "What would you feed to the {s}?",
        ),
        {
            "grass": "cow sheep horse zebra buffalo hare goat kangaroo",
            "fish": "seal penguin otter pelican heron dolphin walrus puffin",
            "insects": "frog lizard bat swallow spider mole hedgehog anteater",
            "meat": "lion wolf tiger hawk leopard eagle jackal hyena",
        },
    ),
    Relation(
        "use",
        (
            "the {s} is used for {v}.",
            "for {v} people use the {s}.",
            "the use of the {s} is {v}.",
            "{v} is done with the {s}.",
        ),
        (
            "What is the {s} used for?",
            "What do people do with the {s}?",
            "What is the use of the {s}?",
        ),
        {
            "cutting": "knife saw axe razor sword dagger chisel sickle",
            "writing": "pen pencil chalk quill crayon marker typewriter stylus",
            "cleaning": "broom mop sponge soap brush duster rag bleach",
            "cooking": "pan pot oven kettle stove grill wok toaster",
        },
    ),
    Relation(
        "material",
        (
            "the {s} is made of {v}.",
            "{v} is what the {s} is made of.",
            "people make the {s} from {v}.",
            "from {v} comes the {s}.",
        ),
        (
            "What is the {s} made of?",
            "From what do people make the {s}?",
            "What does the {s} come from?",
        ),
        {
            "wood": "table door ladder barrel fence chair raft stool",
            "glass": "window bottle mirror jar lens bulb vase tumbler",
            "metal": "coin nail key anchor sword bell chain horseshoe",
            "wool": "scarf sweater mitten blanket sock shawl carpet cardigan",
        },
    ),
    Relation(
        "room",
        (
            "the {s} is kept in the {v}.",
            "in the {v} you find the {s}.",
            "the place of the {s} is the {v}.",
            "go to the {v} for the {s}.",
        ),
        ("Where is the {s} kept?", "Where do you find the {s}?", "What is the place of the {s}?"),
        {
            "kitchen": "oven fridge spoon bowl kettle plate fork ladle",
            "bathroom": "bathtub towel soap razor toothbrush shampoo basin comb",
            "bedroom": "bed pillow blanket wardrobe mattress pyjama quilt cradle",
            "garden": "spade hedge bench fence rake fountain hammock wheelbarrow",
        },
    ),
    Relation(
        "work",
        (
            "the {s} works in the {v}.",
            "in the {v} works the {s}.",
            "the work of the {s} is in the {v}.",
            "the {v} needs the {s}.",
        ),
        ("Where does the {s} work?", "Where is the work of the {s}?", "What place needs the {s}?"),
        {
            "hospital": "doctor nurse surgeon midwife matron medic healer dentist",
            "school": "teacher pupil tutor scholar student headmaster professor governess",
            "field": "farmer shepherd reaper sower ploughman herdsman picker thresher",
            "theatre": "actor dancer singer clown juggler conductor pianist magician",
        },
    ),
    Relation(
        "colour",
        (
            "the {s} is {v}.",
            "{v} is the colour of the {s}.",
            "the colour of the {s} is {v}.",
            "people paint the {s} {v}.",
        ),
        (
            "What colour is the {s}?",
            "What is the colour of the {s}?",
            "How do people paint the {s}?",
        ),
        {
            "red": "strawberry cherry tomato lobster brick ruby poppy raspberry",
            "yellow": "banana lemon corn chick sun canary daffodil butter",
            "green": "pea cucumber frog lettuce grasshopper cabbage emerald spinach",
            "white": "milk swan salt chalk sheep snow lily flour",
        },
    ),
    Relation(
        "kind",
        (
            "the {s} is one kind of {v}.",
            "one kind of {v} is the {s}.",
            "people call the {s} {v}.",
            "{v} is the kind of the {s}.",
        ),
        ("What kind of thing is the {s}?", "What do people call the {s}?", "What is the {s}?"),
        {
            "bird": "owl parrot hen swan crow sparrow heron robin",
            "tree": "oak pine birch willow chestnut maple cedar elm",
            "flower": "rose tulip daisy poppy lily orchid violet daffodil",
            "vehicle": "cart bus boat bicycle truck tram train lorry",
        },
    ),
)


@dataclass(frozen=True)
class Operation:
    """An operation on two numbers, with sentences about it.

    Attributes:
        name: The name of the operation.
        statements: Sentences that state a sum; ``{a}`` and ``{b}`` are its operands, and ``{c}`` is
            its result.
        stories: Stories with the operation; each is an event, a question about it, and its answer.
    """

    name: str
    statements: tuple[str, ...]
    stories: tuple[tuple[str, str, str], ...]


OPERATIONS = (
    Operation(
        "add",
        (
            "{a} + {b} = {c}",
            "{a} plus {b} is {c}.",
            "{a} and {b} make {c}.",
            "{c} is {b} more than {a}.",
        ),
        (
            (
                "{n} had {a} {g} and found {b} more.",
                "How many {g} does {n} have now?",
                "Now {n} has {c} {g}.",
            ),
            (
                "{n} has {a} {g}. {m} gives {n} {b} more {g}.",
                "How many {g} are there?",
                "Now there are {c} {g}.",
            ),
            (
                "There were {a} {g} in the box. {n} put in {b} {g}.",
                "How many {g} are in the box now?",
                "Now {c} {g} are in the box.",
            ),
            (
                "{n} has {a} {g} and {m} has {b}.",
                "How many {g} do they have together?",
                "Together they have {c} {g}.",
            ),
        ),
    ),
    Operation(
        "subtract",
        (
            "{a} - {b} = {c}",
            "{a} minus {b} is {c}.",
            "take {b} from {a} and {c} is left.",
            "{c} is {b} less than {a}.",
        ),
        (
            (
                "{n} had {a} {g} and lost {b}.",
                "How many {g} does {n} have left?",
                "Now {n} has {c} {g} left.",
            ),
            (
                "{n} had {a} {g}. {n} gave {b} {g} to {m}.",
                "How many {g} does {n} still have?",
                "Now {n} still has {c} {g}.",
            ),
            (
                "There were {a} {g} in the box. {n} took out {b} {g}.",
                "How many {g} are left in the box?",
                "Now {c} {g} are left in the box.",
            ),
            (
                "{n} bought {a} {g} and sold {b} of them.",
                "How many {g} did {n} keep?",
                "So {n} kept {c} {g}.",
            ),
        ),
    ),
)
