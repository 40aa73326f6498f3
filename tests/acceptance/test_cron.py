"""cron as the safety net: its line in the crontab, `skyq tick`, and what a reboot leaves."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster import LocalQueue, Result, kill
from tests.machine import Machine, why_not
from tests.program import IMPORTS_TOLD, imported, unpacked

MINE = "MAILTO=me@example.org\n0 3 * * 1 backup \\%d\r\n# no newline at the end"
FAKE = """\
#!/bin/sh
# What crontab(1) does, with a file of the test's own for a crontab.
echo "$1" >>"$0.calls"
if [ -e "$0.says" ]; then cat "$0.says" >&2; exit 1; fi
case $1 in
-l) if [ -e "$0.tab" ]; then cat "$0.tab"; else echo "no crontab for me" >&2; exit 1; fi ;;
-) cat >"$0.new" && mv "$0.new" "$0.tab" ;;
esac
"""


class Crontab:
    """The user's, as far as skyq can see."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.tab = Path("%s.tab" % path)
        path.write_text(FAKE)
        path.chmod(0o755)

    def says(self, words: str) -> None:
        """From now on the command fails with this."""
        Path("%s.says" % self.path).write_text(words)

    @property
    def calls(self) -> list[str]:
        calls = Path("%s.calls" % self.path)
        return calls.read_text().split() if calls.exists() else []

    @property
    def text(self) -> str:
        return self.tab.read_bytes().decode() if self.tab.exists() else ""


@pytest.fixture
def crontab(queue: LocalQueue) -> Crontab:
    found = Crontab(queue.root / "crontab")
    queue.env["SKYQ_CRON"] = str(found.path)
    return found


def installed(queue: LocalQueue, crontab: Crontab) -> str:
    """The crontab once the queue's line is in it."""
    return queue.until(
        lambda: crontab.text if "# skyq end" in crontab.text else "", "the line is in the crontab"
    )


def launcher(queue: LocalQueue, *words: str) -> Result:
    """What cron would run, in cron's environment."""
    argv = ["/bin/sh", str(queue.home / "bin" / "skyq"), *words]
    env = {"PATH": "/usr/bin:/bin", "HOME": "/nonexistent", "SHELL": "/bin/sh", "LOGNAME": "me"}
    done = subprocess.run(argv, env=env, cwd="/", capture_output=True, text=True, check=False)
    return Result(tuple(argv), done.returncode, done.stdout, done.stderr)


def own_code(queue: LocalQueue) -> Path:
    """A copy of the unpacked code for this queue alone; the libraries stay shared."""
    app = queue.home / "app"
    shared = app.resolve()
    app.unlink()
    app.mkdir(0o700)
    for folder in shared.iterdir():
        if (folder / "skyq").is_dir():
            code = Path(shutil.copytree(folder, app / folder.name))
        elif folder.is_dir():
            (app / folder.name).symlink_to(folder)
    return code


# The line.


def test_work_that_lasts_asks_cron_to_tick_and_down_takes_that_back(
    queue: LocalQueue, crontab: Crontab
) -> None:
    crontab.tab.write_bytes(MINE.encode())
    (queue.home / "bin").mkdir()
    (queue.home / "bin" / "skyq").write_text("an older version's\n")
    queue.submit(queue.until_open())

    lines = installed(queue, crontab).removesuffix(MINE).splitlines()
    assert [line.rpartition(" ")[0] for line in (lines[0], lines[2])] == ["# skyq begin", "# skyq end"]
    assert lines[1].startswith(
        "* * * * * /bin/sh %s/bin/skyq tick local >/dev/null 2>&1 # skyq " % queue.home
    )
    assert len(lines) == 3
    assert launcher(queue, "queue", "local", "-u").line(r"1 +sky-cmd .*RUNNING.*")
    assert (queue.home / "bin" / "skyq").stat().st_mode & 0o777 == 0o700

    queue.open_gate()
    queue.wait(1, "SUCCEEDED")
    queue.until(lambda: not queue.own_processes(), "the dispatcher leaves")
    assert "tick local" in crontab.text
    queue.ok("down", "local", "-y")
    assert crontab.text == MINE
    assert not (queue.home / "bin").exists()


def test_a_line_that_cannot_be_taken_back_is_told_and_down_goes_on(
    queue: LocalQueue, crontab: Crontab
) -> None:
    queue.submit(queue.until_open())
    installed(queue, crontab)
    crontab.says("crontab: cannot connect to the account server\n")
    result = queue.run("down", "local", "-y", "--purge")

    assert result.code == 1
    assert result.err == (
        "The line in your crontab stays (crontab: cannot connect to the account server): "
        "remove it with `crontab -e`.\n"
    )
    assert not queue.state_dir.exists()
    assert not (queue.home / "bin").exists()


