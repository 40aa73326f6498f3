"""Processes on devices that are of no job: what nvidia-smi tells of them, and what the plan makes of it."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from skyq.cli.render import nodes_json, nodes_table, strangers_text
from skyq.core.model import Device, Node, Quarantine, Request, Snapshot, Stranger, Waiting
from skyq.core.schedule import explain, misfit, plan
from skyq.node.strangers import UNSEEN, Found, judge, missing

DEVICES = {"GPU-0": 0, "GPU-1": 1}
WHO = "pid 4711 python of bob, 4096 MB"


def found(apps: str = "", listed: str = "", ours: tuple[int, ...] = ()) -> list[Found]:
    return judge(DEVICES, apps, listed, lambda pid: pid in ours)


def a_node(*strangers: Stranger, devices: int = 2) -> Node:
    return Node(
        "node1",
        0,
        tuple(Device(i, "H100", "GPU-%d" % i) for i in range(devices)),
        8000,
        8000,
        strangers=strangers,
    )


def starts(node: Node, *requests: Request) -> dict[int, tuple[tuple[int, int], ...]]:
    waiting = tuple(Waiting(number, 1, (each,)) for number, each in enumerate(requests, 1))
    return {start.job: start.grants[0].devices for start in plan(Snapshot((node,), (), waiting), 0.0).starts}


# What nvidia-smi tells.


def test_a_process_of_no_job_is_a_stranger_and_one_of_ours_is_none() -> None:
    apps = "GPU-1, 999999, 4096, /usr/bin/python3\nGPU-0, 999998, 100, train\n"

    assert found(apps, ours=(999998,)) == [Found(1, 999999, "python3", "", 4096)]


def test_devices_that_are_not_asked_about_and_services_are_passed_over() -> None:
    assert found("GPU-7, 999999, 1, x\nGPU-0, 999999, 30, /usr/bin/nvidia-cuda-mps-server\n") == []


def test_a_process_of_another_container_is_one_that_can_not_be_seen() -> None:
    assert found("GPU-0, [N/A], [N/A], [Not Found]\n") == [Found(0, 0, "", "", 0)]


def test_memory_that_nobody_is_seen_to_use_is_a_strangers_if_it_is_much() -> None:
    listed = "GPU-0, 0, %d\nGPU-1, 1, %d\n" % (UNSEEN, UNSEEN - 1)
    assert found(listed=listed) == [Found(0, 0, "", "", UNSEEN)]
    assert found("GPU-0, 999998, 1, x\n", "GPU-0, 0, 70000\n", ours=(999998,)) == []


def test_a_device_that_nvidia_smi_does_not_list_under_its_number_is_missing() -> None:
    assert missing(DEVICES, "GPU-0, 0, 1\nGPU-1, 1, 1\n") == {}
    assert missing(DEVICES, "GPU-0, 0, 1\n") == {1: "nvidia-smi doesn't list it"}
    assert missing(DEVICES, "GPU-1, 0, 1\nGPU-2, 1, 1\n") == {
        0: "nvidia-smi doesn't list it",
        1: "nvidia-smi lists it as device 0",
    }
    broken = "Failed to initialize NVML: Driver/library version mismatch\nNVML library version: 570.86\n"
    why = "nvidia-smi says: Failed to initialize NVML: Driver/library version mismatch"
    assert missing(DEVICES, broken) == {0: why, 1: why}


def test_where_nvidia_smi_says_nothing_nothing_is_known_to_be_missing() -> None:
    assert missing(DEVICES, "") == {} == missing(DEVICES, "\n")


@given(st.text(), st.text())
def test_whatever_it_says_makes_nothing_but_strangers(apps: str, listed: str) -> None:
    for device, why in missing(DEVICES, listed).items():
        assert device in (0, 1) and why.isprintable() and len(why) <= 256
    for each in found(apps + "\nGPU-0, 9, 9, " + apps, listed):
        assert each.device in (0, 1) and each.pid >= 0 and each.memory >= 0
        assert each.program.isprintable() and len(each.program) <= 40


# What the plan makes of it.


def test_a_device_that_others_use_is_given_to_nobody() -> None:
    node = a_node(Stranger(0, WHO))

    assert starts(node, Request("H100", 10_000), Request("H100", 10_000)) == {1: ((1, 10_000),)}
    assert starts(node, Request("H100", 5_000), Request("GPU", 5_000)) == {1: ((1, 5_000),), 2: ((1, 5_000),)}


def test_a_device_of_which_nothing_is_known_yet_is_given_to_nobody_and_a_job_without_any_starts() -> None:
    node = a_node(Stranger(0, ""), Stranger(1, ""))

    assert starts(node, Request("H100", 10_000), Request()) == {2: ()}


def test_the_reason_tells_who_uses_it() -> None:
    node = a_node(Stranger(0, WHO), Stranger(1, WHO), devices=2)
    waiting = (Waiting(1, 1, (Request("H100", 10_000),)),)
    assert explain(Snapshot((node,), (), waiting), 0.0)[1] == (
        "needs 1 H100; none free, in use by others: device 0 on node1 (%s), device 1 on node1 (%s)"
        % (WHO, WHO)
    )
    asked = a_node(Stranger(0, ""), Stranger(1, ""))
    assert explain(Snapshot((asked,), (), waiting), 0.0)[1] == (
        "needs 1 H100; none free, being looked at: the devices of node1"
    )


def test_the_reason_tells_what_is_missing() -> None:
    node = a_node(Stranger(0, WHO), Stranger(1, "nvidia-smi doesn't list it", missing=True))
    waiting = (Waiting(1, 1, (Request("H100", 10_000),)),)
    assert explain(Snapshot((node,), (), waiting), 0.0)[1] == (
        "needs 1 H100; none free, in use by others: device 0 on node1 (%s), "
        "missing: device 1 on node1 (nvidia-smi doesn't list it)" % WHO
    )


def test_it_is_there_all_the_same_for_who_asks_for_too_much() -> None:
    node = a_node(Stranger(0, WHO), Stranger(1, WHO))

    assert misfit([node], 1, (Request("H100", 20_000),), "lab") is None
    assert misfit([node], 1, (Request("H100", 30_000),), "lab") is not None


def test_a_device_that_is_known_to_be_used_is_not_at_hand_and_one_that_is_looked_at_is() -> None:
    node = a_node(Stranger(0, WHO), Stranger(1, ""))
    assert [device.index for device in node.at_hand.devices] == [1]
    locked = node._replace(quarantined=(Quarantine(1, 1, 1, "run-0", 0.0, "pid 1"),))
    assert locked.at_hand.devices == ()


def test_status_shows_them_as_plain_text() -> None:
    node = a_node(Stranger(0, "pid 1 \x1b[2Jevil of bob"))

    assert "H100: 0 of 2 in use, 1 by others" in nodes_table([node], [])
    text = strangers_text([node], "lab")
    assert text.startswith("node1: device 0 is in use by others: pid 1 ") and "\x1b" not in text
    assert text.endswith("skyq config lab strangers=ignore")
    assert strangers_text([a_node(Stranger(0, ""))], "lab") == ""
    gone = a_node(Stranger(1, "nvidia-smi doesn't list it", missing=True))
    assert "H100: 0 of 2 in use, 1 missing" in nodes_table([gone], [])
    text = strangers_text([gone], "lab")
    assert text.startswith("node1: device 1 is missing: nvidia-smi doesn't list it\n")
    assert text.endswith("skyq add lab node1") and "skyq add" not in strangers_text([gone], "local", False)
    assert nodes_json("lab", [node], [])["lab"][0]["devices"][1]["strangers"] == ""  # type: ignore[index]
