"""Names, accelerators, CPUs and memory as people type them."""

from __future__ import annotations

import subprocess
import sys

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from skyq.core.errors import SkyqError, TaskError
from skyq.core.model import DEFAULT_CPUS, UNIT, Recovery, Request, Task
from skyq.core.request import (
    MAX_ENV,
    Overrides,
    apply,
    check_name,
    command_task,
    least,
    parse_accelerators,
    parse_cpus,
    parse_memory,
    parse_recovery,
    pool_of,
)

# Other work on the machine makes no test fail.
patient = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])


@pytest.mark.parametrize("name", ["a", "sky-cmd", "job2", "a.b_c-d", "a--b", "0", "x" * 63])
def test_a_name_of_letters_digits_and_single_marks_is_taken(name: str) -> None:
    assert check_name(name) == name


@pytest.mark.parametrize(
    "name",
    [
        "",
        "bad name",
        "-a",
        "a-",
        "a---b",
        "x" * 64,
        "a\n",
        "a\0",
        "$(touch x)",
        "a/b",
        "ä",
        "a;b",
        "../a",
        "\x1b[2J",
    ],
)
def test_any_other_name_is_refused_without_raw_control_characters(name: str) -> None:
    with pytest.raises(TaskError, match=r"^Invalid task name ") as error:
        check_name(name)
    assert str(error.value).isprintable()


@pytest.mark.parametrize(
    ("value", "choices"),
    [
        ("H100", [("H100", UNIT)]),
        ("H100:4", [("H100", 4 * UNIT)]),
        ("H100:0.5", [("H100", 5000)]),
        ("h100:0.0001", [("h100", 1)]),
        ("H100:2.0", [("H100", 2 * UNIT)]),
        (" H100 : 4 ", [("H100", 4 * UNIT)]),
        ("A100-80GB:8", [("A100-80GB", 8 * UNIT)]),
        ("nvidia:H100:2", [("H100", 2 * UNIT)]),
        ("nvidia:H100", [("H100", UNIT)]),
        ("4090:2", [("4090", 2 * UNIT)]),
        ({"H100": 4}, [("H100", 4 * UNIT)]),
        ({"H100": 0.1 + 0.2}, [("H100", 3000)]),
        ({"H100": None}, [("H100", UNIT)]),
        ({"H100:4": None, "A100:8": None}, [("H100", 4 * UNIT), ("A100", 8 * UNIT)]),
        ({"H100": 4, "A100": 8}, [("H100", 4 * UNIT), ("A100", 8 * UNIT)]),
        (["A:4", "B:8"], [("A", 4 * UNIT), ("B", 8 * UNIT)]),
        ({"B:8", "A:4"}, [("A", 4 * UNIT), ("B", 8 * UNIT)]),
        (["A:1", "A"], [("A", UNIT)]),
        (None, []),
        ("none", []),
        ({}, []),
    ],
)
def test_every_form_of_accelerators_becomes_alternatives_in_order(
    value: object, choices: list[object]
) -> None:
    assert list(parse_accelerators(value)) == choices


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("H100:0", "Accelerator count must be a positive number. Got: 'H100': 0."),
        ("H100:-1", "Accelerator count must be a positive number. Got: 'H100': -1."),
        ({"H100": 0}, "Accelerator count must be a positive number. Got: 'H100': 0."),
        ({"H100": "x"}, "Accelerator count must be a positive number. Got: 'H100': 'x'."),
        ({"H100": True}, "Accelerator count must be a positive number. Got: 'H100': True."),
        ({"H100": float("nan")}, "Accelerator count must be a positive number. Got: 'H100': nan."),
        ({"H100": float("inf")}, "Accelerator count is too large. Got: 'H100': inf."),
        ({"H100": 10**5000}, "Accelerator count is too large. Got: 'H100': a huge number."),
        ("H100:1e300", "Accelerator count is too large. Got: 'H100': 1e300."),
        ("H100:1.5", "above 1 must be a whole number. Got: 'H100': 1.5. Ask for H100:1 or H100:2."),
        ("H100:0.00001", "more than 4 decimals. Got: 'H100': 0.00001. The nearest is H100:0.0001."),
        ("H100:0.33333", "The nearest is H100:0.3333."),
        ({"H100": 1e-5}, "The nearest is H100:0.0001."),
        ("H100:1e-300", "The nearest is H100:0.0001."),
        *[
            (text, f'The "accelerators" field as a str should be <name> or <name>:<cnt>. Found: {text!r}')
            for text in (
                "H100:x",
                "H100:",
                ":4",
                "",
                "H100:nan",
                "H100:inf",
                "H100:1:2",
                "H100:0777",
                "H100:1_0",
            )
        ],
        (5, 'The "accelerators" field as a str should be'),
        ([{"H100": 4}], "Found: {...}"),
        ({5: 4}, "Found: 5"),
        ("80GB+", "Accelerators by memory ('80GB+') need a cloud's catalog"),
        ("nvidia:80GB:2", "Accelerators by memory ('80GB')"),
        ("16+", "Accelerators by memory ('16+')"),
        ("RTX 4090:1", "Invalid accelerator name 'RTX 4090'."),
        ("$(touch x)", "Invalid accelerator name"),
        ("-H100", "Invalid accelerator name"),
        ("H100\n", "H100"),
        ([f"A{n}" for n in range(65)], "65 accelerators to choose from; the most is 64."),
    ],
)
def test_accelerators_that_cannot_be_given_are_refused_with_the_reason(value: object, message: str) -> None:
    if value == "H100\n":  # blanks around a name are nobody's mistake
        assert parse_accelerators(value) == (("H100", UNIT),)
        return
    with pytest.raises(TaskError) as error:
        parse_accelerators(value)
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("value", "parsed"),
    [
        ("4", (4000, "4")),
        (4, (4000, "4")),
        (0.5, (500, "0.5")),
        ("4+", (0, "4+")),
        (" 4+ ", (0, "4+")),
        ("1.125", (1125, "1.125")),
    ],
)
def test_plain_cpus_are_consumed_and_cpus_with_a_plus_are_not(value: object, parsed: object) -> None:
    assert parse_cpus(value) == parsed


