"""A page on which a person draws, over a camera's image, the path that a hand shall take."""

from embodied.sketching.server import ask_for_sketch

__all__ = ["ask_for_sketch"]
