"""docker and podman as a job sees them: the same commands, with the job's devices and its label.

A copy of this file stands behind the folders that prelude.sh puts first on a job's PATH (containers.py). The
next program of that name on PATH does the work. Of its commands only `run` and `create`, also as `container
run` and `container create`, are changed:

- `--label skyq.step=…` is added, by which the step's containers are found and killed when the step ends.
- All devices, in any spelling (`--gpus all`, `--gpus=all,capabilities=utility`, or CDI's `--device
  nvidia.com/gpu=all`), become the job's own, by UUID, and CUDA_VISIBLE_DEVICES in the container names the
  same: right however the devices are numbered there. podman gets them as `--device nvidia.com/gpu=UUID`.
- docker's `--gpus 2` names no device, and docker would take the first two of the machine: it becomes the
  first two of the job's.
- Devices without UUIDs (declared ones), or none: `--gpus` stays, and CUDA_VISIBLE_DEVICES in the container
  has the job's indices, or is empty.
- `-e CUDA_VISIBLE_DEVICES`, or one with numbers of the job's devices, is meant as on the machine, and becomes
  their UUIDs. Any other value is the user's own and stays, like `--gpus device=…`.
- In `setup`, which has no devices of its own and sees all, only the label is added.

What doesn't come by here is neither limited nor killed: /usr/bin/docker by its path, `sudo docker`, `docker
compose`, `docker start` and `exec` of containers from outside the job, `podman kube play`, `docker service`,
`--runtime=nvidia` without `--gpus`, a docker that the script itself puts further in front on PATH, and
programs that talk to the engine's socket.

Runs on its own, for each such command: a few modules of the standard library, nothing of skyq's.
"""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import List, Mapping, Optional, Sequence, Tuple

MARK = "# skyq's wrapper"  # the second line of what PATH finds begins so
LABEL = "skyq.step"
CDI_ALL = "nvidia.com/gpu=all"
CDI = "nvidia.com/gpu="
VISIBLE = "CUDA_VISIBLE_DEVICES"

USAGE = 125  # docker's and podman's exit code where they didn't run anything
NOT_FOUND = 127

VERBS = ("run", "create")
# Options that stand alone; every other one takes a value. Of both programs: their names don't collide.
ALONE = {
    "detach", "disable-content-trust", "env-host", "help", "http-proxy", "init", "interactive",
    "no-healthcheck", "no-hostname", "no-hosts", "oom-kill-disable", "passwd", "privileged", "publish-all",
    "quiet", "read-only", "read-only-tmpfs", "replace", "rm", "rmi", "rootfs", "sig-proxy", "tls-verify",
    "tty", "unsetenv-all", "use-api-socket",
}  # fmt: skip
ALONE_SHORT = "ditqP"
GLOBAL_ALONE = {
    "debug", "help", "noout", "remote", "syslog", "tls", "tlsverify", "trace", "transient-store", "version",
}  # fmt: skip
GLOBAL_ALONE_SHORT = "Dvr"

# What tells the engine where its containers are: remembered to find them again. None of these is a secret.
ENGINE_ENV = (
    "HOME", "PATH", "TMPDIR", "XDG_CONFIG_HOME", "XDG_DATA_HOME", "XDG_RUNTIME_DIR",
    "DBUS_SESSION_BUS_ADDRESS",
    "DOCKER_API_VERSION", "DOCKER_CERT_PATH", "DOCKER_CONFIG", "DOCKER_CONTEXT", "DOCKER_HOST", "DOCKER_TLS",
    "DOCKER_TLS_VERIFY", "CONTAINER_CONNECTION", "CONTAINER_HOST", "CONTAINER_SSHKEY", "CONTAINERS_CONF",
    "CONTAINERS_CONF_OVERRIDE", "CONTAINERS_STORAGE_CONF", "STORAGE_DRIVER", "STORAGE_OPTS",
)  # fmt: skip


class Refused(Exception):
    """The command asks for what the job doesn't have."""


class Option:
    """One option of a command line: words[start:end]."""

    def __init__(self, name: str, value: Optional[str], start: int, end: int) -> None:
        self.name = name
        self.value = value
        self.start = start
        self.end = end


class Devices:
    """What the job was given: indices as on the machine, and their UUIDs where they have some."""

    def __init__(self, ids: Sequence[str], uuids: Sequence[str]) -> None:
        self.ids = list(ids)
        self.uuids = list(uuids) if len(uuids) == len(ids) else []

    @classmethod
    def of(cls, env: Mapping[str, str]) -> Optional[Devices]:
        """None in `setup`: it has none of its own, and sees all."""
        if "SKYQ_GPU_IDS" not in env:
            return None
        ids, uuids = (env.get(name, "") for name in ("SKYQ_GPU_IDS", "SKYQ_GPU_UUIDS"))
        return cls(ids.split(",") if ids else [], uuids.split(",") if uuids else [])

    def translated(self, value: str) -> Optional[str]:
        """UUIDs for numbers of the job's devices; None where it isn't (only) those."""
        numbers = value.split(",")
        if not self.uuids or not all(number in self.ids for number in numbers):
            return None
        return ",".join(self.uuids[self.ids.index(number)] for number in numbers)