@pytest.mark.parametrize(
    ("value", "megabytes"),
    [
        ("16", 16384),
        (16, 16384),
        ("16GB", 16384),
        ("16 gb", 16384),
        ("16+", 0),
        ("16GB+", 0),
        (0.1, 103),
        ("512MB", 512),
        ("1TB", 1048576),
    ],
)
def test_memory_is_in_gb_and_rounded_up_to_mb(value: object, megabytes: int) -> None:
    assert parse_memory(value) == megabytes


@pytest.mark.parametrize(
    "value", ["x", "", "+", "4++", "4+4", "0777", "12:30", True, None, [4], "nan", "4GB4"]
)
def test_cpus_and_memory_that_are_no_number_are_refused_in_skypilots_words(value: object) -> None:
    for parse, name in ((parse_cpus, "cpus"), (parse_memory, "memory")):
        with pytest.raises(TaskError) as error:
            parse(value)
        assert f'The "{name}" field should be either a number or a string "<number>+". Found: ' in str(
            error.value
        )


@pytest.mark.parametrize("value", [0, -1, "-4", "1e300", float("inf"), float("nan")])
def test_cpus_and_memory_must_be_positive_and_thinkable(value: object) -> None:
    for parse in (parse_cpus, parse_memory):
        with pytest.raises(TaskError, match=r"should be positive|is too large"):
            parse(value)


def test_cpus_have_no_unit_and_at_most_three_decimals() -> None:
    with pytest.raises(TaskError, match="should be either a number"):
        parse_cpus("4GB")
    with pytest.raises(TaskError, match=r"more than 3 decimals. Found: 0.0001. The nearest is 0.001"):
        parse_cpus(0.0001)