def test_a_short_job_leaves_the_crontab_alone(queue: LocalQueue, crontab: Crontab) -> None:
    queue.ok("exec", "local", "echo hi")
    queue.until(lambda: not queue.own_processes(), "the dispatcher leaves")

    assert crontab.calls == []


def test_switched_off_no_crontab_is_even_read(queue: LocalQueue, crontab: Crontab) -> None:
    off = {"SKYQ_CRON": "off"}
    queue.ok("exec", "local", "sleep 5.5", env=off)

    assert queue.run("doctor", env=off).line(r"ok  cron +switched off by SKYQ_CRON; .*")
    queue.ok("down", "local", "-y", env=off)
    assert crontab.calls == []


@pytest.mark.parametrize(
    ("said", "told", "todo"),
    [
        (
            "You (me) are not allowed to use this program (crontab)\n",
            "You (me) are not allowed",
            "cron.allow",
        ),
        ("crontab: cannot connect to the account server\n", "account server", "crontab -l"),
    ],
)
def test_a_crontab_that_is_denied_is_no_error_and_the_doctor_says_so(
    queue: LocalQueue, crontab: Crontab, said: str, told: str, todo: str
) -> None:
    crontab.tab.write_text(MINE)
    crontab.says(said)
    queue.submit("echo before; %s" % queue.until_open())
    queue.until(lambda: "-l" in crontab.calls, "the crontab is read")
    queue.open_gate()

    queue.wait(1, "SUCCEEDED")
    result = queue.run("doctor")
    assert result.code == 1
    result.line(r"!!  cron +can't be used: .*%s.*" % told.replace("(", r"\(").replace(")", r"\)"))
    assert [line for line in result.lines if "→" in line and todo in line]
    assert set(crontab.calls) == {"-l"}  # what can't be read is never written
    assert crontab.text == MINE


def test_without_a_crontab_command_jobs_run_and_the_doctor_says_what_to_install(queue: LocalQueue) -> None:
    queue.env["SKYQ_CRON"] = "/nowhere/crontab"
    queue.ok("exec", "local", "echo hi")
    result = queue.run("doctor")

    result.line(r"!!  cron +can't be used: there is no /nowhere/crontab; after a reboot, .*")
    result.line(
        r" +→ Have cron installed \(root: apt install cron\), or type any skyq command after a reboot\."
    )


# What the line runs.


def test_the_launcher_outlives_the_file_and_the_folder_that_it_was_written_for(
    queue: LocalQueue, crontab: Crontab, tmp_path: Path
) -> None:
    if "-m" in queue.program:
        pytest.skip("a checkout is not unpacked")
    pyz = tmp_path / "skyq.pyz"
    pyz.write_bytes(Path(queue.program[-1]).read_bytes())
    code = own_code(queue)
    queue.program = [queue.program[0], str(pyz)]
    queue.submit(queue.until_open())
    installed(queue, crontab)
    pyz.unlink()
    assert launcher(queue, "--version").code == 0

    code.rename(code.with_name("0123456789abcdef"))  # a newer one; the old one was collected
    result = launcher(queue, "queue", "-u")

    assert result.code == 0, str(result)
    assert "RUNNING" in result.out
    queue.program = ["/bin/sh", str(queue.home / "bin" / "skyq")]  # for what is left to do


def test_a_tick_starts_a_dispatcher_where_work_lacks_one(queue: LocalQueue, crontab: Crontab) -> None:
    queue.submit("--gpus", "H100:4", queue.until_open("a"))
    queue.submit("--gpus", "H100:4", "echo second")
    installed(queue, crontab)
    kill(queue.dispatcher())
    queue.open_gate("a")

    assert launcher(queue, "tick", "local") == Result(
        ("/bin/sh", str(queue.home / "bin" / "skyq"), "tick", "local"), 0, "", ""
    )
    queue.until_file(queue.state_dir / "logs" / "2-sky-cmd" / "tasks" / "run.log")
    queue.wait_all([1, 2], "SUCCEEDED")


def test_a_tick_leaves_a_dispatcher_that_is_there_alone(queue: LocalQueue) -> None:
    queue.submit(queue.until_open())
    before = queue.dispatcher()
    queue.ok("tick")

    assert queue.dispatcher() == before
    queue.open_gate()


