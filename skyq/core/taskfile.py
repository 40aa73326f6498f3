"""Task files: YAML text and the command line's overrides in, a checked Task out.

The fields, and the messages in quotes, are SkyPilot 0.14.1's; what only a cloud has is accepted with
one warning where a job can do without it, refused where it can't. Where this differs on purpose:
envs, secrets and the name arrive as written (3.10 is "3.10"), and every error names its line.

Shapes are checked by pydantic's core alone: building a BaseModel costs 70 ms more at every submit.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any, NoReturn

from pydantic_core import SchemaValidator, ValidationError
from pydantic_core import core_schema as shape

from skyq.core.errors import TaskError, UsageError
from skyq.core.model import DEFAULT_CPUS, Git, Recovery, Request, Task, TimeLimit
from skyq.core.request import (
    MAX_ALTERNATIVES,
    NO_OVERRIDES,
    PRIORITIES,
    Choice,
    Overrides,
    apply,
    check_envs,
    check_git,
    check_name,
    check_num_nodes,
    least,
    parse_accelerators,
    parse_cpus,
    parse_memory,
    parse_recovery,
    parse_signal,
    parse_time,
    pool_of,
    show,
    valid_env_name,
)
from skyq.core.yamltext import Document, Path, load_all, similar

_TEXT = shape.str_schema(strict=True)
_INT = shape.int_schema(strict=True)
_PRIORITY = shape.int_schema(strict=True, ge=PRIORITIES[0], le=PRIORITIES[1])
_MAP = shape.dict_schema(strict=True)
_LIST_OF_MAPS = shape.list_schema(_MAP, strict=True)
_ANY = shape.any_schema()  # checked by hand below


def _validator(**fields: Any) -> SchemaValidator:
    """Of a map with these optional fields and no others."""
    known = {name: shape.typed_dict_field(field, required=False) for name, field in fields.items()}
    return SchemaValidator(shape.typed_dict_schema(known, extra_behavior="forbid"))


_TASK_FIELDS = {
    "name": _TEXT, "num_nodes": _INT, "resources": _MAP, "envs": _ANY, "secrets": _ANY,
    "workdir": _ANY, "file_mounts": _MAP, "setup": _TEXT, "run": _TEXT,
    "time_limit": _ANY, "signal": _TEXT,
}  # fmt: skip
_RESOURCE_FIELDS = {
    "accelerators": _ANY, "gpus": _ANY, "cpus": _ANY, "memory": _ANY, "any_of": _LIST_OF_MAPS,
    "ordered": _LIST_OF_MAPS, "priority": _PRIORITY, "job_recovery": _ANY,
}  # fmt: skip
_TASK = _validator(**_TASK_FIELDS)
_RESOURCES = _validator(**_RESOURCE_FIELDS)

_IGNORED = frozenset(
    ("config", "event_callback", "inputs", "outputs", "api_server_access", "file_mounts_mapping", "_metadata")
)
_IGNORED_RESOURCES = frozenset((
    "accelerator_args", "autostop", "cloud", "disk_size", "disk_tier", "image_id", "infra", "instance_type",
    "labels", "local_disk", "max_hourly_cost", "network_tier", "ports", "priority_class",
    "region", "spot_recovery", "use_spot", "volumes", "zone",
))  # fmt: skip
_REFUSED = {
    "volumes": "skyq mounts no volumes. Mount the file system on the nodes, and remove it.",
    "volume_mounts": "skyq mounts no volumes. Mount the file system on the nodes, and remove it.",
    "managed_secrets": "there is no secret manager. List the names under `secrets:` without a value "
    "and give them with --secret NAME.",
}
# SkyPilot's own `launch` takes these files too, for the task alone.
_TASK_ALONE = {
    "service": "`service` is ignored: skyq runs the task once, as a job. There are no replicas.",
    "pool": "`pool` is ignored: skyq runs the task once, as a job. Hosts stand in ~/.skyq/pools.yaml.",
}
_JSON_TYPES = {"string_type": "string", "int_type": "integer", "dict_type": "object", "list_type": "array"}
_BOUNDS = {
    "greater_than_equal": "less than the minimum of {ge}",
    "less_than_equal": "greater than the maximum of {le}",
}
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_VARIABLE = re.compile(r"\$(?:([a-zA-Z_][a-zA-Z0-9_]*)|\{([a-zA-Z_][a-zA-Z0-9_]*)\})")


def is_task_text(text: str) -> bool:
    """Is the file a task rather than a shell script? SkyPilot's rule: YAML that is not just a string.

    A text that is no YAML gives False: whether a file named .yaml is then a mistake, load_task tells.
    """
    try:
        documents = load_all(text, "")
    except TaskError:
        return False
    return not (documents and isinstance(documents[0].value, str))


def load_task(text: str, source: str, overrides: Overrides = NO_OVERRIDES, verb: str = "exec") -> Task:
    """The task of a task file with the overrides applied; `source` and `verb` are words for messages.

    A header document of just a name may precede it. `run` is None where there is nothing to run: the
    caller decides what that means. `~` in workdir and file_mounts is left to the caller, who knows the
    home. TaskError with key and line; UsageError for a file of several tasks. Never shows a secret.
    """
    documents = [document for document in load_all(text, source) if document.value is not None]
    header = _header(documents[0]) if len(documents) > 1 else None
    if header is not None:
        documents = documents[1:]
    if len(documents) > 1:
        raise UsageError(
            f"YAML specifies a DAG, while `skyq {verb}` supports a single task only. "
            f"Split {source} into one file per task."
        )
    spec = _Spec(documents[0] if documents else Document(), source)
    return spec.task(overrides, header)


def _header(document: Document) -> str | None:
    """The name that a header document gives to the whole file; None: it is no header."""
    value = document.value
    if isinstance(value, dict) and "name" in value and value.keys() <= {"name", "execution"}:
        return str(document.written(("name",), value["name"]) or "")
    return None


class _Spec:
    """One document on its way to a Task."""

    def __init__(self, document: Document, source: str) -> None:
        self.document, self.source = document, source
        self.ignored: list[str] = []
        self.notes: list[str] = []
        self.pool = ""

    def fail(self, message: str, path: Path = ()) -> NoReturn:
        """Raises the TaskError for what stands at `path`."""
        kind = "resources" if path[:1] == ("resources",) else "task"
        where = f"{self.source}, line {self.document.line(path)}"
        raise TaskError(f"Invalid {kind} YAML: {message} ({where})") from None

    def task(self, overrides: Overrides, header: str | None) -> Task:
        fields = self.fields()
        envs = self.variables("envs", fields.get("envs"), overrides.envs)
        given = {**overrides.env_file, **overrides.secrets}
        secrets = self.variables("secrets", fields.get("secrets"), given)
        self.attempt(("envs",), check_envs, envs, secrets)
        known = {**envs, **overrides.envs, **secrets, **overrides.secrets}
        alternatives, first = self.resources(fields.get("resources", {}))
        name = fields.get("name", header)
        task = Task(
            name=self.attempt(("name",), check_name, name) if name else None,
            num_nodes=self.attempt(("num_nodes",), check_num_nodes, fields.get("num_nodes", 1)),
            alternatives=alternatives,
            priority=first.get("priority", 0),
            recovery=first.get("job_recovery", Recovery()),
            setup=_script(fields.get("setup")),
            run=_script(fields.get("run")),
            workdir=self.workdir(fields.get("workdir"), known),
            git=self.git(fields.get("workdir"), known),
            envs=envs,
            secrets=secrets,
            file_mounts=self.file_mounts(fields.get("file_mounts", {}), known),
            cpus_shown=first.get("cpus", (0, ""))[1],
            least_cpus=first.get("least", (0, 0))[0],
            least_memory=first.get("least", (0, 0))[1],
            pool=self.pool,
            time_limit=self.time_limit(fields),
            warnings=tuple(self.warnings()),
        )
        return apply(task, overrides)

    def fields(self) -> dict[str, Any]:
        """The task's fields with a value, each of its type; the ignored ones taken out."""
        raw = self.document.value
        if raw is not None and not isinstance(raw, dict):
            kind = "a list" if isinstance(raw, list) else "a single value"
            self.fail(f"It is {kind}, not a mapping of fields. Write `run: |` and the commands below it.")
        fields = {key: value for key, value in (raw or {}).items() if value is not None}
        if not fields:
            raise TaskError(
                f"'{self.source}' is empty or contains no task definition. "
                "Add at least a `run:` (or `setup:`) field."
            )
        for key in fields:
            if key in _REFUSED:
                self.fail(f"Field '{key}' is not supported: {_REFUSED[key]}", (key,))
        self.ignored += sorted(_IGNORED & fields.keys())
        self.notes += [note for key, note in _TASK_ALONE.items() if key in fields]
        skipped = _IGNORED | _TASK_ALONE.keys()
        known = {key: value for key, value in fields.items() if key not in skipped}
        if "name" in known:
            known["name"] = self.document.written(("name",), known["name"])
        return self.checked(_TASK, known, (), _TASK_FIELDS.keys() | skipped)

    def checked(
        self, validator: SchemaValidator, fields: Mapping[str, object], path: Path, known: Iterable[str]
    ) -> dict[str, Any]:
        """The fields as the validator returns them, or the first mistake in the file, in words."""
        try:
            return dict(validator.validate_python(fields))
        except ValidationError as error:
            mistakes = error.errors(include_url=False)
        line = self.document.line
        mistake = min(mistakes, key=lambda each: line((*path, *each["loc"])))
        where = (*path, *mistake["loc"])
        if mistake["type"] == "extra_forbidden":
            self.fail(_unknown(str(where[-1]), bool(path), known), where)
        problem = _BOUNDS.get(mistake["type"], "not of type '%s'" % _JSON_TYPES.get(mistake["type"]))
        self.wrong(where, mistake["input"], problem.format(**mistake.get("ctx", {})))

    def wrong(self, path: Path, value: object, problem: str) -> NoReturn:
        """The message of a value that is off; a secret's value stays out of it."""
        shown = "A value" if path[0] in ("envs", "secrets") else show(value)
        self.fail(f"{shown} is {problem}. Check problematic field(s): {_pointer(path)}", path)

    def attempt(self, path: Path, check: Any, *values: object) -> Any:
        """What the check returns; its TaskError gets the place in the file."""
        try:
            return check(*values)
        except TaskError as error:
            self.fail(str(error), path)

    def variables(self, field: str, value: object, given: Mapping[str, str]) -> dict[str, str]:
        """Envs or secrets as text, as written; null is one that the command line must give."""
        if value is None:
            return {}
        if field == "secrets" and isinstance(value, list):
            self.fail(
                "A list of secrets needs a secret manager. Write a mapping (NAME: without a value) "
                "and give each with --secret NAME.",
                (field,),
            )
        if not isinstance(value, dict):
            self.wrong((field,), value, "not of type 'object'")
        invalid = [key for key in value if not valid_env_name(key)]
        if invalid:
            self.fail(
                f"The `{field}` field contains invalid keys: {', '.join(map(show, invalid[:5]))}. "
                "Use letters, digits and _, not beginning with a digit.",
                (field, invalid[0]),
            )
        return {key: self.variable((field, key), item, given) for key, item in value.items()}

    def variable(self, path: Path, value: object, given: Mapping[str, str]) -> str:
        field, key = path
        if value is None and str(key) in given:
            return given[str(key)]
        if value is None:
            kind, flag = ("Environment", "env") if field == "envs" else ("Secret", "secret")
            self.fail(
                f"{kind} variable '{key}' is None. Please set a value for it in task YAML or with --{flag} "
                f"flag. To set it to be empty, use an empty string ({key}: '' or --{flag} {key}='').",
                path,
            )
        if isinstance(value, (dict, list)):
            self.wrong(path, value, "not of type 'string'")
        # Booleans arrive as Python writes them, as with SkyPilot; numbers as the user wrote them.
        return str(value) if isinstance(value, bool) else str(self.document.written(path, value))

    def resources(self, raw: dict[str, object]) -> tuple[tuple[Request, ...], dict[str, Any]]:
        """(alternatives in order, the first resource object as parsed)."""
        base = self.resource(raw, ("resources",))
        if "any_of" in base and "ordered" in base:
            self.fail('Cannot specify both "any_of" and "ordered" in resources.', ("resources", "ordered"))
        field = "ordered" if "ordered" in base else "any_of"
        # Only so many of them are looked at: the rest would not be taken anyway.
        entries = enumerate((base.pop(field, None) or [{}])[: MAX_ALTERNATIVES + 1])
        options = [self.option(base, entry, ("resources", field, at)) for at, entry in entries]
        if len({option.get("priority", 0) for option in options}) > 1:
            self.fail("All resources of a task must have the same priority.", ("resources", field))
        requests = dict.fromkeys(request for option in options for request in _requests(option))
        if max(len(requests), len(options)) > MAX_ALTERNATIVES:
            self.fail(f"More than {MAX_ALTERNATIVES} alternatives.", ("resources", field))
        return tuple(requests), options[0]

    def option(self, base: dict[str, Any], raw: dict[str, object], path: Path) -> dict[str, Any]:
        """The base with one entry of any_of or ordered over it."""
        entry = self.resource(raw, path)
        for nested in ("any_of", "ordered"):
            if nested in entry:
                self.fail(f"'{nested}' can't stand inside an alternative.", (*path, nested))
        return {**base, **entry}

    def resource(self, raw: dict[str, object], path: Path) -> dict[str, Any]:
        """One resource object, checked and parsed; only what it gives. `gpus` becomes `accelerators`."""
        raw = {key: value for key, value in raw.items() if value is not None}
        self.ignore(raw)
        fields = {key: value for key, value in raw.items() if key not in _IGNORED_RESOURCES}
        fields = self.checked(_RESOURCES, fields, path, _RESOURCE_FIELDS.keys() | _IGNORED_RESOURCES)
        if "gpus" in fields and "accelerators" in fields:
            self.fail("Cannot specify both gpus and accelerators in config.", (*path, "gpus"))
        cpus, memory = fields.get("cpus"), fields.get("memory")
        parsers = {"accelerators": parse_accelerators, "gpus": parse_accelerators, "memory": parse_memory}
        for field, parse in {**parsers, "cpus": parse_cpus, "job_recovery": parse_recovery}.items():
            if field in fields:
                there = (*path, field)
                fields[field] = self.attempt(there, parse, fields[field])
        if "gpus" in fields:
            fields["accelerators"] = fields.pop("gpus")
        if cpus is not None or memory is not None:
            fields["least"] = least(cpus, memory)
        return fields

    def ignore(self, raw: dict[str, object]) -> None:
        """Notes what of the resources only a cloud has."""
        fields = _IGNORED_RESOURCES & raw.keys()
        if pool := pool_of(raw.get("infra")):
            fields -= {"infra"}
            self.pool = self.pool or pool
        image = raw.get("image_id")
        if isinstance(image, str) and image.startswith("docker:"):
            fields -= {"image_id"}
            self.notes.append(
                f"image_id: {show(image)[1:-1]} is not started: the job runs on the machine itself. "
                "Start the container in `run`: docker run --gpus=all ..."
            )
        if "priority_class" in fields:
            fields -= {"priority_class"}
            self.notes.append(
                "resources.priority_class is ignored. Give resources.priority, from -1000 to 1000."
            )
        self.ignored += [f"resources.{field}" for field in sorted(fields)]

    def warnings(self) -> Iterable[str]:
        if self.ignored:
            yield "Ignored, because skyq has no cloud: %s." % ", ".join(dict.fromkeys(self.ignored))
        yield from dict.fromkeys(self.notes)

    def workdir(self, value: object, known: Mapping[str, str]) -> str | None:
        if value is None or isinstance(value, dict):
            return None
        if not isinstance(value, str):
            self.wrong(("workdir",), value, "not of type 'string'")
        return _expanded(value, known)

    def time_limit(self, fields: Mapping[str, Any]) -> TimeLimit:
        seconds, signal = 0, ("", 0)
        if "time_limit" in fields:
            written = self.document.written(("time_limit",), fields["time_limit"])
            seconds = self.attempt(("time_limit",), parse_time, written)
        if "signal" in fields:
            signal = self.attempt(("signal",), parse_signal, fields["signal"])
        return TimeLimit(seconds, *signal)

    def git(self, value: object, known: Mapping[str, str]) -> Git | None:
        if not isinstance(value, dict):
            return None
        if set(value) - {"url", "ref"} or not value.get("url"):
            self.fail("A git workdir has `url`, and `ref` if you like; nothing else.", ("workdir",))
        texts = [self.document.written(("workdir", key), value.get(key) or "") for key in ("url", "ref")]
        return check_git(Git(*(_expanded(str(text), known) for text in texts)))

    def file_mounts(self, mounts: dict[str, object], known: Mapping[str, str]) -> dict[str, str]:
        """Remote path → local path."""
        return {_expanded(to, known): _expanded(self.mount(to, value), known) for to, value in mounts.items()}

    def mount(self, to: str, value: object) -> str:
        path: Path = ("file_mounts", to)
        if not to or to.endswith("/"):
            self.fail(f"Mount paths cannot end with a slash. Found: {show(to)}. Remove it.", path)
        if isinstance(value, dict):
            self.fail(f"Cloud storage can't be mounted ({show(to)}). Give a local path.", path)
        if not isinstance(value, str):
            self.wrong(path, value, "not of type 'string'")
        if _URL.match(value):
            self.fail(f"A URL can't be mounted ({show(to)}). Give a local path, or load it in `run`.", path)
        return value


