"""Five states: every event in every state does what this table says."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from embodied.deploy.watchdog import OPERATOR, TABLE, Event, Guards, State, Watchdog

# State -> event -> next state; what is missing changes nothing. Written down here once more.
I, A, R, H, S = State.IDLE, State.ARMED, State.RUN, State.HOLD, State.STOPPED  # noqa: E741
EXPECTED = {
    I: {Event.ARM: A, Event.STOP: S, Event.FAULT: S},
    A: {Event.DISARM: I, Event.STOP: S, Event.FAULT: S, Event.FRESH: R},
    R: {
        Event.DISARM: I,
        Event.STOP: S,
        Event.FAULT: S,
        Event.EXPIRED: H,
        Event.BLIND: H,
        Event.OVERRUN: H,
        Event.CLIPPED: I,
    },
    H: {Event.DISARM: I, Event.STOP: S, Event.FAULT: S, Event.FRESH: R, Event.LOST: I},
    S: {Event.RESET: I},
}
SECOND = 1_000_000_000


def watchdog(state: State) -> Watchdog:
    found = Watchdog(Guards())
    found.state = state
    return found


@pytest.mark.parametrize(("state", "event"), list(itertools.product(State, Event)))
def test_every_event_in_every_state(state: State, event: Event) -> None:
    found = watchdog(state)
    change = found.tell(event, 7, "why")
    after = EXPECTED[state].get(event, state)
    assert found.state is after
    assert (change is None) == (after is state)
    if change is not None:
        assert (change.time, change.before, change.event, change.after) == (7, state, event, after)


def test_the_table_has_nothing_else() -> None:
    assert {(a, e): b for a, row in EXPECTED.items() for e, b in row.items()} == dict(TABLE)


@given(st.lists(st.sampled_from([event for event in Event if event is not Event.RESET])))
def test_only_the_operator_leads_out_of_stopped(events: list[Event]) -> None:
    found = watchdog(State.STOPPED)
    for time, event in enumerate(events):
        found.tell(event, time)
    assert found.state is State.STOPPED
    assert Event.RESET in OPERATOR


@given(st.lists(st.sampled_from([event for event in Event if event not in OPERATOR])))
def test_nothing_moves_before_the_operator_has_armed(events: list[Event]) -> None:
    found = watchdog(State.IDLE)
    for time, event in enumerate(events):
        found.tell(event, time)
        assert found.state in (State.IDLE, State.STOPPED)


def test_a_hold_is_lost_after_its_time_and_not_before() -> None:
    found = watchdog(State.RUN)
    found.tell(Event.EXPIRED, 5 * SECOND)
    assert not found.is_lost(7 * SECOND)
    assert found.is_lost(7 * SECOND + 1)
    found.tell(Event.FRESH, 8 * SECOND)
    assert not found.is_lost(99 * SECOND)


@pytest.mark.parametrize(
    "fields",
    [
        {"expiry_s": 0.0},
        {"rearm_s": float("nan")},
        {"retries": -1},
        {"max_clipped": 2.5},
        {"window": 0},
    ],
)
def test_guards_that_guard_nothing_are_refused(fields: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=f"E_ROBOT_CONFIG: {next(iter(fields))}"):
        Guards(**fields)  # type: ignore[arg-type]
