"""skyq.pyz as a file: real builds, real starts, real kills. The command line in it is a small one of ours."""

from __future__ import annotations

import glob
import hashlib
import os
import shutil
import signal
import subprocess
import sys
import time
import uuid
from pathlib import Path

import pytest

from tests.program import IMPORTS_TOLD, imported
from tests.waiting import wait_until

REPO = Path(__file__).resolve().parent.parent
OUR_COMMAND_LINE = '''
"""What the tests of the file type."""
from __future__ import annotations
import sys
def main():
    from skyq.core.errors import SkyqError
    try:
        return globals()[sys.argv[1]](*sys.argv[2:])
    except SkyqError as error:
        sys.stderr.write("skyq: %s\\n" % error)
        return 1
def where():
    print(__file__)
def path():
    print(*sys.path, sep="\\n")
def python():
    print(*sys.version_info[:2], sep=".")
def libraries():
    import filelock, pydantic, yaml
    print(yaml.__file__, yaml.safe_load("{a: 1}"), pydantic.TypeAdapter(int).validate_python("3"))
def ssh():
    import fabric, paramiko
    from cryptography.hazmat.primitives.asymmetric import ed25519
    ed25519.Ed25519PrivateKey.generate()
    print(fabric.__file__)
def again():
    from skyq import program
    print(*program.argv(), sep="\\n")
def late(what):
    print("started", flush=True)
    sys.stdin.readline()
    if what == "code":
        from skyq.core import states
        print(states.__file__)
    else:
        libraries()
'''


# --- a small world ------------------------------------------------------------------------------------------


def pythons(*versions: str) -> dict[str, str]:
    """The Pythons of these versions on this machine."""
    found = {}
    for version in versions:
        pattern = "~/.pyenv/versions/%s.*/bin/python%s" % (version, version)
        pyenv = sorted(glob.glob(os.path.expanduser(pattern)))
        path = pyenv[-1] if pyenv else shutil.which("python" + version)
        if path and subprocess.run([path, "-c", ""], capture_output=True).returncode == 0:
            found[version] = path
    return found


HERE = "%d.%d" % sys.version_info[:2]
PLAIN = os.path.realpath(sys.executable)  # a venv may lie below what a test mounts over
GOOD = {**pythons("3.10", "3.11", "3.12", "3.13", "3.14"), HERE: sys.executable}
OLD = pythons("2.7", "3.6", "3.7", "3.8", "3.9")


@pytest.fixture(scope="session")
def tree(tmp_path_factory):
    """A checkout whose command line is ours, with the wheels of the real one."""
    root = tmp_path_factory.mktemp("checkout")
    shutil.copytree(REPO / "skyq", root / "skyq", ignore=shutil.ignore_patterns("__pycache__"))
    (root / "skyq/cli/main.py").write_text(OUR_COMMAND_LINE)
    # Libraries of its own id: those of a skyq that is used on this machine may lie unpacked in /var/tmp.
    unpack = root / "skyq/unpack.py"
    unpack.write_text(unpack.read_text().replace("UNWANTED = (", "UNWANTED = (%r, " % uuid.uuid4().hex, 1))
    for name in ("build_zipapp.py", "requirements.lock", "pyproject.toml"):
        shutil.copy(REPO / name, root)
    (REPO / ".wheels").mkdir(exist_ok=True)
    (root / ".wheels").symlink_to(REPO / ".wheels")
    return root


