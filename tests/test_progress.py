"""What verbose prints, with a clock and a device that the test moves on."""

import io
import sys

import pytest

from sklearn_simclr import _progress
from sklearn_simclr._progress import Progress, duration, say


class Machine:
    """A host that asks for steps in no time, and a device that takes `seconds` for each."""

    def __init__(self, seconds, *, ahead):
        self.seconds, self.ahead = seconds, ahead  # how many steps the host may be ahead
        self.now, self.device_done, self.n_waits = 50.0, 50.0, 0

    def clock(self):
        return self.now

    def step(self, progress):
        self.device_done = max(self.device_done, self.now) + self.seconds
        self.now = max(self.now, self.device_done - self.ahead * self.seconds)
        progress.step(self.wait)

    def wait(self):
        self.n_waits += 1
        self.now = max(self.now, self.device_done)


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "utf-8"])
def test_what_the_output_has_no_characters_for_is_escaped(monkeypatch, encoding):
    output = io.TextIOWrapper(io.BytesIO(), encoding=encoding, newline="\n")
    monkeypatch.setattr(sys, "stdout", output)
    say("epoch 1  from \u68ee\udcff.ckpt")
    shown = "\u68ee" if encoding == "utf-8" else "\\u68ee"
    assert output.buffer.getvalue().decode(encoding) == f"epoch 1  from {shown}\\udcff.ckpt\n"


def make(machine, monkeypatch, **params):
    monkeypatch.setattr(_progress, "perf_counter", machine.clock)
    defaults = {"last": 10, "done": 0, "n_steps": 1000, "n_rows": 256, "rows": "images"}
    return Progress("epoch", **(defaults | params))


def test_the_estimate_waits_for_the_device_once(monkeypatch, capsys):
    machine = Machine(0.1, ahead=20)
    progress = make(machine, monkeypatch)
    for _ in range(1000):
        machine.step(progress)
    assert machine.n_waits == 1
    # The host asks for the 70th step at 5 s and waits until 7 s; the first two are not counted.
    assert capsys.readouterr().out == "2,487 images/s: about 17 min for 10 epochs\n"


def test_slow_first_steps_have_no_part_in_the_estimate(monkeypatch, capsys):
    machine = Machine(60.0, ahead=0)
    progress = make(machine, monkeypatch, n_steps=3600)
    for _ in range(2):
        machine.step(progress)
    machine.seconds = 1.0
    for _ in range(100):
        machine.step(progress)
    assert capsys.readouterr().out == "256 images/s: about 10 h for 10 epochs\n"


def test_only_what_is_left_is_estimated(monkeypatch, capsys):
    machine = Machine(1.0, ahead=0)
    for done, text in [(8, "for 2 epochs"), (9, "for this epoch")]:
        progress = make(machine, monkeypatch, done=done)
        for _ in range(20):
            machine.step(progress)
        time = {8: "33 min", 9: "17 min"}[done]
        assert capsys.readouterr().out == f"256 images/s: about {time} {text}\n"


def test_no_estimate_after_the_first_line(monkeypatch, capsys):
    machine = Machine(1.0, ahead=0)
    progress = make(machine, monkeypatch, n_steps=4)

    def epochs():
        for number in range(10):
            for _ in range(4):
                machine.step(progress)
            yield number + 1

    assert list(progress.follow(epochs(), lambda done: (done, 1.0))) == list(range(1, 11))
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "epoch 1/10  loss 1.0000  256 images/s  36 s left"
    assert lines[-1] == "epoch 10/10  loss 1.0000  256 images/s  40 s in all"
    assert len(lines) == 10 and machine.n_waits == 0


def test_the_time_left_goes_by_the_last_ten_epochs_without_the_first_two(monkeypatch, capsys):
    machine = Machine(1.0, ahead=0)
    progress = make(machine, monkeypatch, last=100, done=70, n_steps=1)

    def epochs():
        for number in range(70, 90):
            machine.now += 1000 if number < 72 else 10 if number == 72 else 1
            yield number + 1

    list(progress.follow(epochs(), lambda done: (done, 1.0)))
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].endswith("  0.26 images/s  8 h 3 min left")
    assert lines[1].endswith("  0.26 images/s  7 h 47 min left")
    assert lines[2].endswith("  26 images/s  4 min 30 s left")  # 27 to come
    assert lines[11].endswith("  256 images/s  34 s left")  # 10 epochs in 19 s, 18 to come
    assert lines[12].endswith("  256 images/s  17 s left")


@pytest.mark.parametrize(
    "seconds, words",
    [
        (0.49, "less than 1 s"),
        (0.51, "1 s"),
        (59.4, "59 s"),
        (59.6, "1 min"),
        (61, "1 min 1 s"),
        (599.4, "9 min 59 s"),
        (599.6, "10 min"),
        (3569, "59 min"),
        (3571, "1 h"),
        (80 * 60, "1 h 20 min"),
        (24 * 3600 - 31, "23 h 59 min"),
        (24 * 3600 - 29, "1 d"),
        (51 * 3600, "2 d 3 h"),
    ],
)
def test_durations_are_in_words(seconds, words):
    assert duration(seconds) == words
