"""The words of the tabletop's tasks: every way of saying what is done, around every name.

What is trained on are frames around names of things; the held-out wordings are other frames, with
names that were trained on.
"""

from __future__ import annotations

from embodied.suites import Texts
from embodied_envs.tabletop_tasks import Task

_MOVES = (
    "push {a} {to}",
    "move {a} {to}",
    "bring {a} {to}",
    "slide {a} {to}",
    "shove {a} {to}",
    "please get {a} {to}",
    "take {a} and push it {to}",
    "{a} should go {to}",
    "i want {a} {to}",
    "nudge {a} until it is {to}",
)
_MOVES_HELD_OUT = (
    "could you transfer {a} {to}",
    "{a} belongs {to}, so put it there",
    "see that {a} ends up {to}",
)
_PLACES = {
    "zone": ("to the {b} zone", "onto the {b} circle", "into the {b} area"),
    "block": ("to the {b} block", "next to the {b} block", "against the {b} block"),
    "side": ("to the {b} side", "to the {b} edge of the table", "all the way to the {b}"),
}
_BOTH = (
    "put the {a} and the {b} block into different zones",
    "push the {a} block and the {b} block into one zone each",
    "bring the {b} and the {a} block to separate zones",
    "move {a} and {b} into a zone each",
    "fill both zones with the {a} and the {b} block",
    "one zone gets the {a} block, the other one the {b} block",
    "spread the {b} and the {a} block over the two zones",
    "slide the {a} and the {b} block onto different circles",
)
_BOTH_HELD_OUT = (
    "each circle should hold one of the {a} and {b} blocks",
    "share the zones out between {a} and {b}",
    "the {b} and {a} blocks are to end up in zones of their own",
)
_SORT = (
    "push the {a} block to the {x} zone and the {b} block to the {y} zone",
    "put {b} into the {y} zone and {a} into the {x} zone",
    "move the {a} block onto the {x} circle, then the {b} block onto the {y} one",
    "{a} goes to {x} and {b} goes to {y}",
    "bring the {b} block to {y} and the {a} block to {x}",
    "sort the blocks: {a} into {x}, {b} into {y}",
    "slide {a} to the {x} area and {b} to the {y} area",
    "the {y} zone gets the {b} block, the {x} zone the {a} block",
)
_SORT_HELD_OUT = (
    "make sure that {a} lies in {x} and {b} lies in {y}",
    "{x} is for the {a} block and {y} for the {b} block",
    "deliver the {b} block to the {y} circle and {a} to the {x} circle",
)
_OTHERS = {
    "open": Texts(
        canonical="open the drawer",
        paraphrases=(
            "pull the drawer open",
            "pull the handle",
            "slide the drawer out",
            "draw the drawer all the way out",
            "please open the drawer fully",
            "the drawer should be open",
            "get the drawer open",
            "pull out the drawer by its handle",
        ),
        held_out=("drag the drawer out of the cabinet", "leave the drawer wide open"),
    ),
    "shut": Texts(
        canonical="close the drawer",
        paraphrases=(
            "push the drawer shut",
            "shut the drawer",
            "slide the drawer in",
            "push the drawer all the way in",
            "please close the drawer fully",
            "the drawer should be closed",
            "get the drawer shut",
            "push the handle until the drawer is closed",
        ),
        held_out=("send the drawer back into the cabinet", "leave the drawer tightly shut"),
    ),
    "button": Texts(
        canonical="press the button",
        paraphrases=(
            "push the button down",
            "press the button until it lights",
            "hit the button",
            "make the button light up",
            "please press the round button",
            "the button should be pressed",
            "go to the button and press it",
            "tap the button at the back",
        ),
        held_out=("let the lamp in the button shine", "give the button a firm press"),
    ),
}
PLAY = Texts(
    canonical="play",
    paraphrases=("play with the things on the table", "do as you like"),
    held_out=("explore the table",),
)


def tabletop_texts(task: Task) -> Texts:
    """The wordings of a task; canonical is the first frame around the first name."""
    if task.kind == "play":
        return PLAY
    if task.kind in ("drawer", "button"):
        return _OTHERS[task.targets[0] if task.targets else task.kind]
    if task.kind in ("both", "sort"):
        return _two_step(task)
    (block,), (target,) = task.blocks, task.targets
    places = [place.format(b=target) for place in _PLACES[task.kind]]
    canonical, *paraphrases = (
        move.format(a=f"the {block} block", to=place) for place in places for move in _MOVES
    )
    held_out = (
        move.format(a=f"the {block} block", to=place)
        for move, place in zip(_MOVES_HELD_OUT, places, strict=True)
    )
    return Texts(canonical, tuple(paraphrases), tuple(held_out))


def _two_step(task: Task) -> Texts:
    frames, others = (_BOTH, _BOTH_HELD_OUT) if task.kind == "both" else (_SORT, _SORT_HELD_OUT)
    (a, b), (x, y) = task.blocks, task.targets
    canonical, *paraphrases = (frame.format(a=a, b=b, x=x, y=y) for frame in frames)
    held_out = tuple(frame.format(a=a, b=b, x=x, y=y) for frame in others)
    return Texts(canonical, tuple(paraphrases), held_out)
