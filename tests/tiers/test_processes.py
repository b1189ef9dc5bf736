"""Processes that do not want to end are ended; real ones."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress

import psutil
import pytest

from tierserve.threads import NICENESS
from tierserve.tiers import processes

# A process that ignores SIGTERM and has a child which does so, too; it says when both are there.
_STUBBORN = """
import signal, subprocess, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
if sys.argv[1:]:
    child = subprocess.Popen([sys.executable, "-c", sys.argv[1]], stdout=subprocess.PIPE)
    child.stdout.readline()
print("there", flush=True)
time.sleep(600)
"""


@pytest.fixture
def stubborn() -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen([sys.executable, "-c", _STUBBORN, _STUBBORN], stdout=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.readline()
    family = [psutil.Process(process.pid), *psutil.Process(process.pid).children()]
    yield process
    for member in family:
        with suppress(psutil.NoSuchProcess):
            member.kill()
    process.wait()
    process.stdout.close()


def test_a_family_is_a_process_and_all_beneath_it(stubborn: subprocess.Popen[bytes]) -> None:
    found = processes.family([stubborn.pid])
    assert [process.pid for process in found] == [stubborn.pid, psutil.Process(stubborn.pid).children()[0].pid]
    assert set(found) <= processes.children()


def test_a_family_that_steps_back_lets_this_process_go_first(stubborn: subprocess.Popen[bytes]) -> None:
    found = processes.family([stubborn.pid])
    processes.step_back([*found, *found])  # more than once does no more
    own = os.getpriority(os.PRIO_PROCESS, 0)
    assert [process.nice() for process in found] == [own + NICENESS] * len(found)
    processes.step_back(found, 2)
    assert [process.nice() for process in found] == [own + 2 * NICENESS] * len(found)


def test_the_whole_family_ends_though_it_ignores_sigterm_and_one_is_stopped(stubborn: subprocess.Popen[bytes]) -> None:
    found = processes.family([stubborn.pid])
    found[1].suspend()
    assert processes.end(found) == []
    assert not any(processes.runs(process) for process in found)
    assert stubborn.wait() == -signal.SIGKILL, "its exit status was left for whoever started it"


def test_a_child_whose_parent_is_gone_is_ended_all_the_same(stubborn: subprocess.Popen[bytes]) -> None:
    found = processes.family([stubborn.pid])
    found[1].suspend()
    stubborn.kill()
    stubborn.wait()
    assert processes.runs(found[1])
    assert processes.end(found) == []
    assert not processes.runs(found[1])


def test_what_was_started_since_ends_as_well(stubborn: subprocess.Popen[bytes]) -> None:
    core, worker = processes.family([stubborn.pid])
    assert processes.end([core]) == []
    assert not processes.runs(worker)


def test_processes_that_are_gone_are_no_trouble() -> None:
    gone = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    known = psutil.Process(gone.pid)
    gone.kill()
    while processes.runs(known):  # a zombie, until its exit status is read
        time.sleep(0.01)
    gone.wait()
    assert processes.family([gone.pid]) == []
    assert processes.end([known]) == []