# --- reading a command line ---------------------------------------------------------------------------------


def verb_at(words: Sequence[str]) -> int:
    """Where `run` or `create` stands; -1 for any other command."""
    at = 0
    while at < len(words) and words[at].startswith("-"):
        at = _option(words, at, GLOBAL_ALONE, GLOBAL_ALONE_SHORT)[-1].end
    if words[at : at + 1] == ["container"]:
        at += 1
    return at if at < len(words) and words[at] in VERBS else -1


def options(words: Sequence[str], at: int) -> List[Option]:
    """The options from a place on, up to the image: what follows that is the container's."""
    found: List[Option] = []
    while at < len(words) and words[at].startswith("-") and words[at] not in ("-", "--"):
        found += _option(words, at, ALONE, ALONE_SHORT)
        at = found[-1].end
    return found


def _option(words: Sequence[str], at: int, alone: set[str], short: str) -> List[Option]:
    """The option at a place; of several letters in one word, each. The last one's end is where to go on."""
    word = words[at]
    if not word.startswith("--"):
        return _letters(words, at, short)
    name, equals, value = word[2:].partition("=")
    if equals:
        return [Option(name, value, at, at + 1)]
    following = words[at + 1 : at + 2]
    # An option that this table doesn't know may stand alone; values with a dash are numbers.
    if name in alone or not following or (following[0][:1] == "-" and not following[0][1:2].isdigit()):
        return [Option(name, None, at, at + 1)]
    return [Option(name, following[0], at, at + 2)]


def _letters(words: Sequence[str], at: int, short: str) -> List[Option]:
    """-it, -e A=1, -eA=1, -e=A=1, -ite A=1."""
    letters, found = words[at][1:], []
    for place, letter in enumerate(letters):
        rest = letters[place + 1 :]
        if letter in short and not rest.startswith("="):
            found.append(Option(letter, None, at, at + 1))
        elif rest:
            found.append(Option(letter, rest[1:] if rest[0] == "=" else rest, at, at + 1))
            break
        else:
            following = words[at + 1 : at + 2]
            found.append(Option(letter, following[0] if following else None, at, at + 1 + len(following)))
    return found or [Option("", None, at, at + 1)]


# --- writing it anew ----------------------------------------------------------------------------------------


def rewritten(words: Sequence[str], podman: bool, step: str, env: Mapping[str, str]) -> List[str]:
    """The words for the real program. Raises Refused."""
    verb = verb_at(words)
    if verb < 0:
        return list(words)
    added = ["--label", "%s=%s" % (LABEL, step)]
    found = options(words, verb + 1)
    devices = Devices.of(env)
    changes: List[Tuple[Option, List[str]]] = []
    asking = [option for option in found if _asks_for_devices(option, podman)]
    if devices and asking:
        changes = _device_changes(asking, devices, podman) if devices.uuids else []
        visible = [option for option in found if _sets(option, VISIBLE)]
        changes += _translations(visible, devices, env)
        added += [] if visible else _visible(devices)
    return _with(words, verb + 1, added, changes)


def _asks_for_devices(option: Option, podman: bool) -> bool:
    """Without naming them. A number is a device's index with podman, and how many with docker."""
    if option.name == "gpus":
        return option.value == "all" if podman else "device" not in dict(_fields(option.value or ""))
    return option.name == "device" and option.value == CDI_ALL


def _device_changes(asking: List[Option], devices: Devices, podman: bool) -> List[Tuple[Option, List[str]]]:
    changes = []
    for option in asking:
        if podman or option.name == "device":
            new = [word for uuid in devices.uuids for word in ("--device", CDI + uuid)]
        else:
            request = _request(option.value or "", devices)
            new = ["--gpus", request] if request else []
        if new:
            changes.append((option, new))
    return changes


def _request(value: str, devices: Devices) -> str:
    """docker's `--gpus` with the job's devices instead of a number of any; '' leaves it to docker."""
    fields = _fields(value)
    known = dict(fields)
    count = known.get("count", known.get("", "1"))
    try:
        wanted = -1 if count == "all" else int(count)
    except ValueError:
        return ""
    if known.get("driver", "nvidia") != "nvidia" or wanted == 0 or wanted < -1:
        return ""
    if wanted > len(devices.uuids):
        raise Refused("--gpus %s: this job has %d" % (value, len(devices.uuids)))
    uuids = devices.uuids if wanted < 0 else devices.uuids[:wanted]
    others = ["%s=%s" % (key, text) for key, text in fields if key not in ("", "count")]
    return ",".join(map(_quoted, ["device=" + ",".join(uuids), *others]))


def _fields(value: str) -> List[Tuple[str, str]]:
    """docker reads one line of CSV: key=value, or a bare count (key ''). Quotes may hold commas."""
    found, field, quoted = [], "", False
    for letter in value:
        if letter == '"':
            quoted = not quoted
        elif letter == "," and not quoted:
            found.append(field)
            field = ""
        else:
            field += letter
    found.append(field)
    pairs = (field.partition("=") for field in found)
    return [(key, text) if equals else ("", key) for key, equals, text in pairs]


