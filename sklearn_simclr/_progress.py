"""What `verbose` prints: how training goes, and how long it may take."""

import sys
from collections import deque
from collections.abc import Callable, Iterator
from time import perf_counter
from typing import TypeVar

Record = TypeVar("Record")

_TOLD_AFTER = 5.0  # seconds of steps
_SLOW_STEPS = 2  # the first ones, in which libraries get ready
_SLOW_RECORDS = 2  # likewise, and torch.compile works
_RECENT = 10  # records whose pace tells the time left


def say(text: str) -> None:
    """Print a line at once; what the output has no characters for is escaped."""
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    print(text.encode(encoding, "backslashreplace").decode(encoding), flush=True)


class Progress:
    """Prints a line per unit of training, and in a long first unit an estimate of the total time.

    Parameters
    ----------
    unit : str
        What a line is about, "epoch" or "step".
    last : int
        Number of the last unit.
    done : int
        Units that are done already; no line and no estimate counts them.
    n_steps : int
        Steps in a unit.
    n_rows : int
        Rows in a step, of all processes together.
    rows : str
        What the rows are, "images" or "vectors".
    """

    def __init__(self, unit: str, *, last: int, done: int, n_steps: int, n_rows: int, rows: str):
        self._unit, self._last, self._done = unit, last, done
        self._n_steps, self._n_rows, self._rows = n_steps, n_rows, rows
        self._n_taken, self._since = 0, 0.0
        self._told = False

    def step(self, wait: Callable[[], None]) -> None:
        """Note that a step has been taken; after some seconds of them tell how long all may take.

        Parameters
        ----------
        wait : callable
            Waits for the device, which may be steps behind. Called once at most.
        """
        if self._told:
            return
        self._n_taken += 1
        if self._n_taken <= _SLOW_STEPS:
            self._since = perf_counter()
        elif perf_counter() - self._since >= _TOLD_AFTER:
            wait()
            seconds = (perf_counter() - self._since) / (self._n_taken - _SLOW_STEPS)  # a step
            n_units = self._last - self._done
            units = f"{n_units} {self._unit}s" if n_units > 1 else f"this {self._unit}"
            time = duration(seconds * self._n_steps * n_units)
            say(f"{self._pace(self._n_rows / seconds)}: about {time} for {units}")
            self._told = True

    def follow(
        self, records: Iterator[Record], read: Callable[[Record], tuple[int, float]]
    ) -> Iterator[Record]:
        """Pass on the records of training, after a line for each.

        The rate counts training only; the time left includes whatever is done between. From the
        third record on it goes by the recent ones, without the first two.

        Parameters
        ----------
        read : callable
            Returns the number of units that are done at a record, and the loss.
        """
        start = perf_counter()
        marks = deque([(start, self._done)], maxlen=_RECENT + 1)
        began = start
        for number, record in enumerate(records):
            done, loss = read(record)
            now = perf_counter()
            n_rows = (done - marks[-1][1]) * self._n_steps * self._n_rows
            if number == _SLOW_RECORDS:
                marks = deque([marks[-1]], maxlen=marks.maxlen)
            marks.append((now, done))
            then, before = marks[0]
            left = (now - then) / (done - before) * (self._last - done)
            end = (
                f"{duration(left)} left" if done < self._last else f"{duration(now - start)} in all"
            )
            pace = self._pace(n_rows / max(now - began, 1e-9))
            say(f"{self._unit} {done}/{self._last}  loss {loss:.4f}  {pace}  {end}")
            self._told = True
            yield record
            began = perf_counter()

    def _pace(self, rate: float) -> str:
        return f"{rate:,.0f} {self._rows}/s" if rate >= 10 else f"{rate:.2g} {self._rows}/s"


def duration(seconds: float) -> str:
    """Put a time into words, to two units at most.

    Examples
    --------
    >>> from sklearn_simclr._progress import duration
    >>> [duration(seconds) for seconds in (0.2, 45, 150, 4800, 183600)]
    ['less than 1 s', '45 s', '2 min 30 s', '1 h 20 min', '2 d 3 h']
    """
    minutes = round(seconds / 60)
    if seconds < 0.5:
        return "less than 1 s"
    if seconds < 59.5:
        return f"{seconds:.0f} s"
    if seconds < 599.5:
        return _two_units(round(seconds), 60, "min", "s")
    if minutes < 60:
        return f"{minutes} min"
    if minutes < 24 * 60:
        return _two_units(minutes, 60, "h", "min")
    return _two_units(round(seconds / 3600), 24, "d", "h")


def _two_units(amount: int, size: int, unit: str, part: str) -> str:
    whole, rest = divmod(amount, size)
    return f"{whole} {unit} {rest} {part}" if rest else f"{whole} {unit}"