def test_a_bare_command_is_a_task_named_sky_cmd() -> None:
    task = command_task('echo "a  b" && ls')
    assert task == Task(name="sky-cmd", run='echo "a  b" && ls')
    assert task.alternatives == (Request(None, 0, DEFAULT_CPUS, 0),)


def test_the_command_line_dresses_a_bare_command() -> None:
    task = command_task("true", Overrides("job2", "H100:0.5", "4", "16", 2, 7, {"A": "1"}, {"S": "2"}, "~/x"))
    assert (task.name, task.num_nodes, task.priority, task.workdir) == ("job2", 2, 7, "~/x")
    assert task.alternatives == (Request("H100", 5000, 4000, 16384),)
    assert (task.envs, task.secrets, task.cpus_shown) == ({"A": "1"}, {"S": "2"}, "4")


def test_a_blank_command_leaves_nothing_to_run() -> None:
    assert command_task("  \n").run is None


@pytest.mark.parametrize("command", ["a\0b", "a\udc80b", "x" * (1 << 20 | 1)])
def test_a_command_that_no_file_can_hold_is_refused(command: str) -> None:
    with pytest.raises(TaskError, match=r"^The command "):
        command_task(command)


def test_overrides_go_to_every_alternative_and_twins_fall_together() -> None:
    task = Task(alternatives=(Request("A", UNIT, 1000, 5), Request("B", UNIT, 2000, 6)))
    assert apply(task, Overrides(cpus="4+", memory="1")).alternatives == (
        Request("A", UNIT, DEFAULT_CPUS, 1024),
        Request("B", UNIT, DEFAULT_CPUS, 1024),
    )
    assert apply(task, Overrides(cpus="4", memory="1", gpus="none")).alternatives == (
        Request(None, 0, 4000, 1024),
    )
    assert apply(task, Overrides(gpus="C:2")).alternatives == (
        Request("C", 2 * UNIT, 1000, 5),
        Request("C", 2 * UNIT, 2000, 6),
    )


def test_an_untouched_task_comes_back_as_it_was() -> None:
    task = Task(name="a", run="true", cpus_shown="4+", envs={"A": "1"}, alternatives=(Request("A", 5),))
    assert apply(task, Overrides()) == task


def test_envs_of_the_command_line_win_over_the_files() -> None:
    task = apply(Task(envs={"A": "1", "B": "2"}), Overrides(envs={"B": "3"}))
    assert task.envs == {"A": "1", "B": "3"}


@pytest.mark.parametrize("key", ["1BAD", "", "A-B", "A B", "A\n", "ÄÖ", "A=B", "\x1b[2J"])
def test_a_bad_env_name_is_refused(key: str) -> None:
    with pytest.raises(TaskError, match=r"^Invalid env key: ") as error:
        command_task("true", Overrides(envs={key: "hunter2"}))
    assert "hunter2" not in str(error.value)
    assert str(error.value).isprintable()


def test_a_bad_env_name_is_shown_as_typed() -> None:
    with pytest.raises(TaskError, match=r"^Invalid env key: 1BAD"):
        command_task("true", Overrides(envs={"1BAD": ""}))


@pytest.mark.parametrize("value", ["hunter2\0", "hunter2\udc80"])
def test_an_env_value_that_no_process_can_get_is_refused_without_showing_it(value: str) -> None:
    for overrides in (Overrides(envs={"A": value}), Overrides(secrets={"A": value})):
        with pytest.raises(TaskError, match=r"^The value of A ") as error:
            command_task("true", overrides)
        assert "hunter2" not in str(error.value)


