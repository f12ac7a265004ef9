"""What a server counts, in the text form of Prometheus (version 0.0.4)."""

from __future__ import annotations

from collections import Counter, deque

import numpy as np

QUANTILES = (0.5, 0.9, 0.99)
_WINDOW = 1000


class Metrics:
    """Counts since the start, and the latencies of the last answers.

    Attributes:
        connections: that are open now.
        waiting: requests that have come and are not answered yet.
    """

    def __init__(self) -> None:
        self.connections = self.waiting = 0
        self._errors: Counter[str] = Counter()
        self._recent: deque[float] = deque(maxlen=_WINDOW)
        self._answers, self._seconds = 0, 0.0

    def answered(self, seconds: float) -> None:
        """A request was answered with actions, this long after it arrived."""
        self._recent.append(seconds)
        self._answers += 1
        self._seconds += seconds

    def failed(self, code: str) -> None:
        """Something was answered with an error instead."""
        self._errors[code] += 1

    def text(self) -> str:
        """All of it."""
        errors = sorted(self._errors.items())
        lines = [
            "# TYPE embodied_requests_total counter",
            f"embodied_requests_total {self._answers + self._errors.total()}",
            "# TYPE embodied_errors_total counter",
            *(f'embodied_errors_total{{code="{code}"}} {count}' for code, count in errors),
            "# TYPE embodied_connections gauge",
            f"embodied_connections {self.connections}",
            "# TYPE embodied_waiting gauge",
            f"embodied_waiting {self.waiting}",
            "# TYPE embodied_latency_seconds summary",
            *self._latencies(),
            f"embodied_latency_seconds_sum {self._seconds:.6f}",
            f"embodied_latency_seconds_count {self._answers}",
        ]
        return "\n".join(lines) + "\n"

    def _latencies(self) -> list[str]:
        if not self._recent:
            return []
        values = np.quantile(list(self._recent), QUANTILES)
        return [
            f'embodied_latency_seconds{{quantile="{quantile}"}} {value:.6f}'
            for quantile, value in zip(QUANTILES, values, strict=True)
        ]
