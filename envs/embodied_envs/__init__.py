"""Simulators behind one shape: a `Suite` of tasks, and vector environments over it."""