def test_envs_and_secrets_have_a_limit_together() -> None:
    half = "ä" * (MAX_ENV // 4)
    command_task("true", Overrides(envs={"A": half}, secrets={"B": half[4:]}))
    with pytest.raises(TaskError, match=r"bytes; the most is 131072\. Use a file\."):
        command_task("true", Overrides(envs={"A": half}, secrets={"B": half}))


@pytest.mark.parametrize("count", [0, -1, 10**9, True])
def test_the_number_of_nodes_is_a_positive_int(count: int) -> None:
    with pytest.raises(TaskError, match=f"^num_nodes should be a positive int. Got: {count}$"):
        command_task("true", Overrides(num_nodes=count))


def test_a_priority_outside_a_thousand_is_refused() -> None:
    assert command_task("true", Overrides(priority=-1000)).priority == -1000
    with pytest.raises(TaskError, match=r"from -1000 to 1000\. Got: 1001"):
        command_task("true", Overrides(priority=1001))


def test_secrets_are_not_in_the_repr_of_overrides_or_task() -> None:
    overrides = Overrides(secrets={"TOKEN": "hunter2"})
    assert "hunter2" not in repr(overrides) + repr(command_task("true", overrides))


def test_the_fast_path_imports_neither_yaml_nor_pydantic() -> None:
    code = (
        "import sys; import skyq.core.request, skyq.core.dotenv;"
        "print({'yaml', 'pydantic', 'pydantic_core', 'decimal', 'pathlib', 'json'} & sys.modules.keys())"
    )
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "set()"


_scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=12)
_texts = st.from_regex(r"\A[A-H1-9n: .+-]{0,6}(:[-0-9.e+]{0,6})?\Z") | st.text(max_size=20)


@patient
@given(_texts | _scalars | st.lists(_texts) | st.dictionaries(_texts | _scalars, _scalars) | st.sets(_texts))
def test_any_accelerators_parse_to_something_possible_or_fail_in_words(value: object) -> None:
    try:
        choices = parse_accelerators(value)
    except SkyqError as error:
        assert str(error)
        return
    for name, amount in choices:
        assert name.isascii()
        assert amount > 0
        assert amount < UNIT or amount % UNIT == 0


@patient
@given(_texts | _scalars)
def test_any_cpus_and_memory_parse_or_fail_in_words(value: object) -> None:
    for parse in (parse_cpus, parse_memory):
        try:
            parse(value)
        except SkyqError as error:
            assert str(error)


@patient
@given(st.integers(1, UNIT - 1))
def test_each_amount_of_a_device_survives_being_written_and_read(amount: int) -> None:
    for value in (f"H100:{amount / UNIT:.4f}", {"H100": amount / UNIT}):
        assert parse_accelerators(value) == (("H100", amount),)


@pytest.mark.parametrize(
    ("infra", "pool"),
    [("ssh/lab", "lab"), ("SSH", "*"), ("ssh", "*"), ("aws", None), ("aws/us-east-1", None), (None, None)],
)
def test_the_pool_that_infra_names(infra: str | None, pool: str | None) -> None:
    assert pool_of(infra) == pool


def test_what_a_node_should_have_in_all() -> None:
    assert least("4+", "16+") == (4000, 16384)
    assert least(0.5, "512MB") == (500, 512)
    assert least(None, None) == (0, 0)


@pytest.mark.parametrize(
    "value, recovery",
    [
        ("FAILOVER", Recovery(requeue=True)),
        (" none ", Recovery()),
        ({"strategy": "none", "max_restarts_on_errors": 3}, Recovery(retries=3)),
        ({"max_restarts_on_errors": 3}, Recovery(retries=3, requeue=True)),
        ({"recover_on_exit_codes": 33}, Recovery(codes=(33,), requeue=True)),
        ({"strategy": None, "recover_on_exit_codes": [33, 34]}, Recovery(codes=(33, 34), requeue=True)),
    ],
)
def test_what_job_recovery_asks_for(value: object, recovery: Recovery) -> None:
    assert parse_recovery(value) == recovery


@pytest.mark.parametrize(
    "value",
    [
        *(3, True, [], {"strategy": 3}, {"max": 3}),
        *({"max_restarts_on_errors": wrong} for wrong in (-1, "3", True, 1001)),
        *({"recover_on_exit_codes": [wrong]} for wrong in (0, "33", 256)),
    ],
)
def test_a_job_recovery_that_means_nothing_is_refused(value: object) -> None:
    with pytest.raises(TaskError):
        parse_recovery(value)
