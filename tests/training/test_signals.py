from __future__ import annotations

import os
import signal
import threading

import pytest

from peftcli.training.signals import listening


def test_the_first_signal_asks_and_the_old_listener_returns():
    before = signal.getsignal(signal.SIGINT)
    with listening() as request:
        assert not request.requested
        os.kill(os.getpid(), signal.SIGINT)
        assert request.requested
    assert signal.getsignal(signal.SIGINT) is before


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_the_second_signal_leaves(number, code):
    with listening() as request:
        os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(SystemExit) as left:
            request.receive(number, None)
    assert left.value.code == code


def test_another_thread_hears_nothing_and_changes_nothing():
    before, heard = signal.getsignal(signal.SIGTERM), []

    def work():
        with listening() as request:
            heard.append((request.requested, signal.getsignal(signal.SIGTERM)))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert heard == [(False, before)]
