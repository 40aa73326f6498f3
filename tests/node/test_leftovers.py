"""What a script leaves behind never holds its step, and ends when the step's job is over."""

from __future__ import annotations

import pytest

from tests.node.agent import Agent, Node, living, written

STAYS = "sleep 600 & echo $! >> %s; exit %d"


def test_a_background_process_does_not_hold_the_step(node: Node) -> None:
    agent, pids = node.agent(), node.file()
    agent.start(STAYS % (pids, 3))

    message = agent.hear("exited", "gone")
    assert (message["is"], message["code"], message["stopped"]) == ("gone", 3, False)
    assert living(list(map(int, written(pids)))) == []


def test_a_background_process_that_ignores_term_is_killed_after_a_while(node: Node) -> None:
    agent, pids = node.agent(), node.file()
    agent.start("trap '' TERM; " + STAYS % (pids, 0))

    assert agent.hear("gone")["code"] == 0
    assert living(list(map(int, written(pids)))) == []


@pytest.mark.parametrize("ends", [None, Agent.kill, Agent.leave])
def test_a_daemon_of_one_rank_serves_the_others_until_the_job_is_over(node: Node, ends: object) -> None:
    agent, pids = node.agent(), node.file()
    agent.start(STAYS % (pids, 5), linger=True)
    message = agent.hear("exited", "gone")
    assert (message["is"], message["code"]) == ("exited", 5)
    if callable(ends):
        ends(agent)
        agent = node.agent()
        agent.start("echo never", linger=True)
        assert agent.hear("exited", "gone")["is"] == "exited"
    daemon = int(written(pids)[0])
    assert living([daemon])

    agent.over()
    assert agent.hear("gone")["code"] == 5
    assert not living([daemon])


def test_the_word_that_the_job_is_over_ends_no_script(node: Node) -> None:
    agent, go_on = node.agent(), node.file()
    agent.start("until [ -e %s ]; do sleep 0.05; done; exit 6" % go_on, linger=True)
    agent.hear("running")
    agent.over()
    assert not [message for message in agent.quiet() if message["is"] == "gone"]

    go_on.touch()
    assert agent.hear("gone")["code"] == 6


def test_a_stop_ends_the_script_and_its_daemons(node: Node) -> None:
    agent, pids = node.agent(), node.file()
    agent.start("setsid sleep 600 & echo $! >> %s; sleep 600" % pids, linger=True)
    agent.hear("running")
    started = list(map(int, written(pids)))
    agent.stop()

    message = agent.hear("gone")
    assert (message["code"], message["stopped"]) == (128 + 15, True)
    assert living(started) == []


def test_a_stop_gives_time_to_clean_up_and_then_no_more(node: Node) -> None:
    agent, told = node.agent(), node.file()
    script = "trap 'echo asked >> %s' TERM; echo ready >> %s; while :; do sleep 0.05; done" % (told, told)
    agent.start(script, grace=0.5)
    written(told)
    agent.stop()

    message = agent.hear("gone")
    assert (message["code"], message["stopped"]) == (128 + 9, True)
    assert written(told) == ["ready", "asked"]


def test_a_stop_reaches_what_is_stopped(node: Node) -> None:
    agent, told = node.agent(), node.file()
    agent.start("trap 'echo asked >> %s; exit 7' TERM; echo ready >> %s; kill -STOP $$" % (told, told))
    written(told)
    agent.stop()

    message = agent.hear("gone")
    assert (message["code"], message["stopped"]) == (7, True)


def test_who_forks_faster_than_proc_can_be_read_does_not_get_away(node: Node) -> None:
    """Each process lives for a moment, and has left a child when its turn to be killed comes."""
    agent, pids = node.agent(), node.file()
    storm = "trap '' TERM; storm() { storm & }; storm & storm & echo $$ >> %s; sleep 600" % pids
    agent.start(storm, grace=0.2)
    agent.hear("running")
    written(pids)
    agent.stop()

    assert agent.hear("gone")["stopped"]
    assert [process.pid for process in node.processes()] == [agent.process.pid]
