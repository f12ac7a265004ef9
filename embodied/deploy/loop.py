"""The control loop: sense, judge, command, at fixed times, until somebody ends it.

Ticks have absolute deadlines: one that comes late is skipped and never made up for, so that a robot
is never commanded twice in a row. However the loop ends, the robot is braked within its limits
where it still obeys, stopped, and disconnected.
"""

from __future__ import annotations

import logging
from collections import Counter, deque
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import numpy as np

from embodied.deploy.chunks import ChunkQueue, Mode, Planned
from embodied.deploy.clock import SECOND, Clock, MonotonicClock, to_ns
from embodied.deploy.driver import Driver, DriverError
from embodied.deploy.journal import Journal, Tick
from embodied.deploy.limits import Array
from embodied.deploy.mail import Mail, Seen
from embodied.deploy.realtime import ask_for_priority, leaving_on_signals, quiet_memory
from embodied.deploy.robot import Robot
from embodied.deploy.safety import SafetySupervisor, check_chunk
from embodied.deploy.senses import Senses, pose_of, sensed_at
from embodied.deploy.watchdog import OPERATOR, Event, Guards, State, Watchdog

logger = logging.getLogger(__name__)

_CHUNKS_PER_TICK = 8  # more than a policy can send; a flood must not hold up the tick