def test_a_tick_without_work_starts_nothing_and_loads_no_library(queue: LocalQueue) -> None:
    queue.ok("exec", "local", "true")
    queue.until(lambda: not queue.own_processes(), "the dispatcher leaves")
    result = queue.run("tick", "local", env=IMPORTS_TOLD)

    assert (result.code, result.out) == (0, "")
    assert queue.own_processes() == []
    loaded = imported(result.err)
    assert not loaded & {"filelock", "yaml", "pydantic", "argparse", "subprocess", "skyq.head.head"}


def test_a_tick_of_a_queue_that_is_not_there_makes_none(queue: LocalQueue) -> None:
    assert queue.ok("tick").out == ""
    assert not queue.state_dir.exists()


def test_tick_has_help_and_is_not_among_the_commands(queue: LocalQueue) -> None:
    assert queue.ok("tick", "-h").lines[0].startswith("usage: skyq tick ")
    assert " tick " not in queue.ok("-h").out
    assert queue.run("tick", "elsewhere").code == 1


# Reboots: a machine of its own, with a real cron.


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    missing = why_not()
    if missing:
        pytest.skip("NOT TESTED: what a reboot leaves, with a real cron: " + missing)
    found = Machine(tmp_path / "100% of 'my' disk", cron=True)
    try:
        yield found
    finally:
        found.cut_power()


@pytest.fixture
def rebooting(machine: Machine, session_dir: Path, skyq_argv: list[str]) -> LocalQueue:
    """A queue of that machine's; its cron is used."""
    app = None if "-m" in skyq_argv else unpacked(session_dir, skyq_argv)
    queue = LocalQueue(machine.disk / "q", skyq_argv, app)
    queue.env.pop("SKYQ_CRON")
    boot(machine, queue, skyq_argv)
    return queue


def boot(machine: Machine, queue: LocalQueue, argv: list[str], same_boot_id: bool = False) -> None:
    machine.boot(same_boot_id)
    queue.program = [*machine.prefix, *argv]


def submit_two(queue: LocalQueue) -> None:
    """One that runs until the power is cut, one that waits for its devices."""
    queue.submit("--gpus", "H100:4", "echo started >~/first; sleep 1000")
    queue.submit("--gpus", "H100:4", "echo started >~/second; " + queue.until_open())
    queue.until_file("first")


def test_after_a_reboot_queued_jobs_run_in_the_next_minute_though_nobody_types_anything(
    machine: Machine, rebooting: LocalQueue, skyq_argv: list[str]
) -> None:
    submit_two(rebooting)
    rebooting.until(lambda: "tick local" in machine.crontab(), "the line is in root's crontab")
    machine.cut_power()
    assert not (rebooting.user_home / "second").exists()
    boot(machine, rebooting, skyq_argv)
    booted_at = time.time()

    second = rebooting.user_home / "second"
    rebooting.until(second.exists, "cron starts what waits", within=120)
    assert second.stat().st_mtime // 60 <= booted_at // 60 + 1  # cron's first tick was enough
    rebooting.wait(1, "FAILED_DRIVER")
    rebooting.run("why", "local", "1").line(r"├── ended: node rebooted.*")
    rebooting.run("doctor").line(r"ok  cron +ticks every minute")

    machine.stop_cron()  # what it has started goes on
    rebooting.open_gate()
    rebooting.wait(2, "SUCCEEDED")
    os.utime(rebooting.state_dir / "ticked", (0, 0))
    stopped = rebooting.run("doctor")
    stopped.line(r"!!  cron +no cron runs here; after a reboot, .*")
    assert stopped.code == 1
    rebooting.ok("exec", "local", "echo without cron")
    rebooting.ok("down", "local", "-y")
    assert "skyq" not in machine.crontab()


@pytest.mark.parametrize("same_boot_id", [False, True], ids=["machine", "container"])
def test_after_a_restart_any_command_brings_the_queue_back(
    machine: Machine, rebooting: LocalQueue, skyq_argv: list[str], same_boot_id: bool
) -> None:
    """A container that is restarted keeps the boot id of the machine below it."""
    rebooting.env["SKYQ_CRON"] = "off"
    submit_two(rebooting)
    machine.cut_power()
    boot(machine, rebooting, skyq_argv, same_boot_id)

    rebooting.wait(1, "FAILED_DRIVER")
    rebooting.run("why", "local", "1").line(r"├── ended: node rebooted.*")
    rebooting.open_gate()
    rebooting.wait(2, "SUCCEEDED")
