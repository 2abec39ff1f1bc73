"""What a run has come to so far: counted by those who do the work, shown by the progress display."""

from dataclasses import dataclass, field
from datetime import datetime
from time import perf_counter

from betcore_async.demo.latency import Latencies


@dataclass(slots=True)
class Tally:
    """Counts of one run. Written from one event loop only."""

    expected_ticks: int
    stage: str = "starting"
    week: str = ""
    ticks: int = 0
    ticks_settled: int = 0
    live_deliveries: int = 0
    bets: int = 0
    refused: int = 0
    settlements: int = 0
    rotations: int = 0
    first: datetime | None = None
    last: datetime | None = None
    place: Latencies = field(default_factory=Latencies)
    settle: Latencies = field(default_factory=Latencies)
    price_write: Latencies = field(default_factory=Latencies)
    query: Latencies = field(default_factory=Latencies)
    bets_of: dict[str, int] = field(default_factory=dict)
    """Acknowledged bets of each user, refused ones and those of an interrupted run included."""
    _started: float | None = None
    _ended: float | None = None

    def start(self) -> None:
        """Begin to count time: the replay starts."""
        self._started = perf_counter()

    def end(self) -> None:
        self._ended = perf_counter()

    @property
    def elapsed(self) -> float:
        """Seconds of replay so far."""
        if self._started is None:
            return 0.0
        return (perf_counter() if self._ended is None else self._ended) - self._started

    @property
    def latencies(self) -> dict[str, Latencies]:
        """The recorders by kind of call."""
        return {"place": self.place, "settle": self.settle, "price write": self.price_write, "query": self.query}
