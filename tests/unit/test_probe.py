"""What nvidia-smi prints is a list of devices, or nothing."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skyq.core.model import Device
from skyq.node import checkup
from skyq.node.probe import parse_nvidia


def test_each_line_is_a_device_in_the_order_of_their_numbers() -> None:
    text = "1, GPU-b, NVIDIA H100 80GB HBM3\n0, GPU-a, NVIDIA H100 80GB HBM3\n"

    assert parse_nvidia(text) == (Device(0, "H100", "GPU-a"), Device(1, "H100", "GPU-b"))


@pytest.mark.parametrize(
    "line", ["²,GPU-a,H100", "9" * 5000 + ",GPU-a,H100", "-1,GPU-a,H100", "0,GPU-a", "[]"]
)
def test_what_is_no_such_line_is_passed_over(line: str) -> None:
    assert parse_nvidia(line + "\n0, GPU-c, H100") == (Device(0, "H100", "GPU-c"),)
    assert checkup.parse(line.replace(",GPU-a", ",²,1")) == []


def test_a_device_that_is_named_twice_is_one() -> None:
    assert parse_nvidia("0, GPU-a, H100\n0, GPU-b, A100") == (Device(0, "H100", "GPU-a"),)


@pytest.mark.parametrize("uuid", ["a b", "a\x1b]0;x\a", 'a"b', "$(touch canary)", "[N/A]", "x" * 1000])
def test_a_uuid_that_is_none_goes_into_no_variable_or_command_line(uuid: str) -> None:
    assert parse_nvidia("0, %s, H100" % uuid) == (Device(0, "H100", ""),)


@given(st.text() | st.lists(st.sampled_from([*"0123,\n- aZ²٣", "GPU-", "H100", "\x1b[2J"])).map("".join))
def test_any_text_gives_devices_that_can_be_named(text: str) -> None:
    found = parse_nvidia(text)

    assert [device.index for device in found] == sorted({device.index for device in found})
    assert all((device.accelerator + device.uuid).isprintable() for device in found)
    checkup.parse(text)
