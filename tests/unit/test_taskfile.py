"""Task files, field by field, and the words for what is wrong in them."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from skyq.core.errors import SkyqError, TaskError, UsageError
from skyq.core.model import DEFAULT_CPUS, UNIT, Request, Task
from skyq.core.request import MAX_ENV, Overrides
from skyq.core.taskfile import is_task_text, load_task

# Other work on the machine makes no test fail.
patient = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])


def refusal(text: str, overrides: Overrides | None = None) -> str:
    with pytest.raises(TaskError) as error:
        load_task(text, "t.yaml", overrides or Overrides())
    return str(error.value)


def requests(text: str) -> list[Request]:
    return list(load_task(text, "t.yaml").alternatives)


def test_a_whole_task_file() -> None:
    task = load_task(
        """
        name: huggingface
        num_nodes: 2
        resources:
          accelerators: H100:4
          cpus: 4+
          memory: 32
          priority: -5
        envs: {LR: 3.10, DATA: /data}
        secrets: {TOKEN: hunter2}
        workdir: ~/src
        file_mounts: {/tmp/data: "${DATA}/x"}
        setup: pip install torch
        run: |
          python train.py
        """,
        "t.yaml",
    )
    assert task == Task(
        name="huggingface",
        num_nodes=2,
        alternatives=(Request("H100", 4 * UNIT, DEFAULT_CPUS, 32768),),
        priority=-5,
        setup="pip install torch",
        run="python train.py\n",
        workdir="~/src",
        envs={"LR": "3.10", "DATA": "/data"},
        secrets={"TOKEN": "hunter2"},
        file_mounts={"/tmp/data": "/data/x"},
        cpus_shown="4+",
        least_cpus=4000,
        least_memory=32768,
    )
    assert "hunter2" not in repr(task)


def test_a_file_of_nothing_but_a_name_is_a_task_with_nothing_to_run() -> None:
    assert load_task("name: a", "t.yaml") == Task(name="a")
    assert load_task("name: a\nrun: '  '\nsetup: ''", "t.yaml") == Task(name="a")


# --- the file as a whole


@pytest.mark.parametrize("text", ["", "# only a comment\n", "---\n", "{}", "run:\nsetup:\n"])
def test_an_empty_file_is_named(text: str) -> None:
    assert refusal(text) == (
        "'t.yaml' is empty or contains no task definition. Add at least a `run:` (or `setup:`) field."
    )


def test_a_list_or_a_single_value_is_no_task() -> None:
    assert "It is a list, not a mapping of fields." in refusal("- run: a")
    assert "It is a single value, not a mapping of fields." in refusal("echo hi")
    assert "It is a single value" in refusal("5")


def test_two_tasks_are_a_usage_error() -> None:
    with pytest.raises(UsageError) as error:
        load_task("run: a\n---\nrun: b", "t.yaml")
    assert str(error.value).startswith(
        "YAML specifies a DAG, while `skyq exec` supports a single task only. "
    )
    assert error.value.exit_code == 2
    with pytest.raises(UsageError, match="`skyq launch` supports a single task only"):
        load_task("name: a\n---\nrun: b\n---\nrun: c", "t.yaml", verb="launch")


@pytest.mark.parametrize("header", ["name: pipe", "name: pipe\nexecution: serial"])
def test_a_header_document_names_the_one_task_after_it(header: str) -> None:
    assert load_task(f"{header}\n---\nrun: b", "t.yaml") == Task(name="pipe", run="b")
    assert load_task(f"{header}\n---\nname: own\nrun: b", "t.yaml").name == "own"
    assert load_task("name: 3.10\n---\nrun: b\n---\n", "t.yaml").name == "3.10"


@pytest.mark.parametrize(
    ("text", "task"),
    [
        ("run: echo hi", True),
        ("- a", True),
        ("", True),
        ("5", True),
        ("#!/bin/bash\nset -e\npython train.py\n", False),
        ('#!/bin/bash\nset -e\necho "a: b"\n', False),
        ("echo hi", False),
        ("a: [", False),
        ("#!/bin/bash\nif [ -f x ]; then\n\tcat <<EOF\n", False),
    ],
)
def test_a_script_is_told_from_a_task_by_being_a_bare_string_or_no_yaml(text: str, task: bool) -> None:
    assert is_task_text(text) is task


def test_top_level_nulls_count_as_absent() -> None:
    fields = ("resources", "setup", "envs", "name", "num_nodes", "workdir", "file_mounts", "secrets", "pool")
    text = "run: a\n" + "".join(f"{field}: \n" for field in fields)
    assert load_task(text, "t.yaml") == Task(run="a")


# --- fields and types


@pytest.mark.parametrize(
    ("text", "message", "line"),
    [
        ("run: a\nrunn: b", "Instead of 'runn', did you mean 'run'?", 2),
        ("RUN: a", "Instead of 'RUN', did you mean 'run'?", 1),
        ("secret: {A: b}", "Instead of 'secret', did you mean 'secrets'?", 1),
        ("run: a\n\nfoo: b", "Found unsupported field 'foo'.", 3),
        ("5: b", "Found unsupported field '5'.", 1),
        ("cpus: 4", "Found unsupported field 'cpus'. It stands under `resources:`.", 1),
        ("priority: 4", "Found unsupported field 'priority'. It stands under `resources:`.", 1),
        ('num_nodes: "2"', "'2' is not of type 'integer'. Check problematic field(s): $.num_nodes", 1),
        ("run: [a, b]", "[...] is not of type 'string'. Check problematic field(s): $.run", 1),
        ("run: 5", "5 is not of type 'string'. Check problematic field(s): $.run", 1),
    ],
)
def test_a_mistake_is_told_with_its_key_and_line(text: str, message: str, line: int) -> None:
    assert refusal(text) == f"Invalid task YAML: {message} (t.yaml, line {line})"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("acelerators: H100", "Instead of 'acelerators', did you mean 'accelerators'?"),
        ("any_of: [{foo: 1}]", "Found unsupported field 'foo'."),
        ("num_nodes: 2", "Found unsupported field 'num_nodes'. It stands beside `resources:`, not in it."),
        ("any_of: [1]", "1 is not of type 'object'. Check problematic field(s): $.resources.any_of[0]"),
        (
            "priority: 1001",
            "1001 is greater than the maximum of 1000. Check problematic field(s): $.resources.priority",
        ),
        (
            "priority: -1001",
            "-1001 is less than the minimum of -1000. Check problematic field(s): $.resources.priority",
        ),
    ],
)
def test_a_mistake_in_resources_is_told_with_its_key_and_line(text: str, message: str) -> None:
    assert refusal(f"resources:\n  {text}") == f"Invalid resources YAML: {message} (t.yaml, line 2)"


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("num_nodes: 2.0", "integer"),
        ("num_nodes: true", "integer"),
        ("num_nodes: 0x2", "integer"),
        ("num_nodes: [2]", "integer"),
        ("run: true", "string"),
        ("run: {a: b}", "string"),
        ("setup: 5", "string"),
        ("name: [a]", "string"),
        ("workdir: 5", "string"),
        ("workdir: [a]", "string"),
        ("resources: H100", "object"),
        ("resources: [H100]", "object"),
        ("resources: {any_of: {}}", "array"),
        ("resources: {ordered: x}", "array"),
        ("resources: {priority: '5'}", "integer"),
        ("resources: {priority: 0777}", "integer"),
        ("envs: [A]", "object"),
        ("envs: A=b", "object"),
        ("file_mounts: [a]", "object"),
        ("file_mounts: {/a: 5}", "string"),
        ("file_mounts: {/a: }", "string"),
    ],
)
def test_a_wrong_type_is_refused(text: str, kind: str) -> None:
    assert f"is not of type '{kind}'. Check problematic field(s): $." in refusal(text)


@pytest.mark.parametrize("count", ["0", "-1", "1000000000"])
def test_num_nodes_is_positive(count: str) -> None:
    assert f"num_nodes should be a positive int. Got: {count} (t.yaml, line 2)" in refusal(
        f"run: a\nnum_nodes: {count}"
    )


def test_the_first_of_several_mistakes_is_told() -> None:
    assert "'runn'" in refusal("runn: a\nfoo: b\nnum_nodes: x")
    assert "$.num_nodes" in refusal("num_nodes: x\nfoo: b\nrunn: a")


@pytest.mark.parametrize(
    ("written", "name"), [("123", "123"), ("0777", "0777"), ("no", "no"), ("1.50", "1.50"), ("true", "true")]
)
def test_a_name_is_taken_as_written(written: str, name: str) -> None:
    assert load_task(f"name: {written}", "t.yaml").name == name


def test_a_bad_name_is_refused_with_its_line() -> None:
    message = refusal("run: a\nname: bad name")
    assert "Invalid task name 'bad name'." in message
    assert message.endswith("(t.yaml, line 2)")
    assert "Invalid task name '$(touch x)'" in refusal("name: $(touch x)")


# --- envs and secrets


@pytest.mark.parametrize(
    ("written", "value"),
    [
        *[
            (text, text)
            for text in [
                "3.10",
                "1.50",
                "0777",
                "no",
                "12:30:45",
                "1_000",
                "2024-01-01",
                "0x1F",
                "1e3",
                "$(id)",
            ]
        ],
        ("true", "True"),
        ("FALSE", "False"),
        ("'true'", "true"),
        ("''", ""),
        ("'~'", "~"),
        ('"a\\nb"', "a\nb"),
        ("|\n  a\n  b\n", "a\nb\n"),
    ],
)
def test_a_value_arrives_as_written_and_a_boolean_as_python_writes_it(written: str, value: str) -> None:
    for field in ("envs", "secrets"):
        text = f"{field}:\n A: {written}"
        assert getattr(load_task(text, "t.yaml"), field) == {"A": value}


def test_a_value_that_comes_through_an_alias_or_a_merge_arrives_as_written_too() -> None:
    task = load_task("envs: &e {A: &a 3.10, B: *a}\nsecrets: {<<: *e, C: *a}", "t.yaml")
    assert task.secrets == {"A": "3.10", "B": "3.10", "C": "3.10"}


def test_null_must_be_given_on_the_command_line() -> None:
    message = refusal("run: a\nenvs:\n  A:")
    assert (
        "Environment variable 'A' is None. Please set a value for it in task YAML or with --env flag."
        in message
    )
    assert message.endswith("(t.yaml, line 3)")
    assert load_task("envs: {A: }", "t.yaml", Overrides(envs={"A": ""})).envs == {"A": ""}


def test_a_null_secret_must_be_given_with_secret() -> None:
    assert "Secret variable 'A' is None." in refusal("secrets: {A: }", Overrides(envs={"A": "x"}))
    assert load_task("secrets: {A: }", "t.yaml", Overrides(secrets={"A": "x"})).secrets == {"A": "x"}


@pytest.mark.parametrize("key", ["1BAD", "A-B", "A B", "'A\\n'", "ÄÖ", "''"])
def test_a_bad_key_is_refused(key: str) -> None:
    for field in ("envs", "secrets"):
        message = refusal(f"{field}: {{OK: x, {key}: hunter2}}")
        assert f"The `{field}` field contains invalid keys: " in message
        assert "hunter2" not in message


def test_the_command_line_wins_over_the_file() -> None:
    task = load_task(
        "name: a\nnum_nodes: 2\nresources: {gpus: H100, cpus: 2}\nenvs: {A: 1, B: 2}\nworkdir: /a",
        "t.yaml",
        Overrides("b", "A100:2", "4", "8", 3, 9, {"B": "3"}, {"C": "4"}, "/b"),
    )
    assert (task.name, task.num_nodes, task.priority, task.workdir) == ("b", 3, 9, "/b")
    assert task.alternatives == (Request("A100", 2 * UNIT, 4000, 8192),)
    assert (task.envs, task.secrets, task.cpus_shown) == ({"A": "1", "B": "3"}, {"C": "4"}, "4")


@pytest.mark.parametrize(
    "text",
    [
        "secrets: hunter2",
        "secrets: {A: [hunter2]}",
        "secrets: {A: {b: hunter2}}",
        "secrets: [hunter2]",
        "envs: hunter2",
        "envs: {A: [hunter2]}",
        "secrets: {A: *hunter2 }",
        "secrets: {A: !hunter2 x}",
        "secrets: {A: hunter2, A: hunter2}",
        "secrets: {A: 'hunter2}",
        "secrets:\n  A: @hunter2",
        "secrets: {A: hunter2}\nrunn: x",
        "secrets: {A: &a [hunter2]}\nrun: *a",
        "secrets:\n  A: hunter2: hunter2",
        'secrets: {A: "hunter2\\0"}',
        'secrets: {A: "hunter2\\q"}',
    ],
)
def test_a_secret_is_in_no_message(text: str) -> None:
    assert "hunter2" not in refusal(text)


def test_a_list_of_secrets_asks_for_the_command_line() -> None:
    assert "give each with --secret NAME" in refusal("secrets: ['secrets:TOKEN']")


def test_too_much_environment_is_refused() -> None:
    assert "Use a file." in refusal(f"envs:\n  A: {'x' * MAX_ENV}")
    half = "x" * (MAX_ENV // 2)
    assert "Use a file." in refusal(f"envs:\n  A: {half}", Overrides(envs={"B": half}))


# --- workdir and file_mounts


def test_only_the_tasks_own_variables_are_expanded_in_paths() -> None:
    text = "workdir: $A/${B}/$HOME/${C-x}/$\nenvs: {A: a, B: b}\nsecrets: {B: s}\nfile_mounts: {~/$A: $B}"
    task = load_task(text, "t.yaml", Overrides(envs={"A": "given"}))
    assert task.workdir == "given/s/$HOME/${C-x}/$"
    assert task.file_mounts == {"~/given": "s"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("workdir: {url: https://x, depth: 1}", "A git workdir has `url`, and `ref` if you like"),
        ("workdir: {ref: main}", "A git workdir has `url`"),
        ("workdir: {url: --upload-pack=x}", "The git url can't be used"),
        ("file_mounts: {/a/: b}", "Mount paths cannot end with a slash"),
        ("file_mounts: {/a: s3://bucket}", "A URL can't be mounted ('/a')"),
        ("file_mounts: {/a: 'https://x/y'}", "A URL can't be mounted ('/a')"),
        ("file_mounts: {/a: {name: x, store: s3}}", "Cloud storage can't be mounted ('/a')"),
    ],
)
def test_what_only_a_cloud_can_mount_is_refused(text: str, message: str) -> None:
    assert message in refusal(text)


# --- resources


@pytest.mark.parametrize(
    ("written", "alternatives"),
    [
        ("H100", [("H100", UNIT)]),
        ("H100:4", [("H100", 4 * UNIT)]),
        ("H100:0.5", [("H100", UNIT // 2)]),
        ("{H100: 4}", [("H100", 4 * UNIT)]),
        ("{H100: 0.5}", [("H100", UNIT // 2)]),
        ("{H100: }", [("H100", UNIT)]),
        ("{H100:4, A100:8}", [("H100", 4 * UNIT), ("A100", 8 * UNIT)]),
        ("!!set {H100:4, A100:8}", [("H100", 4 * UNIT), ("A100", 8 * UNIT)]),
        ("[H100:4, A100:8]", [("H100", 4 * UNIT), ("A100", 8 * UNIT)]),
        ("\n  - H100:4\n  - A100", [("H100", 4 * UNIT), ("A100", UNIT)]),
        ("", [(None, 0)]),
        ("none", [(None, 0)]),
    ],
)
def test_accelerators_and_gpus_take_every_form(written: str, alternatives: list[object]) -> None:
    for field in ("accelerators", "gpus"):
        taken = requests(f"resources:\n  {field}: {written}")
        assert [(request.accelerator, request.amount) for request in taken] == alternatives


@pytest.mark.parametrize(
    ("resources", "message"),
    [
        ("{gpus: A, accelerators: B}", "Cannot specify both gpus and accelerators in config."),
        ("{accelerators: 5}", 'The "accelerators" field as a str should be <name> or <name>:<cnt>. Found: 5'),
        ("{accelerators: [{H100: 4}]}", "Found: {...}"),
        ("{accelerators: 'H100:x'}", "Found: 'H100:x'"),
        ("{accelerators: {H100: 0}}", "Accelerator count must be a positive number. Got: 'H100': 0."),
        ("{accelerators: {H100: .nan}}", "Accelerator count must be a positive number. Got: 'H100': '.nan'."),
        ("{accelerators: {H100: 1e999}}", "Accelerator count is too large."),
        ("{accelerators: 80GB+}", "Accelerators by memory"),
        ("{cpus: x}", 'The "cpus" field should be either a number or a string "<number>+". Found: \'x\''),
        ("{cpus: [4]}", 'The "cpus" field should be'),
        ("{memory: 0}", 'The "memory" field should be positive. Found: 0'),
        ("{any_of: [{}], ordered: [{}]}", 'Cannot specify both "any_of" and "ordered" in resources.'),
        ("{any_of: [{any_of: []}]}", "'any_of' can't stand inside an alternative."),
        ("{any_of: [{priority: 1}, {priority: 2}]}", "All resources of a task must have the same priority."),
    ],
)
def test_resources_that_make_no_sense_are_refused(resources: str, message: str) -> None:
    told = refusal(f"run: a\nresources: {resources}")
    assert told.startswith("Invalid resources YAML: ")
    assert message in told
    assert told.endswith("(t.yaml, line 2)")


def test_a_mistake_in_an_alternative_has_the_alternatives_line() -> None:
    assert refusal("resources:\n  any_of:\n  - cpus: 4\n  - cpus: four").endswith("(t.yaml, line 4)")


def test_plain_cpus_and_memory_are_consumed_and_a_plus_describes_the_node() -> None:
    assert requests("resources: {cpus: 4, memory: 16}") == [Request(None, 0, 4000, 16384)]
    assert requests("resources: {cpus: 4+, memory: 16+}") == [Request(None, 0, DEFAULT_CPUS, 0)]
    assert requests("resources: {cpus: '0.25', memory: 512MB}") == [Request(None, 0, 250, 512)]
    assert load_task("resources: {cpus: 4}", "t.yaml").cpus_shown == "4"


def test_any_of_and_ordered_go_over_the_base_in_order() -> None:
    for field in ("any_of", "ordered"):
        options = "[{gpus: A:4}, {gpus: [B, C], cpus: 8}, {memory: 1}]"
        assert requests(f"resources: {{cpus: 2, gpus: L4, {field}: {options}}}") == [
            Request("A", 4 * UNIT, 2000),
            Request("B", UNIT, 8000),
            Request("C", UNIT, 8000),
            Request("L4", UNIT, 2000, 1024),
        ]


def test_an_empty_any_of_is_none_and_twins_fall_together() -> None:
    assert requests("resources: {gpus: A, any_of: []}") == [Request("A", UNIT)]
    assert requests("resources: {gpus: A, any_of: [{region: x}, {region: y}]}") == [Request("A", UNIT)]


def test_there_are_at_most_64_alternatives() -> None:
    many = ", ".join(f"{{gpus: [A{n}, B{n}]}}" for n in range(33))
    assert "More than 64 alternatives." in refusal(f"resources: {{any_of: [{many}]}}")
    assert "More than 64 alternatives." in refusal(f"resources: {{any_of: [{'{},' * 65}]}}")


# --- what a cloud has


def test_all_cloud_fields_are_ignored_with_one_warning() -> None:
    task = load_task(
        """
        run: a
        config: {docker: {run_options: x}}
        event_callback: echo
        inputs: {s3://x: 1}
        resources:
          infra: aws
          cloud: aws
          region: us-east-1
          instance_type: p5
          use_spot: true
          disk_size: 100
          ports: [80]
          labels: {a: b}
          autostop: 10
          any_of: [{zone: a}, {region: b}]
        """,
        "t.yaml",
    )
    assert task.warnings == (
        "Ignored, because skyq has no cloud: config, event_callback, inputs, resources.autostop, "
        "resources.cloud, resources.disk_size, resources.infra, resources.instance_type, resources.labels, "
        "resources.ports, resources.region, resources.use_spot, resources.zone.",
    )


def test_a_docker_image_and_a_priority_class_get_their_own_words() -> None:
    task = load_task("resources: {image_id: 'docker:ubuntu', priority_class: high}", "t.yaml")
    image, priority = task.warnings
    assert image.startswith("image_id: docker:ubuntu is not started")
    assert priority.startswith("resources.priority_class is ignored.")
    assert load_task("resources: {image_id: ami-1}", "t.yaml").warnings == (
        "Ignored, because skyq has no cloud: resources.image_id.",
    )


@pytest.mark.parametrize("field", ["service", "pool"])
def test_the_task_of_a_service_or_a_pool_runs_alone_as_with_skypilots_launch(field: str) -> None:
    task = load_task(f"run: serve\n{field}: {{replicas: 2, workers: 1}}", "t.yaml")

    (note,) = task.warnings
    assert task.run == "serve"
    assert note.startswith(f"`{field}` is ignored: skyq runs the task once, as a job")


@pytest.mark.parametrize("field", ["volumes", "volume_mounts", "managed_secrets"])
def test_what_a_job_could_not_do_without_is_refused(field: str) -> None:
    assert f"Field '{field}' is not supported: " in refusal(f"run: a\n{field}: {{}}")


# --- any text

_fields = st.sampled_from(
    [
        "name",
        "num_nodes",
        "run",
        "setup",
        "workdir",
        "envs",
        "secrets",
        "file_mounts",
        "resources",
        "config",
        "foo",
        "1BAD",
    ]
)
_resource_fields = st.sampled_from(
    ["accelerators", "gpus", "cpus", "memory", "any_of", "ordered", "priority", "cloud", "image_id", "bar"]
)
_value = st.recursive(
    st.sampled_from(
        ["H100:4", "4+", "true", "~", "''", "0777", "-1", "1e999", "'a'", "$A", "s3://x", ".5", "H100"]
    ),
    lambda inner: (
        st.lists(inner, max_size=3).map(lambda items: "[" + ", ".join(items) + "]")
        | st.dictionaries(_resource_fields, inner, max_size=3).map(
            lambda items: "{" + ", ".join(f"{key}: {value}" for key, value in items.items()) + "}"
        )
    ),
    max_leaves=6,
)


@patient
@given(st.dictionaries(_fields, _value, max_size=4))
def test_any_fields_make_a_task_or_an_error_in_words(fields: dict[str, str]) -> None:
    try:
        task = load_task("\n".join(f"{key}: {value}" for key, value in fields.items()), "t.yaml")
    except SkyqError as error:
        assert "t.yaml" in str(error)
        return
    assert task.alternatives
    assert all(isinstance(value, str) for value in [*task.envs.values(), *task.secrets.values()])


@patient
@given(st.text())
def test_any_text_makes_a_task_or_an_error_in_words(text: str) -> None:
    is_task_text(text)
    try:
        load_task(text, "t.yaml")
    except SkyqError as error:
        assert "t.yaml" in str(error)


def test_a_git_workdir_has_url_and_ref_as_written():
    task = load_task("workdir: {url: https://x/$WHO, ref: 1.10}\nenvs: {WHO: me}\nrun: x\n", "f")
    assert (task.workdir, task.git) == (None, ("https://x/me", "1.10"))
    assert load_task("workdir: {url: https://x}\nrun: x\n", "f").git == ("https://x", "")
    assert load_task("run: x\n", "f", Overrides(git_url="https://y", git_ref="b")).git == ("https://y", "b")