def _quoted(field: str) -> str:
    return '"%s"' % field if "," in field else field


def _sets(option: Option, name: str) -> bool:
    return option.name in ("e", "env") and (option.value or "").partition("=")[0] == name


def _translations(
    visible: List[Option], devices: Devices, env: Mapping[str, str]
) -> List[Tuple[Option, List[str]]]:
    """What a user's own CUDA_VISIBLE_DEVICES becomes, where it means the machine's numbers."""
    changes = []
    for option in visible:
        _, equals, value = (option.value or "").partition("=")
        new = devices.translated(value if equals else env.get(VISIBLE, ""))
        if new is not None:
            changes.append((option, ["--env", "%s=%s" % (VISIBLE, new)]))
    return changes


def _visible(devices: Devices) -> List[str]:
    words = ["--env", "%s=%s" % (VISIBLE, ",".join(devices.uuids or devices.ids))]
    if devices.ids and not devices.uuids:
        words += ["--env", "CUDA_DEVICE_ORDER=PCI_BUS_ID"]  # what the indices count by
    return words


def _with(
    words: Sequence[str], at: int, added: List[str], changes: List[Tuple[Option, List[str]]]
) -> List[str]:
    """The words with some added at a place, and some options after it replaced."""
    new = [*words[:at], *added]
    for option, instead in sorted(changes, key=lambda change: change[0].start):
        new += words[at : option.start]
        new += _letters_before(words[option.start], option.name) + instead
        at = option.end
    return new + list(words[at:])


def _letters_before(word: str, name: str) -> List[str]:
    """-it of -ite A=1, where -e is replaced."""
    if word.startswith("--") or len(name) != 1:
        return []
    before = word[: word.index(name)]
    return [before] if len(before) > 1 else []


# --- the real program ---------------------------------------------------------------------------------------


def real_program(name: str, path: str) -> str:
    """The program of that name on PATH, wrappers like this one left out; or ''."""
    for folder in path.split(os.pathsep):
        found = os.path.join(folder or ".", name)
        if os.path.isfile(found) and os.access(found, os.X_OK) and MARK.encode() not in _head(found, 64):
            return found
    return ""


def _head(path: str, size: int) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read(size)
    except OSError:
        return b""  # it may be run, but not read


def is_podman(program: str) -> bool:
    """Also where podman goes by docker's name, as a link or as the script of Debian's podman-docker."""
    if "podman" in os.path.basename(os.path.realpath(program)):
        return True
    head = _head(program, 4096)
    return head.startswith(b"#!") and b"podman" in head


def remember(folder: str, program: str, global_options: Sequence[str], env: Mapping[str, str]) -> None:
    """Note in the step's run directory which engine to ask for its containers when the step ends."""
    lines = ["program=" + os.path.abspath(program)]
    lines += ["option=" + word for word in global_options]
    lines += ["env=%s=%s" % (name, env[name]) for name in ENGINE_ENV if name in env]
    text = b"".join(os.fsencode(line) + b"\0" for line in lines)
    import zlib  # what is the same is noted once, however many containers a job starts

    name = os.path.join(folder, "%08x" % zlib.crc32(text))
    if os.path.exists(name):
        return
    os.makedirs(folder, 0o700, exist_ok=True)
    aside = "%s.%d" % (name, os.getpid())
    fd = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        os.write(fd, text)
    finally:
        os.close(fd)
    os.rename(aside, name)


def prepared(words: List[str], program: str, runs: str, env: Mapping[str, str]) -> List[str]:
    """The words for the real program; notes that it was used where it makes a container."""
    step = env.get("SKYQ_STEP_ID", "")
    run = os.path.join(runs, step)
    if not step or "/" in step or verb_at(words) < 0 or not os.path.isdir(run):
        return words  # not in a job
    new = rewritten(words, is_podman(program), step, env)
    verb = verb_at(words)
    global_options = words[: verb - 1] if words[verb - 1 : verb] == ["container"] else words[:verb]
    try:
        remember(os.path.join(run, "containers"), program, global_options, env)
    except OSError as error:
        _say("this container will not be ended with its job: %s: %s" % (error.filename, error.strerror))
    return new


def main(runs: str, called: str, words: List[str]) -> int:
    """Become the real program. `called`: as PATH found this one; `runs`: where run directories are."""
    name = os.path.basename(called)
    program = real_program(name, os.environ.get("PATH", os.defpath))
    if not program:
        sys.stderr.write("%s: command not found\n" % name)
        return NOT_FOUND
    try:
        new = prepared(words, program, runs, os.environ)
    except Refused as error:
        _say(str(error))
        return USAGE
    import signal

    for number in (signal.SIGPIPE, signal.SIGXFSZ):  # which Python ignores
        signal.signal(number, signal.SIG_DFL)
    try:
        os.execv(program, [name, *new])
    except OSError as error:
        _say("%s: %s" % (program, error.strerror))
    return 126


def _say(text: str) -> None:
    sys.stderr.write("skyq: %s\n" % text)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2], sys.argv[3:]))
