"""All faults that a robot's controller is drilled on."""

from __future__ import annotations

from embodied.deploy.drill import machine_rows, motion_rows, policy_rows
from embodied.deploy.drill.card import Row

ROWS = (
    Row(
        "R1",
        "policy stalls: brake and hold within expiry + 1 tick + 2 ms, go on from a fresh chunk",
        policy_rows.stalls,
        "a policy that falls silent, for a process that is stopped",
    ),
    Row(
        "R2",
        "policy dies: hold, and after a while only the operator may go on",
        policy_rows.dies,
        "a policy that falls silent and comes back, for a killed process and its connection",
    ),
    Row("R3", "late replies are never executed", policy_rows.replies_late),
    Row(
        "R4",
        "double, reordered, old and future chunks are refused",
        policy_rows.arrives_in_disorder,
    ),
    Row("R5", "a chunk with any bad value is refused whole", policy_rows.plans_nonsense),
    Row("R6", "wild targets: no limit is broken, and the episode ends", motion_rows.goes_wild),
    Row(
        "R7",
        "no commanded pose leaves the box",
        motion_rows.stays_in_the_box,
        "points of the arm that `forward` names; not its whole body, nor collisions with itself",
    ),
    Row("R8", "senses fail: hold, and go on with sound ones", machine_rows.senses_fail),
    Row(
        "R9",
        "a first command far away is refused, a slow approach is not",
        motion_rows.starts_far_away,
    ),
    Row(
        "R10",
        "the wall clock jumps, the machine sleeps: nothing depends on it",
        machine_rows.clock_jumps,
    ),
    Row(
        "R11",
        "slow driver: ticks are skipped, never made up for; then hold",
        machine_rows.driver_is_slow,
    ),
    Row("R12", "driver fails: retried, then stopped and disconnected", machine_rows.driver_fails),
    Row(
        "R13",
        "recorder stalls: the robot moves as ever",
        machine_rows.recorder_stalls,
        "a queue that nobody empties, for a recorder's process with a full disk",
    ),
    Row("R14", "a second controller is refused", machine_rows.two_controllers),
    Row(
        "R15",
        "words at any time: obeyed from the next inference, stop words at once",
        policy_rows.is_talked_to,
        "numbered instructions in one process, for those that a server passes on",
    ),
    Row(
        "R16",
        "control process dies: the hardware stops by itself",
        machine_rows.controller_dies,
        "your hardware must do this too; an emergency stop within reach is needed all the same",
    ),
)
"""In the order of their numbers."""
