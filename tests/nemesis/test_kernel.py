"""What the kernel tells of processes is heard."""

from __future__ import annotations

import subprocess

import pytest

from tests.nemesis.kernel import Kernel, Mark, why_not
from tests.waiting import wait_until

NAMED = "printf %s x000abcd.3.1 >/proc/self/comm; "


@pytest.fixture
def kernel() -> Kernel:
    if reason := why_not():
        pytest.skip("NOT TESTED: " + reason)
    found = Kernel()
    found.start()
    return found


@pytest.mark.parametrize("end, status", [("exit 7", 7 << 8), ("kill -9 $$", 9)])
def test_how_a_script_ended_is_known(kernel: Kernel, end: str, status: int) -> None:
    subprocess.run(["bash", "-c", NAMED + "(exit 5); " + end], check=False)
    kernel.catch_up()

    assert kernel.exits == {Mark("x000abcd", 3, 1): status}
    assert kernel.living() == []


def test_what_a_script_left_is_found_however_it_hides(kernel: Kernel) -> None:
    hides = "(setsid env -i sleep 1717 </dev/null >/dev/null 2>&1 &); "
    subprocess.run(["bash", "-c", NAMED + hides], check=False)
    kernel.catch_up()

    found = kernel.living("x000abcd")
    assert len(found) == 1 and "of x000abcd, rank 3" in found[0]
    subprocess.run(["kill", found[0].split()[1]], check=True)
    wait_until(lambda: not kernel.living(), "it is heard that it ended")
