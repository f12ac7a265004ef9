"""Every Meta-World task in words: 50 distinct instructions, each with paraphrases.

The sentences lie in `assets/metaworld_texts.json`. Those of similar tasks keep what tells them
apart (the wall, the side, back, from above), so that a sentence encoder can.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib.resources import files

from embodied.suites import Texts


def _read() -> dict[str, Texts]:
    path = files("embodied_envs") / "assets" / "metaworld_texts.json"
    return {
        task: Texts(
            canonical=texts["canonical"],
            paraphrases=tuple(texts["paraphrases"]),
            held_out=tuple(texts["held_out"]),
        )
        for task, texts in json.loads(path.read_text("utf-8")).items()
    }


TEXTS: Mapping[str, Texts] = _read()
"""Task -> its wordings, in the library's order."""
