"""Drills of a robot's controller in simulation: every fault that it must survive, on purpose."""
