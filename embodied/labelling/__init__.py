"""A page on which a person compares recorded segments, two at a time."""

from embodied.labelling.server import ask_for_labels
from embodied.labelling.session import Session

__all__ = ["Session", "ask_for_labels"]