class ControlLoop:
    """Runs one robot.

    Args:
        mail: where chunks come from and observations go.
        mode: how chunks become actions; see `ChunkQueue`.
        journal: what is noted at each tick.
        priority: whether to ask for real-time scheduling.

    Attributes:
        counts: what went wrong, and how often.
        leaving: why it ends; empty while it goes on.
    """

    def __init__(
        self,
        robot: Robot,
        mail: Mail,
        *,
        guards: Guards | None = None,
        mode: Mode = "aligned",
        clock: Clock | None = None,
        journal: Journal | None = None,
        priority: bool = False,
    ) -> None:
        self.robot, self.mail, self.clock = robot, mail, clock or MonotonicClock()
        self.guards = guards = guards or Guards()
        self.journal = journal or Journal()
        self.period = round(SECOND / robot.rate_hz)
        self.watchdog = Watchdog(guards)
        self.queue = ChunkQueue(mode=mode, expiry_ns=to_ns(guards.expiry_s))
        self.safety = SafetySupervisor(
            robot.limits,
            self.period / SECOND,
            max_clipped=guards.max_clipped,
            window=guards.window,
        )
        self.senses = Senses(robot.observation_features, guards)
        self.counts: Counter[str] = Counter()
        self._driver = Driver(robot, guards.retries, self.counts)
        self._overruns: deque[bool] = deque(maxlen=guards.window)
        self.leaving = ""
        self._priority = priority
        self._deadline = self._began = 0
        self._moved = False
        self._released = True  # nothing was commanded yet, or the driver itself stopped it
        self._stops = False
        self._pose: Array | None = None

    def leave(self, why: str = "asked") -> None:
        """Ends the loop at the next tick."""
        self.leaving = why

    def run(self) -> str:
        """Connects, loops until `leave`, a signal or a failure, and says why it ended.

        Raises:
            DriverError: E_ROBOT_DRIVER, once the robot was stopped and disconnected.
        """
        with ExitStack() as stack:
            stack.enter_context(quiet_memory())
            stack.enter_context(leaving_on_signals(self.leave))
            if self._priority:
                ask_for_priority()
            try:
                self._loop()
            finally:
                self._stop_for_good()
        return self.leaving

    def _loop(self) -> None:
        self._driver.call(self.robot.connect)
        self._deadline = self._began = self.clock.now()
        try:
            while not self.leaving:
                self._tick()
        except DriverError as error:
            self._enter(Event.FAULT, self.clock.now(), str(error))
            raise  # it no longer obeys
        except Exception:
            self._brake_down()
            raise
        self._brake_down()

    # A tick

    def _tick(self) -> None:
        self._await_deadline()
        now = self.clock.now()
        observation = self._driver.call(self.robot.get_observation)
        problem = self._judge(observation)
        self._tell_operator(now, problem)  # first, since arming forgets what was planned before
        self._take_chunks()
        plan = self.queue.plan(now)
        self._tell_machine(now, problem, plan)
        self._command(now, plan)

    def _await_deadline(self) -> None:
        """Waits for the next tick that is still to come, and counts one that was missed.

        One that is due within half a tick of the last one, since that came late, is missed too.
        """
        self._deadline += self.period
        late = max(self.clock.now(), self._began + self.period // 2) - self._deadline
        self._overruns.append(late > 0)
        if late > 0:
            self.counts["overruns"] += 1
            self._deadline += -(-late // self.period) * self.period
        self.clock.sleep_until(self._deadline)
        self._began = self.clock.now()

    def _judge(self, observation: dict[str, Any]) -> str | None:
        """Why the observation cannot be trusted; a sound one is published."""
        now = self.clock.now()
        problem = self.senses.problem(observation, now, moving=self._moved)
        if problem is not None:
            self.counts["bad observations"] += 1
            return problem
        self._pose = pose_of(observation, self.robot.limits.names)
        if self._released or self.watchdog.state is State.ARMED:
            self.safety.start(self._pose)  # somebody may have moved it meanwhile
        time, command = sensed_at(observation, now), self.safety.motion.position
        self.mail.publish(Seen(time, observation, command, self.watchdog.state))
        return None

    def _take_chunks(self) -> None:
        for _ in range(_CHUNKS_PER_TICK):
            chunk = self.mail.poll()
            if chunk is None:
                return
            problem = check_chunk(chunk, self.robot.limits)
            if problem is not None:
                self.counts["bad chunks"] += 1
                logger.error("%s", problem)
            else:
                self.queue.offer(chunk, self.clock.now())

    def _tell_operator(self, now: int, problem: str | None) -> None:
        """Obeys the operator. Arming needs eyes, since the motion begins where the robot is."""
        for event in self.mail.orders():
            if event is Event.ARM and (problem is not None or self._pose is None):
                logger.error("not armed: %s", problem or "nothing was sensed yet")
            elif self._enter(event, now) and event is Event.ARM:
                self.queue.begin(now)
                self.senses.forget()
                self._overruns.clear()
                self._released = False

    def _tell_machine(self, now: int, problem: str | None, plan: Planned | None) -> None:
        late = sum(self._overruns) > self.guards.max_overruns
        if problem is not None:
            self._enter(Event.BLIND, now, problem)
        elif late:
            self._enter(Event.OVERRUN, now)
        elif plan is None:
            self._enter(Event.EXPIRED, now)
        elif self.watchdog.state in (State.ARMED, State.HOLD) and self._may_start(plan):
            self._enter(Event.FRESH, now)
        if self.safety.clips_often:
            self._enter(Event.CLIPPED, now)
        if self.watchdog.is_lost(now):
            self._enter(Event.LOST, now)

    def _may_start(self, plan: Planned) -> bool:
        assert self._pose is not None
        problem = self.safety.start_problem(plan.target, self._pose)
        if problem is not None:
            self.counts["refused starts"] += 1
            if self.counts["refused starts"] == 1:
                logger.error("%s", problem)
        return problem is None

    def _enter(self, event: Event, now: int, why: str = "") -> bool:
        """Tells the watchdog; whether that changed the state."""
        change = self.watchdog.tell(event, now, why)
        if change is None:
            return False
        if change.before is State.RUN:
            self.queue.forget(now)
        self._stops = change.after is State.STOPPED
        level = logging.INFO if event in OPERATOR or event is Event.FRESH else logging.WARNING
        logger.log(level, "%s -> %s: %s", change.before, change.after, why or event)
        return True

    # Commands

    def _command(self, now: int, plan: Planned | None) -> None:
        state, sent = self.watchdog.state, None
        plan = plan if state is State.RUN else None
        self._moved = False
        if plan is not None or self._must_brake(state, now):
            sent = self._send(None if plan is None else plan.target)
        elif self._stops:
            self._stops, self._released = False, True
            self._driver.call(self.robot.stop)
        self._note(now, plan, sent)

    def _must_brake(self, state: State, now: int) -> bool:
        """Whether it has to be commanded although no plan moves it; once it stands, or should, only
        in HOLD."""
        if self._released or state is State.ARMED:
            return False
        should_stand = now - self.watchdog.since > to_ns(self.safety.longest_stop_s)
        return state is State.HOLD or not (self.safety.stands or should_stand)

    def _send(self, target: Array | None) -> Array:
        """Commands one tick towards a target, or of braking; (A,) what was sent."""
        before = self.safety.motion.position
        position = self.safety.step(target)
        report = self._driver.send(position)
        # Less than it may move in a tick is a driver's rounding; gone on from, it would add up.
        if (np.abs(report - position) > self.robot.limits.velocity * self.safety.dt).any():
            self.counts["driver sent something else"] += 1
            self.safety.sent(report)
        self._moved = not np.array_equal(before, report)
        return report

    def _note(self, now: int, plan: Planned | None, sent: Array | None) -> None:
        tick = Tick(now, self.watchdog.state, None, sent)
        if plan is not None:
            chunk = plan.chunk
            tick = replace(
                tick,
                asked=plan.target,
                flags=self.safety.flags,
                age=now - chunk.obs_time,
                request_id=chunk.request_id,
                instruction_id=chunk.instruction_id,
            )
        self.journal.put(tick)

    # The end

    def _brake_down(self) -> None:
        """Ticks that brake, until the robot stands, or should."""
        begun = self.clock.now()
        self._enter(Event.STOP, begun, self.leaving)
        latest = begun + to_ns(self.safety.longest_stop_s)
        while not self._released and not self.safety.stands and self.clock.now() < latest:
            self._await_deadline()
            self._note(self.clock.now(), None, self._send(None))

    def _stop_for_good(self) -> None:
        """Stops and disconnects, each even if the other fails; an earlier error goes on."""
        for method in (self.robot.stop, self.robot.disconnect):
            try:
                method()
            except Exception:
                logger.exception("%s failed while it was ended", self.robot.name)
