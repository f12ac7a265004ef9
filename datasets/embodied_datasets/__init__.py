"""Readers, writers and collectors of robot episodes, all in terms of `embodied.structs`."""