def _script(text: str | None) -> str | None:
    return text if text and text.strip() else None


def _requests(option: dict[str, Any]) -> list[Request]:
    """The alternatives of one resource object: one for each accelerator it may be."""
    cpus, memory = option.get("cpus", (0, ""))[0] or DEFAULT_CPUS, option.get("memory", 0)
    choices: tuple[Choice, ...] = option.get("accelerators", ())
    if not choices:
        return [Request(cpus=cpus, memory=memory)]
    return [Request(name, amount, cpus, memory) for name, amount in choices]


def _unknown(field: str, in_resources: bool, known: Iterable[str]) -> str:
    """What to say of a field that nobody knows there."""
    if not in_resources and field in _RESOURCE_FIELDS:
        return f"Found unsupported field '{field}'. It stands under `resources:`."
    if in_resources and field in _TASK_FIELDS:
        return f"Found unsupported field '{field}'. It stands beside `resources:`, not in it."
    likely = similar(field, known)
    if likely:
        return f"Instead of {show(field)}, did you mean '{likely}'?"
    return f"Found unsupported field {show(field)}."


def _pointer(path: Path) -> str:
    """The place in JSON path's words: $.resources.any_of[0].cpus."""
    steps = (f"[{step}]" if isinstance(step, int) else "." + show(step)[1:-1] for step in path)
    return "$" + "".join(steps)


def _expanded(text: str, known: Mapping[str, str]) -> str:
    """$NAME and ${NAME} of the task's own envs and secrets; other names stay as they are."""
    return _VARIABLE.sub(lambda found: known.get(found[1] or found[2], found[0]), text)
