"""Ctrl-C and SIGTERM: an end at once, or a wish that is granted after the step."""

import os
import signal

import pytest

from titans_dna.run.signals import Interruption, Stopped, stoppable

BOTH = pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])


@BOTH
def test_stoppable(number):
    before = signal.getsignal(number)
    with pytest.raises(Stopped) as stop, stoppable():
        os.kill(os.getpid(), number)
    assert stop.value.status == 128 + number
    assert signal.getsignal(number) is before


@BOTH
def test_an_interruption_is_noted_once(number):
    """The first waits for the step to end, the second does not."""
    with stoppable():
        with Interruption() as interruption:
            os.kill(os.getpid(), number)
            assert interruption.signal == number
            with pytest.raises(Stopped):
                os.kill(os.getpid(), number)
        with pytest.raises(Stopped):
            os.kill(os.getpid(), number)


@BOTH
def test_a_forked_worker_is_ended_by_its_parent_alone(number):
    with stoppable():
        child = os.fork()
        if child == 0:
            os.kill(os.getpid(), number)
            os._exit(7)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert status == (7 if number == signal.SIGINT else 143)