def build(tree, output, *options, python=sys.executable, **environment):
    done = subprocess.run(
        [python, str(tree / "build_zipapp.py"), "-o", str(output), *options],
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1", **environment},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return output


def build_offline(tree):
    """Try to build where pip finds nothing."""
    nothing = {"PIP_CONFIG_FILE": os.devnull, "PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(tree)}
    command = [sys.executable, "build_zipapp.py"]
    return run(command, {**os.environ, **nothing, "PYTHONDONTWRITEBYTECODE": "1"}, cwd=tree)


@pytest.fixture(scope="session")
def built(tree, tmp_path_factory):
    """The file as a newcomer builds it: for this Python."""
    return build(tree, tmp_path_factory.mktemp("built") / "skyq.pyz")


@pytest.fixture(scope="session")
def built_for_all(tree, tmp_path_factory):
    """The file for every Python that this machine has."""
    return build(tree, tmp_path_factory.mktemp("all") / "skyq.pyz", "--python", ",".join(sorted(GOOD)))


@pytest.fixture
def pyz(built, tmp_path):
    """A file of the test's own."""
    return Path(shutil.copy(built, tmp_path / "skyq.pyz"))


@pytest.fixture
def world(tmp_path):
    """An environment with a home of its own, and no other Python on PATH."""
    (tmp_path / "home").mkdir()
    (tmp_path / "bin").mkdir()
    return {"HOME": str(tmp_path / "home"), "PATH": str(tmp_path / "bin"), "PYTHONDONTWRITEBYTECODE": "1"}


def run(command, world, **options):
    options = {"capture_output": True, "text": True, "timeout": 60, **options}
    return subprocess.run([str(word) for word in command], env=world, **options)


def started(command, world):
    """A command that runs beside the test."""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen([str(word) for word in command], env=world, text=True, **pipes)


def says(command, world, **options):
    """What a command that must succeed prints."""
    done = run(command, world, **options)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def one_sentence(done):
    """The message of a command that must fail with one sentence."""
    lines = done.stderr.strip().splitlines()
    assert (done.returncode, len(lines)) == (1, 1), (done.returncode, done.stdout, done.stderr)
    assert lines[0].startswith("skyq: ")
    return lines[0]


def app(world):
    return Path(world["HOME"], ".skyq/app")


def wait_for(condition, process):
    """Wait until something is so, or the process has ended before."""
    ended = "it is so, or the process has ended"
    wait_until(lambda: process.poll() is not None or condition(), ended, 30, longest_pause=0.002)


def mounted(mounts, command, world):
    """Run a command where folders are other file systems than outside; needs root."""
    if os.geteuid() or run(["unshare", "-m", "true"], os.environ).returncode:
        pytest.skip(
            "NOT TESTED: only root in a machine with mount namespaces can mount a full or read-only disk"
        )
    # What is mounted read-only or full hides what lies there: the test's own folder stays visible at /mnt.
    steps = ["mount --bind %s /mnt" % Path(world["HOME"]).parent]
    steps += ["mount -t tmpfs -o %s none %s" % (options, folder) for folder, options in mounts.items()]
    script = " && ".join([*steps, 'PATH="$0" exec "$@"'])
    with_tools = {**world, "PATH": os.environ["PATH"]}
    return run(["unshare", "-m", "sh", "-c", script, world["PATH"], *command], with_tools)


# --- the build ----------------------------------------------------------------------------------------------


def test_two_builds_give_the_same_bytes(tree, built, tmp_path):
    elsewhere = tmp_path / "another checkout"
    shutil.copytree(tree, elsewhere, symlinks=True)
    for path in elsewhere.rglob("*.py"):
        path.chmod(0o600)
        os.utime(path, (1, 1))

    second = build(elsewhere, tmp_path / "second.pyz", TZ="Asia/Tokyo", LC_ALL="C", PYTHONHASHSEED="7")

    assert hashlib.sha256(second.read_bytes()).hexdigest() == hashlib.sha256(built.read_bytes()).hexdigest()


def test_the_checkout_builds_and_knows_its_version(tmp_path, world):
    pyz = build(REPO, tmp_path / "skyq.pyz", "--no-libraries")
    assert says([pyz, "--version"], {**world, "PATH": os.path.dirname(sys.executable)})


def test_any_python_builds_the_file_for_any_other(tree, built_for_all, tmp_path):
    for version, python in GOOD.items():
        same = build(tree, tmp_path / version, "--python", ",".join(sorted(GOOD)), python=python)
        assert same.read_bytes() == built_for_all.read_bytes()


def test_a_build_without_network_and_wheels_says_so(tree, tmp_path):
    bare = tmp_path / "bare"
    shutil.copytree(tree, bare, ignore=shutil.ignore_patterns(".wheels"))
    done = build_offline(bare)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert "Run this again with a network" in done.stderr


def test_a_wheel_that_is_not_the_locked_one_never_gets_in(tree, built, tmp_path):
    bare = tmp_path / "bare"
    shutil.copytree(tree, bare, ignore=shutil.ignore_patterns(".wheels"))
    (bare / ".wheels").mkdir()
    for wheel in REPO.glob(".wheels/*.whl"):
        (bare / ".wheels" / wheel.name).symlink_to(wheel)
    tampered = next(bare.glob(".wheels/filelock-*.whl"))
    content = tampered.read_bytes()
    tampered.unlink()
    tampered.write_bytes(content + b"\0")
    done = build_offline(bare)
    assert done.returncode == 1 and not (bare / "skyq.pyz").exists()


def test_a_file_without_libraries_shares_the_code_of_one_with_them(tree, built, world, tmp_path):
    slim = build(tree, tmp_path / "slim.pyz", "--no-libraries")
    assert says([sys.executable, slim, "where"], world) == says([sys.executable, built, "where"], world)
    assert slim.stat().st_size < 1.5e6


# --- starting it --------------------------------------------------------------------------------------------


def test_it_starts_as_a_program_and_as_an_argument(pyz, world):
    with_python = {**world, "PATH": os.path.dirname(sys.executable)}
    unpacked = says([pyz, "where"], with_python)
    assert unpacked.startswith(str(app(world)))
    assert says([sys.executable, pyz, "where"], world) == unpacked
    assert says([sys.executable, "-I", "-S", pyz, "libraries"], world)


def test_as_a_program_it_loads_nothing_that_an_installation_has_added_to_python(pyz, world):
    told = {**world, "PATH": os.path.dirname(sys.executable), **IMPORTS_TOLD}
    loaded = imported(run([pyz, "where"], told).stderr)
    assert "skyq.entry" in loaded and "site" not in loaded


def test_it_starts_from_a_path_with_spaces_without_suffix_by_a_link_and_from_anywhere(pyz, world, tmp_path):
    spaced = tmp_path / "a folder; with $(odd) names"
    spaced.mkdir()
    shutil.move(pyz, spaced / "sky q")
    (tmp_path / "link").symlink_to(spaced / "sky q")
    unpacked = says([sys.executable, spaced / "sky q", "where"], world)
    assert says([sys.executable, "link", "where"], world, cwd=tmp_path) == unpacked
    assert says([sys.executable, "./sky q", "libraries"], world, cwd=spaced)
    with_python = {**world, "PATH": "%s:%s" % (os.path.dirname(sys.executable), tmp_path)}
    assert says([tmp_path / "link", "where"], with_python) == unpacked
    assert says(["/bin/sh", "-c", "link where"], with_python) == unpacked


def test_own_code_and_libraries_win_over_what_the_environment_offers(pyz, world, tmp_path):
    for name in ("yaml.py", "json.py", "skyq.py"):
        (tmp_path / name).write_text("raise SystemExit('the wrong one')")
    astray = {**world, "PYTHONPATH": str(tmp_path)}
    says([sys.executable, pyz, "libraries"], astray, cwd=tmp_path)
    says([sys.executable, pyz, "libraries"], astray, cwd=tmp_path)
    found = says([sys.executable, pyz, "path"], astray, cwd=tmp_path).splitlines()
    assert not [path for path in found if "site-packages" in path or path == str(tmp_path)]


def test_it_compiles_itself_once_even_where_the_environment_forbids_it(pyz, world):
    says([sys.executable, pyz, "where"], world)
    compiled = {path: path.stat().st_mtime_ns for path in app(world).rglob("*.pyc")}
    assert {path.name.split(".")[0] for path in compiled} >= {"entry", "program", "main"}
    says([sys.executable, pyz, "where"], world)
    assert {path: path.stat().st_mtime_ns for path in app(world).rglob("*.pyc")} == compiled


def test_a_verb_of_the_standard_library_unpacks_no_libraries(pyz, world):
    says([sys.executable, pyz, "where"], world)
    assert [path.name for path in app(world).iterdir() if "-" in path.name] == []


def test_every_library_that_skyq_names_is_in_the_file(pyz, world):
    says([sys.executable, pyz, "ssh"], world)
    libraries = says([sys.executable, pyz, "path"], world).splitlines()[-1]
    script = "from skyq.program import LIBRARIES; print(*LIBRARIES)"
    named = says([sys.executable, "-c", script], world, cwd=REPO)
    assert [name for name in named.split() if not (Path(libraries) / name).is_dir()] == []


def test_it_unpacks_where_the_paths_of_skyq_say(world):
    script = "from skyq import folders; from skyq.core.paths import Home\n"
    script += "print(folders.places()[0], Home(%r).app)"
    first, stated = says([sys.executable, "-c", script % str(app(world).parent)], world, cwd=REPO).split()
    assert first == stated


@pytest.mark.parametrize("version", sorted(GOOD))
def test_one_file_serves_every_python_it_was_built_for(built_for_all, world, version):
    assert "'a': 1" in says([GOOD[version], built_for_all, "libraries"], world)
    assert says([GOOD[version], built_for_all, "ssh"], world)


# --- the wrong Python ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", sorted(OLD))
def test_an_old_python_says_what_is_needed(pyz, world, version):
    done = run([OLD[version], pyz, "where"], world)
    assert "Python %s." % version in one_sentence(done)
    assert "3.10 or newer" in done.stderr


@pytest.mark.parametrize("version", sorted(OLD))
def test_an_old_python_hands_over_to_a_newer_one_on_path(pyz, world, version):
    # The first that is found is a shim without a Python behind it.
    Path(world["PATH"], "python3.14").write_text("#!/bin/sh\necho no such version >&2; exit 127\n")
    Path(world["PATH"], "python3.14").chmod(0o755)
    Path(world["PATH"], "python3").symlink_to(sys.executable)
    assert says([OLD[version], pyz, "python"], world) == HERE


def test_a_python_without_libraries_in_the_file_still_runs_the_rest(pyz, world):
    other = [python for version, python in sorted(GOOD.items()) if version != HERE]
    if not other:
        pytest.skip("NOT TESTED: this machine has one good Python only")
    says([other[0], pyz, "where"], world)
    message = one_sentence(run([other[0], pyz, "libraries"], world))
    assert "cpython-%s-" % HERE.replace(".", "") in message and "build_zipapp.py" in message
    one_sentence(run([other[0], pyz, "again"], world))

    Path(world["PATH"], "python3").symlink_to(sys.executable)
    assert "'a': 1" in says([other[0], pyz, "libraries"], world)
    assert says([*says([other[0], pyz, "again"], world).splitlines(), "python"], world) == HERE


# --- homes that can't hold it -------------------------------------------------------------------------------


def test_without_a_home_it_finds_another_private_place(pyz, world, tmp_path):
    homeless = {"PATH": world["PATH"], "SKYQ_HOME": str(tmp_path / "elsewhere")}
    assert says([sys.executable, pyz, "where"], homeless).startswith(str(tmp_path / "elsewhere/app"))
    nowhere = {"PATH": world["PATH"], "HOME": "/nonexistent", "XDG_CACHE_HOME": str(tmp_path / "cache")}
    assert says([sys.executable, pyz, "where"], nowhere).startswith(str(tmp_path / "cache/skyq"))
    assert not os.path.exists("/nonexistent")


@pytest.mark.parametrize("trouble", ["ro", "size=64k", "size=2m", "noexec", "nr_inodes=5"])
def test_a_home_that_is_read_only_full_or_noexec_is_passed_over(pyz, world, trouble):
    script = "%s %s libraries && exec %s %s path" % ((sys.executable, pyz) * 2)
    there = {world["HOME"]: trouble, "/var/tmp": "mode=1777"}
    done = mounted(there, ["/bin/sh", "-c", script], world)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1].startswith("/var/tmp/skyq-%d/" % os.geteuid())


def test_with_no_place_at_all_it_runs_from_the_file_and_names_what_it_tried(pyz, world):
    nowhere = {folder: "ro" for folder in (world["HOME"], "/var/tmp", "/tmp")}
    start = ["/mnt/skyq.pyz" if word == pyz else word for word in (PLAIN, pyz)]
    assert mounted(nowhere, [*start, "where"], world).stdout.startswith("/mnt/skyq.pyz/")
    message = one_sentence(mounted(nowhere, [*start, "libraries"], world))
    assert world["HOME"] in message and "/var/tmp" in message and "SKYQ_HOME" in message


def test_a_place_that_another_user_could_have_filled_is_never_used(pyz, world, tmp_path):
    squatted = tmp_path / "cache/skyq"
    says([sys.executable, pyz, "where"], {**world, "SKYQ_HOME": str(tmp_path / "mine")})
    shutil.copytree(tmp_path / "mine/app", squatted)
    for folder in (squatted, *squatted.iterdir()):
        folder.chmod(0o777)
    open_home = {**world, "SKYQ_HOME": "/proc/none", "XDG_CACHE_HOME": str(tmp_path / "cache")}
    done = mounted({"/var/tmp": "mode=1777"}, [PLAIN, str(pyz), "where"], open_home)
    assert done.stdout.startswith("/var/tmp/skyq-"), done.stderr
    for folder in (squatted, *squatted.iterdir()):
        folder.chmod(0o700)
        os.chown(folder, 65534, 65534)
    done = mounted({"/var/tmp": "mode=1777"}, [PLAIN, str(pyz), "where"], open_home)
    assert done.stdout.startswith("/var/tmp/skyq-"), done.stderr


def test_what_is_unpacked_is_private(pyz, world):
    says([sys.executable, pyz, "libraries"], world, umask=0)
    for folder in (app(world).parent, app(world), *app(world).iterdir()):
        assert folder.stat().st_mode & 0o077 == 0, folder


# --- many at once, killed, replaced -------------------------------------------------------------------------


def test_ten_first_starts_at_once_all_work_and_leave_one_of_each(pyz, world):
    many = [started([sys.executable, pyz, "libraries"], world) for _ in range(10)]
    ends = [(one.communicate(timeout=60), one.returncode) for one in many]
    assert [code for _, code in ends] == [0] * 10, ends
    assert len({out for (out, _), _ in ends}) == 1
    assert len([path for path in app(world).iterdir() if path.name != ".lock"]) == 2


@pytest.mark.parametrize("files", [1, 40, 450])
def test_killed_while_unpacking_nobody_ever_uses_the_half(pyz, world, files):
    half = ".new-*-cpython*"
    for _ in range(10):  # on a busy machine the kill may come too late
        shutil.rmtree(app(world), ignore_errors=True)
        process = started([sys.executable, pyz, "libraries"], world)
        wait_for(lambda: len(list(app(world).glob(half + "/**/*"))) >= files, process)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        if list(app(world).glob(half)):
            break
    assert list(app(world).glob(half))
    assert "'a': 1" in says([sys.executable, pyz, "libraries"], world)


def test_killed_at_any_moment_of_the_very_first_start_the_next_one_works(pyz, world):
    for delay in (5, 15, 25, 35, 45, 60):
        shutil.rmtree(app(world), ignore_errors=True)
        process = started([sys.executable, pyz, "where"], world)
        time.sleep(delay / 1000)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        assert says([sys.executable, pyz, "where"], world).startswith(str(app(world)))


def test_what_the_killed_and_the_old_left_is_collected_later(pyz, world):
    says([sys.executable, pyz, "where"], world)
    month_ago = time.time() - 30 * 86400
    folders = [".new-0123456789abcdef-1-00", *("%016x" % number for number in range(12))]
    for number, name in enumerate(folders):
        (app(world) / name / "skyq").mkdir(parents=True)
        os.utime(app(world) / name, (month_ago + number, month_ago + number))
    (app(world) / ".new-0123456789abcdef-2-00").mkdir()

    says([sys.executable, pyz, "libraries"], world)

    left = {path.name for path in app(world).iterdir()}
    assert ".new-0123456789abcdef-1-00" not in left, "a killed one's"
    assert ".new-0123456789abcdef-2-00" in left, "perhaps still being filled"
    assert len([name for name in left if len(name) == 16]) == 8
    assert {"%016x" % number for number in range(5, 12)} < left, "the last used stay"


def test_a_start_marks_its_folders_as_used(pyz, world):
    says([sys.executable, pyz, "libraries"], world)
    folders = [path for path in app(world).iterdir() if path.is_dir()]
    for folder in folders:
        os.utime(folder, (1e9, 1e9))
    says([sys.executable, pyz, "libraries"], world)
    assert all(time.time() - folder.stat().st_mtime < 60 for folder in folders)


@pytest.mark.parametrize("fault", ["overwritten", "truncated", "deleted"])
def test_a_file_that_is_replaced_is_not_noticed_by_what_runs(pyz, world, fault):
    says([sys.executable, pyz, "libraries"], world)
    for what, printed in (("code", str(app(world))), ("libraries", "'a': 1")):
        shutil.copy(pyz, pyz.with_name("copy"))
        process = started([sys.executable, pyz.with_name("copy"), "late", what], world)
        assert process.stdout.readline() == "started\n"
        if fault == "overwritten":
            with open(pyz.with_name("copy"), "r+b") as file:
                file.write(os.urandom(pyz.stat().st_size))
        elif fault == "truncated":
            os.truncate(pyz.with_name("copy"), 1000)
        else:
            pyz.with_name("copy").unlink()
        assert printed in process.communicate("go\n", timeout=60)[0]
        assert process.returncode == 0


def test_libraries_that_were_replaced_before_they_were_unpacked_end_in_one_sentence(pyz, world):
    process = started([sys.executable, pyz, "late", "libraries"], world)
    assert process.stdout.readline() == "started\n"
    os.truncate(pyz, 1000)
    _, message = process.communicate("go\n", timeout=60)
    assert process.returncode == 1 and "Get the file anew" in message and len(message.splitlines()) == 1


def test_a_damaged_file_says_so_and_unpacks_nothing(pyz, world):
    content = pyz.read_bytes()
    damaged = content.replace(b"The way from an interpreter", b"The way from an 1nterpreter")
    assert damaged != content
    pyz.write_bytes(damaged)
    assert "damaged" in one_sentence(run([sys.executable, pyz, "where"], world))
    assert not app(world).exists()


@pytest.mark.parametrize("what", ["skyq/core", "skyq/cli", "skyq/unpack.py", "skyq/entry.py"])
def test_what_somebody_has_deleted_of_it_is_put_back(pyz, world, what):
    lost = Path(says([sys.executable, pyz, "where"], world)).parent.parent.parent / what
    shutil.rmtree(lost) if lost.is_dir() else lost.unlink()
    (lost.parent.parent / "skyq/cli/main.py").unlink(missing_ok=True)

    assert "They are back" in one_sentence(run([sys.executable, pyz, "where"], world))
    assert lost.exists() and not list(app(world).glob(".new-*"))
    says([sys.executable, pyz, "where"], world)


# --- what outlives a command --------------------------------------------------------------------------------


def test_what_outlives_a_command_needs_the_file_no_more(pyz, world):
    again = says([sys.executable, pyz, "again"], world).splitlines()
    assert again[1:3] == ["-I", "-S"]
    pyz.unlink()
    assert says([*again, "where"], world).startswith(str(app(world)))
    assert "'a': 1" in says([*again, "libraries"], world)
    assert says([*again, "again"], world).splitlines() == again


def test_the_unpacked_entry_finds_the_libraries_in_the_file_it_came_from(pyz, world):
    unpacked = says([sys.executable, pyz, "where"], world).replace("cli/main.py", "__main__.py")
    assert "'a': 1" in says([sys.executable, "-I", "-S", unpacked, "libraries"], world)


@pytest.mark.parametrize("version", sorted(set(OLD) & {"3.8", "3.9"}))
def test_the_unpacked_entry_starts_on_the_python_of_a_node(pyz, world, version):
    unpacked = says([sys.executable, pyz, "where"], world)
    entry = unpacked.replace("cli/main.py", "__main__.py")
    assert says([OLD[version], "-I", "-S", entry, "where"], world) == unpacked


def test_a_checkout_starts_itself_again_too(tree, world):
    again = says([sys.executable, "-m", "skyq", "again"], world, cwd=tree).splitlines()
    assert says([*again, "where"], world) == str(tree / "skyq/cli/main.py")
