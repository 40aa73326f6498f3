"""The lab is what it says: machines apart from each other, faults as on real ones, and nothing left of it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from tests.cluster import words_of
from tests.lab import CTRL_C, PASSWORD, Host, Lab, Traits, clock
from tests.program import ROOT
from tests.waiting import wait_until

MakeLab = Callable[..., Lab]
QUICK = ["ssh", "-o", "BatchMode=yes", "-o", "ConnectTimeout=1"]


def ssh(lab: Lab, host: str, command: str) -> str:
    """What a command that the client runs there by ssh says; it must not fail."""
    done = lab.client.run(["ssh", "-o", "BatchMode=yes", host, command])
    assert done.returncode == 0, done
    return done.stdout.strip()


def refusal(lab: Lab, host: str) -> str:
    """Why there is no connection."""
    done = lab.client.run([*QUICK, host, "true"])
    assert done.returncode == 255, done
    return done.stderr


def talk(lab: Lab, host: str) -> subprocess.Popen[str]:
    """An open connection to a program that says again what it is told."""
    talking = lab.client.start([*QUICK, host, "cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert says_again(talking, "hello")
    return talking


def says_again(talking: subprocess.Popen[str], word: str) -> bool:
    assert talking.stdin is not None and talking.stdout is not None
    talking.stdin.write(word + "\n")
    talking.stdin.flush()
    return talking.stdout.readline() == word + "\n"


def commands(host: Host) -> list[str]:
    """The processes of ada that are seen there."""
    script = 'for own in /proc/[0-9]*; do [ ! -O "$own" ] || tr "\\0" " " <"$own/cmdline"; echo; done'
    seen = host.run(["sh", "-c", script]).stdout.splitlines()
    return [line for line in seen if line and "/proc/" not in line and not line.startswith("tr ")]


def traces(folder: Path) -> list[str]:
    """What is left of a lab in this machine: its processes, mounts, interfaces."""
    mounts = [line for line in Path("/proc/self/mounts").read_text().splitlines() if str(folder) in line]
    ours = []
    for process in psutil.process_iter():
        try:
            if str(folder) in " ".join([*process.cmdline(), *process.environ().values()]):
                ours.append(str(process))
        except (psutil.NoSuchProcess, psutil.AccessDenied, OSError):
            pass
    return mounts + ours


def interfaces() -> set[str]:
    return set(os.listdir("/sys/class/net"))


def test_the_client_reaches_every_node_by_its_name(lab: Lab) -> None:
    assert [ssh(lab, host.name, "hostname") for host in lab.nodes] == ["node0", "node1", "node2", "node3"]
    assert ssh(lab, "node3", "id -un; pwd").split() == ["ada", "/home/ada"]
    assert lab.client.run(["skyq", "--version"]).stdout.startswith("skyq ")


def test_machines_share_neither_homes_nor_processes_nor_devices(make_lab: MakeLab) -> None:
    lab = make_lab(2, traits={"node1": Traits(gpus=1)})
    for where in ("/home/ada", "/tmp", "/var/tmp", "/dev/shm", "/run/lock"):
        assert lab.node(0).run(["sh", "-c", 'echo mine >"$0/file"', where]).returncode == 0
        assert lab.node(1).run(["cat", where + "/file"]).stderr.endswith("No such file or directory\n")
    assert lab.node(0).read("/home/ada/file") == "mine\n"

    words = ["sh", "-c", "echo $$; exec sleep 1717"]
    sleeping = lab.node(0).start(words, stdout=subprocess.PIPE)
    assert sleeping.stdout is not None
    inner = int(sleeping.stdout.readline())
    assert [len(commands(host)) for host in lab.nodes] == [1, 0]
    assert lab.node(0).process(inner).parent() == psutil.Process(sleeping.pid)

    for file in ("/proc/sys/kernel/random/boot_id", "/etc/machine-id", "/etc/hostname"):
        assert len({*(host.root("cat", file) for host in lab.nodes), Path(file).read_text()}) == 3
    assert [len(host.root("nvidia-smi", "-L").splitlines()) for host in lab.nodes] == [8, 1]


def test_this_machines_own_files_cannot_be_written(make_lab: MakeLab) -> None:
    lab = make_lab(1)
    for file in ("/usr/here", str(ROOT / "here"), "/here"):
        done = lab.node(0).run(["touch", file], user="root")
        assert done.returncode == 1, "it is read-only, or not even seen, where the checkout lies in /tmp"
        assert not Path(file).exists()


def test_packets_of_a_cut_machine_vanish_until_it_is_healed(make_lab: MakeLab) -> None:
    lab = make_lab(2)
    talking = talk(lab, "node1")
    lab.cut("node1")

    assert "timed out" in refusal(lab, "node1")
    assert ssh(lab, "node0", "hostname") == "node0"
    assert talking.poll() is None
    lab.heal("node1")
    assert says_again(talking, "still here")


def test_a_cut_between_two_machines_leaves_the_others(make_lab: MakeLab) -> None:
    lab = make_lab(2)
    lab.cut("client", "node1")

    assert "timed out" in refusal(lab, "node1")
    banner = lab.node(0).run(["bash", "-c", "read -r line </dev/tcp/node1/22; echo $line"])
    assert banner.stdout.startswith("SSH-2.0-OpenSSH")
    lab.reboot("node1")
    assert "timed out" in refusal(lab, "node1")
    lab.heal("client", "node1")
    assert ssh(lab, "node1", "hostname") == "node1"


def test_packets_of_a_machine_far_away_take_longer_and_can_still_be_cut(make_lab: MakeLab) -> None:
    lab = make_lab(1)
    lab.delay("client", 0.1)
    began = time.monotonic()
    assert len(ssh(lab, "node0", "head -c 3000000 /dev/zero | tr '\\0' x")) == 3_000_000
    assert time.monotonic() - began > 5 * 0.2, (
        "TCP, the banners, the keys, the login and the channel: a round trip each"
    )
    lab.cut("client")
    assert "timed out" in refusal(lab, "node0")
    lab.heal("client")
    lab.reboot("client")
    assert ssh(lab, "node0", "hostname") == "node0"


def test_a_reboot_keeps_the_disk_and_nothing_else(make_lab: MakeLab) -> None:
    lab = make_lab(1)
    talking = talk(lab, "node0")
    boot_id = ssh(lab, "node0", "cat /proc/sys/kernel/random/boot_id")
    ssh(
        lab,
        "node0",
        "echo kept >file; echo kept >/var/tmp/file; nohup sleep 1717 >/dev/null 2>&1 </dev/null &",
    )
    lab.reboot("node0")

    assert ssh(lab, "node0", "cat file /var/tmp/file") == "kept\nkept"
    assert ssh(lab, "node0", "cat /proc/sys/kernel/random/boot_id") != boot_id
    assert commands(lab.node(0)) == []
    assert talking.poll() is None  # nobody told it
    assert talking.stdin is not None
    talking.stdin.write("are you there?\n")
    talking.stdin.flush()
    assert talking.wait(30) == 255


def test_a_machine_that_is_off_does_not_answer(make_lab: MakeLab) -> None:
    lab = make_lab(1)
    lab.power_off("node0")
    assert "timed out" in refusal(lab, "node0")
    lab.power_on("node0")
    assert ssh(lab, "node0", "hostname") == "node0"


def test_a_frozen_machine_accepts_connections_and_says_nothing(make_lab: MakeLab) -> None:
    lab = make_lab(1)
    counting = lab.node(0).start(["sh", "-c", "while :; do echo; sleep 0.01; done"], stdout=subprocess.PIPE)
    lab.freeze("node0")
    assert "banner exchange" in refusal(lab, "node0")
    lab.thaw("node0")

    assert ssh(lab, "node0", "hostname") == "node0"
    counting.terminate()
    assert counting.wait(10) == -signal.SIGTERM


def test_without_sshd_connections_are_refused_and_open_ones_live(make_lab: MakeLab) -> None:
    lab = make_lab(1)
    talking = talk(lab, "node0")
    lab.stop_sshd("node0")
    assert "Connection refused" in refusal(lab, "node0")
    assert says_again(talking, "still here")
    lab.start_sshd("node0")
    assert ssh(lab, "node0", "hostname") == "node0"


def test_a_machine_is_as_its_traits_say(make_lab: MakeLab) -> None:
    special = Traits(
        gpus=0,
        sshd={"Port": "2222", "MaxSessions": "1"},
        hidden=["/usr/bin/python3"],
        small_home="1m",
        shell="/bin/dash",
        shared=[ROOT / "README.md"],
    )
    lab = make_lab(1, traits={"node0": special})

    assert ssh(lab, "node0", "command -v python3 nvidia-smi || echo none") == "none"
    assert ssh(lab, "node0", "echo $0") == "dash"
    assert "No space left" in ssh(lab, "node0", "head -c 2000000 /dev/zero 2>&1 >big || rm big")
    assert lab.client.run(["ssh", "node0", "ls", "-d", str(ROOT / "README.md")]).returncode == 0
    ssh(lab, "node0", "echo seen >file")
    assert lab.node(0).read("/home/ada/file") == "seen\n"


def test_homes_can_be_full_read_only_or_shared(make_lab: MakeLab) -> None:
    lab = make_lab(2, shared_home=True)
    ssh(lab, "node0", "printf '#!/bin/sh\necho ran\n' >program; chmod +x program")
    assert ssh(lab, "node1", "./program") == "ran"

    lab.node(1).remount_home("noexec")
    assert "Permission denied" in ssh(lab, "node1", "./program 2>&1 || true")
    lab.node(1).remount_home("ro")
    assert "Read-only" in ssh(lab, "node1", "touch file 2>&1 || true")
    assert ssh(lab, "node0", "./program; touch file") == "ran"


def test_the_end_of_a_login_can_be_that_of_all_it_left(make_lab: MakeLab) -> None:
    lab = make_lab(1, traits={"node0": Traits(kills_at_logout=True)})
    leave = "setsid sh -c 'sleep 1717 & exec sleep 1717' </dev/null >/dev/null 2>&1 & "

    def left() -> int:
        return commands(lab.node(0)).count("sleep 1717 ")

    talking = talk(lab, "node0")
    assert ssh(lab, "node0", leave + "sleep 0.5; echo $XDG_SESSION_ID") == "1"
    wait_until(lambda: left() == 0, "what it left is killed")
    assert says_again(talking, "still here")

    ssh(lab, "node0", "loginctl enable-linger")
    ssh(lab, "node0", 'XDG_RUNTIME_DIR=/ systemd-run --user --scope -- sh -c "%s sleep 0.5"' % leave)
    assert left() == 2, "it was no longer of that login"


def test_a_person_at_a_terminal_is_asked_and_can_interrupt(make_lab: MakeLab) -> None:
    lab = make_lab(1, known_hosts=False, traits={"node0": Traits(sshd={"PasswordAuthentication": "yes"})})
    (lab.client.home / ".ssh" / "id_ed25519").unlink()
    ssh_there = lab.client.terminal(["ssh", "node0", "tty; echo in; sleep 1717"])
    ssh_there.expect("continue connecting (yes/no/[fingerprint])? ")
    ssh_there.type("yes\r")
    ssh_there.expect("password: ")
    ssh_there.type(PASSWORD + "\r")
    ssh_there.expect("in\r\n")
    assert PASSWORD not in ssh_there.screen
    ssh_there.type(CTRL_C)

    assert ssh_there.wait() in (130, 255)


def test_ssh_can_give_a_terminal_there(make_lab: MakeLab) -> None:
    lab = make_lab(1)
    assert ssh(lab, "node0", "tty || true") == "not a tty"
    assert lab.client.run(["ssh", "-tt", "node0", "tty"]).stdout == "/dev/pts/0\r\n"


def test_signals_reach_the_program_itself(make_lab: MakeLab) -> None:
    lab = make_lab(1)
    words = ["sh", "-c", "trap 'echo interrupted; exit 7' INT; echo ready; while :; do sleep 0.01; done"]
    program = lab.node(0).start(words, stdout=subprocess.PIPE)
    assert program.stdout is not None and program.stdout.readline() == "ready\n"
    program.send_signal(signal.SIGINT)

    assert program.stdout.readline() == "interrupted\n"
    assert program.wait(10) == 7


def test_a_command_that_hangs_is_ended_with_all_that_it_started(make_lab: MakeLab) -> None:
    lab = make_lab(1)
    with pytest.raises(subprocess.TimeoutExpired):
        lab.node(0).run(["sh", "-c", "sleep 1717 & sleep 1717"], timeout=0.5)
    wait_until(lambda: not [p for p in lab.node(0).processes() if "1717" in words_of(p)], "gone")


def test_cron_starts_jobs_at_boot(make_lab: MakeLab) -> None:
    lab = make_lab(1)
    done = lab.client.run(["ssh", "node0", "crontab -"], input="@reboot echo started >~/started\n")
    assert done.returncode == 0, done
    lab.reboot("node0")
    started = lab.node(0).home / "started"
    wait_until(lambda: started.exists() and started.read_text(), "the job ran", evidence=lab.evidence)


def test_cron_can_be_stopped(make_lab: MakeLab) -> None:
    lab = make_lab(1)
    lab.node(0).stop_cron()
    wait_until(lambda: "cron" not in [p.name() for p in lab.node(0).processes()], "it is collected")
    lab.node(0).start_cron()
    assert "cron" in [process.name() for process in lab.node(0).processes()]


def test_a_disk_can_be_full_for_a_while_and_lasts_over_a_reboot(make_lab: MakeLab) -> None:
    lab = make_lab(1, traits={"node0": Traits(disk="64m")})
    ssh(lab, "node0", "echo kept >file")
    lab.node(0).fill_disk()
    assert "No space left" in ssh(lab, "node0", "head -c 200000 /dev/zero 2>&1 >more || true")
    lab.node(0).fill_disk(files=True)
    assert "No space left" in ssh(lab, "node0", "touch another 2>&1 || true")
    lab.reboot("node0")
    assert ssh(lab, "node0", "cat file") == lab.node(0).read("/home/ada/file").strip() == "kept"
    lab.node(0).free_disk()
    assert ssh(lab, "node0", "head -c 200000 /dev/zero >more && wc -c <more") == "200000"


@pytest.mark.parametrize("program", ["date +%s", "python3 -c 'import time; print(int(time.time()))'"])
def test_a_wall_clock_jumps_for_what_runs_and_for_one_machine(make_lab: MakeLab, program: str) -> None:
    if reason := clock.why_not():
        pytest.skip(reason)
    lab = make_lab(2, traits={"node0": Traits(clock=True)})
    hour, asked = 3600, "read -r line; "
    waiting = lab.node(0).start(
        ["bash", "-c", asked + "echo $EPOCHSECONDS"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    lab.node(0).set_clock(5 * hour)
    assert 4 * hour < int(ssh(lab, "node0", program)) - time.time() < 6 * hour
    assert -hour < int(ssh(lab, "node1", program)) - time.time() < hour
    assert 4 * hour < int(waiting.communicate("\n")[0]) - time.time() < 6 * hour


def test_another_host_key_is_noticed(make_lab: MakeLab) -> None:
    lab = make_lab(1)
    known = lab.node(0).host_key
    lab.node(0).new_host_key()
    lab.restart_sshd("node0")

    assert lab.node(0).host_key != known
    assert "REMOTE HOST IDENTIFICATION HAS CHANGED" in refusal(lab, "node0")


def test_nvidia_smi_answers_as_on_a_real_machine(make_lab: MakeLab) -> None:
    node = make_lab(1, gpus=2).node(0)

    def asked(*words: str) -> tuple[int, list[str]]:
        done = node.run(["nvidia-smi", *words])
        return done.returncode, done.stdout.splitlines()

    _, listed = asked("--query-gpu=index,uuid,name", "--format=csv,noheader")
    uuids = [line.split(", ")[1] for line in listed]
    assert listed == ["%d, %s, NVIDIA H100 80GB HBM3" % pair for pair in enumerate(uuids)]
    assert len(set(uuids)) == 2 and all(uuid.startswith("GPU-") for uuid in uuids)
    assert asked("-L")[1][1] == "GPU 1: NVIDIA H100 80GB HBM3 (UUID: %s)" % uuids[1]
    apps = ["--query-compute-apps=gpu_uuid,pid,used_memory,process_name", "--format=csv,noheader,nounits"]
    assert asked(*apps) == (0, [])
    node.uses_gpu(1, 4242, 500)
    assert asked(*apps) == (0, [uuids[1] + ", 4242, 500, python"])
    assert asked("--query-gpu=memory.used", "--format=csv") == (0, ["memory.used", "0 MiB", "500 MiB"])
    assert asked("--query-gpu=colour", "--format=csv")[0] == 2

    node.gpus(2, "fails")
    assert asked("-L")[0] == 9
    node.gpus(0)
    assert asked("-L") == (6, ["No devices were found"])


def test_nothing_is_left_of_a_lab(make_lab: MakeLab) -> None:
    before = interfaces()
    lab = make_lab(2)
    lab.node(0).start(["setsid", "sh", "-c", "trap '' TERM HUP; while :; do sleep 0.1; done"])
    lab.freeze("node1")
    lab.power_off("node0")
    assert traces(lab.folder)
    lab.down()

    assert traces(lab.folder) == []
    assert interfaces() == before
    assert not lab.folder.exists()


MAKER = """
import pathlib, sys, time
from tests.lab import Lab
lab = Lab(pathlib.Path(sys.argv[1]), nodes=1)
lab.up()
lab.node(0).start(["sleep", "1717"])
print("up", flush=True)
time.sleep(600)
"""


def test_a_lab_ends_with_a_test_that_is_killed(tmp_path: Path, lab_possible: None) -> None:
    words = [sys.executable, "-c", MAKER, str(tmp_path)]
    maker = subprocess.Popen(words, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert maker.stdout is not None and maker.stdout.readline() == "up\n"
    maker.kill()
    maker.communicate()
    wait_until(lambda: not traces(tmp_path), "all of the lab is gone", evidence=lambda: str(traces(tmp_path)))
