"""A step with a time limit: its shim ends it, whoever else is there."""

from __future__ import annotations

import time

import psutil

from tests.node.agent import JOB, Node, gone, killed, written

FOR_EVER = "while :; do sleep 0.05; done"


def limited(seconds: float, signal: str = "", before: float = 0) -> dict[str, object]:
    """Of a spec."""
    return {"limit": seconds, "signal": signal, "before": before}


def test_it_gets_a_term_at_its_limit_and_the_record_says_so(node: Node) -> None:
    agent = node.agent()
    agent.start("trap 'echo saved; exit 0' TERM; " + FOR_EVER, **limited(2))
    end = agent.hear("gone")

    assert (end["code"], end["expired"], end["stopped"]) == (0, True, False)
    assert node.log().endswith("saved\n")


def test_who_ignores_that_is_killed_with_all_that_it_has_started(node: Node) -> None:
    agent, pids = node.agent(), node.file()
    script = "trap '' TERM; setsid sleep 600 & echo $! > %s; %s" % (pids, FOR_EVER)
    agent.start(script, grace=0.2, **limited(2))
    end = agent.hear("gone")

    assert (end["code"], end["expired"]) == (137, True)
    assert not psutil.pid_exists(int(written(pids)[0]))


def test_who_ends_before_its_limit_has_not_reached_it(node: Node) -> None:
    agent = node.agent()
    agent.start("exit 3", **limited(60))

    end = agent.hear("gone")
    assert (end["code"], end["expired"]) == (3, False)


def test_what_is_stopped_and_then_reaches_its_limit_was_stopped(node: Node) -> None:
    agent, ready = node.agent(), node.file()
    agent.start("trap '' TERM; echo > %s; %s" % (ready, FOR_EVER), grace=3.0, **limited(3))
    written(ready)
    agent.stop()

    end = agent.hear("gone")
    assert (end["stopped"], end["expired"]) == (True, False)


def test_nobody_need_be_there_when_the_time_is_up(node: Node) -> None:
    """Neither dispatcher nor node agent: the next one learns how it ended."""
    agent = node.agent()
    agent.start(FOR_EVER, **limited(1))
    shim = agent.shim()
    agent.kill()
    gone(shim)

    second = node.agent()
    second.start(FOR_EVER, **limited(1))
    end = second.hear("gone")
    assert (end["code"], end["expired"]) == (143, True)


def test_the_next_node_agent_tells_what_is_left(node: Node) -> None:
    first = node.agent()
    first.start(FOR_EVER, **limited(600))
    assert first.hear("running")["left"] in (599, 600)
    first.kill()
    second = node.agent()
    second.start(FOR_EVER, **limited(9))  # a start that is repeated changes nothing
    assert 500 < second.hear("running")["left"] <= 600
    second.start(FOR_EVER, **limited(9))
    assert 500 < second.hear("running")["left"] <= 600
    second.stop()
    assert second.hear("gone")["stopped"]


def test_one_without_a_limit_says_nothing_of_it(node: Node) -> None:
    agent = node.agent()
    agent.start("sleep 600")

    assert "left" not in agent.hear("running")
    agent.stop()
    assert not agent.hear("gone")["expired"]


def test_the_wait_for_the_word_to_go_does_not_count(node: Node) -> None:
    agent = node.agent()
    agent.start("echo ran", hold=60, **limited(1))
    agent.hear("prepared")
    time.sleep(1.2)
    agent.say({"do": "go", "job": JOB, "attempt": 1, "step": "run-0"})

    end = agent.hear("gone")
    assert (end["code"], end["expired"]) == (0, False)


def test_a_shim_that_stood_still_ends_it_when_it_goes_on(node: Node) -> None:
    agent = node.agent()
    agent.start(FOR_EVER, **limited(1))
    shim = agent.shim()
    shim.suspend()
    time.sleep(1.2)
    assert psutil.pid_exists(shim.pid)
    shim.resume()

    assert agent.hear("gone")["expired"]


def test_whose_shim_is_killed_dies_at_once_and_not_at_its_limit(node: Node) -> None:
    agent = node.agent()
    agent.start(FOR_EVER, **limited(600))
    killed(agent.shim())

    end = agent.hear("gone")
    assert (end["code"], end["expired"]) == (-1, False)


# The signal before that.

HANDLER = """\
import signal, sys, time
signal.signal(signal.SIGUSR1, lambda number, frame: (print("saved", flush=True), sys.exit(7)))
print("ready", flush=True)
time.sleep(600)
"""


def test_the_signal_reaches_who_has_a_handler_and_ends_nobody_else(node: Node) -> None:
    agent, program = node.agent(), node.file()
    program.write_text(HANDLER)
    agent.start("sleep 600 & python3 %s; echo $?; kill $!" % program, **limited(600, "USR1", 596))

    end = agent.hear("gone")
    assert (end["code"], end["expired"]) == (0, False)
    assert node.log() == "ready\nsaved\n7\n"


def test_it_is_sent_once_and_the_limit_stays(node: Node) -> None:
    agent = node.agent()
    agent.start("trap 'echo soon' USR1; trap 'echo now; exit 9' TERM; " + FOR_EVER, **limited(4, "USR1", 1.5))

    end = agent.hear("gone")
    assert (end["code"], end["expired"]) == (9, True)
    assert [line for line in node.log().splitlines() if line in ("soon", "now")] == ["soon", "now"]


def test_a_setup_is_not_told_of_leftovers_that_outlive_its_script(node: Node) -> None:
    """A limit is of the script: what that leaves serves the other ranks until the job is over."""
    agent, left = node.agent(), node.file()
    agent.start("sleep 600 & echo $! > %s" % left, linger=True, **limited(0.5))
    assert not agent.hear("exited")["expired"]
    time.sleep(0.7)
    assert psutil.pid_exists(int(written(left)[0]))

    agent.over()
    assert not agent.hear("gone")["expired"]


def test_who_keeps_the_signal_back_to_look_for_it_gets_it_too(node: Node) -> None:
    agent, program = node.agent(), node.file()
    program.write_text(
        "import signal, time\nsignal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR2})\n"
        "while not signal.sigpending(): time.sleep(0.05)\n"
        "print(signal.sigpending())\n"
    )
    agent.start("python3 %s" % program, **limited(600, "USR2", 596))

    assert agent.hear("gone")["code"] == 0
    assert "SIGUSR2" in node.log()
