"""pools.yaml."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from skyq.core.errors import InventoryError, SkyqError
from skyq.core.host import Host, Pool
from skyq.core.inventory import load_inventory

# Other work on the machine makes no test fail.
patient = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])


def refusal(text: str) -> str:
    with pytest.raises(InventoryError) as error:
        load_inventory(text, "pools.yaml")
    assert str(error.value).startswith("Invalid inventory: ")
    return str(error.value)


def hosts(text: str) -> tuple[Host, ...]:
    return load_inventory(f"p: {{hosts: [{text}]}}", "pools.yaml")["p"].hosts


def test_skypilots_file_is_read_as_it_is() -> None:
    text = """
    lab:
      user: ubuntu
      identity_file: ~/.ssh/k
      password: xxx
      hosts:
        - 1.2.3.4
        - ip: 5.6.7.8
          user: bob
          identity_file: k2
          password: yyy
    other:
      hosts: [gpu-box]
    """
    assert load_inventory(text, "pools.yaml") == {
        "lab": Pool("lab", (Host("1.2.3.4", "ubuntu", "~/.ssh/k"), Host("5.6.7.8", "bob", "k2"))),
        "other": Pool("other", (Host("gpu-box"),)),
    }


def test_a_host_declares_what_it_has() -> None:
    text = (
        "{ip: a, port: 2222, internal_ip: 10.0.0.1, accelerators: {H100: 4, L4: 0}, cpus: 0.5, memory: 64GB}"
    )
    assert hosts(text) == (Host("a", None, None, 2222, "10.0.0.1", {"H100": 4, "L4": 0}, 500, 65536),)
    assert hosts("{ip: a, accelerators: {}}")[0].accelerators == {}
    assert hosts("{ip: a, accelerators: , cpus: , memory: , user: }") == (Host("a"),)


def test_a_port_of_the_pool_is_the_default_of_its_hosts() -> None:
    pools = load_inventory("p: {port: 2222, hosts: [a, {ip: b, port: 22}]}", "pools.yaml")
    assert [host.port for host in pools["p"].hosts] == [2222, 22]


@pytest.mark.parametrize(
    "ip", ["localhost", "127.0.0.1", "::1", "fe80::1%eth0", "my_host.lan", "10.0.0.1", "1.50"]
)
def test_addresses_names_and_aliases_are_hosts(ip: str) -> None:
    assert hosts(f"{{ip: '{ip}'}}") == (Host(ip),)
    assert load_inventory(f"p:\n  hosts:\n    - {ip}", "pools.yaml")["p"].hosts == (Host(ip),)


def test_an_empty_file_has_no_pools() -> None:
    assert load_inventory("", "pools.yaml") == {}
    assert load_inventory("# nothing yet", "pools.yaml") == {}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("- a", "The file should be a mapping"),
        ("a", "The file should be a mapping"),
        ("p: [a]", "Pool 'p' should have `hosts:`, a list with at least one host. (pools.yaml, line 1)"),
        ("p:", "Pool 'p' should have `hosts:`"),
        ("p: {hosts: []}", "Pool 'p' should have `hosts:`"),
        ("p: {hosts: a}", "Pool 'p' should have `hosts:`"),
        ("p: {hosts: [{user: bob}]}", "A host should be a name, or a mapping with `ip:`."),
        ("p: {hosts: [~]}", "A host should be a name, or a mapping with `ip:`."),
        ("p: {hosts: [[a]]}", "Invalid ip [...]."),
        ("p: {hosts: [true]}\np: {hosts: [b]}", "Duplicate key 'p'"),
        ("p: {hosts: [a, b, A]}", "Host 'A' stands twice in pool 'p'. Remove one."),
        ("p: {hosts: [{ip: a, port: 22}, {ip: a, port: 22}]}", "Host 'a' stands twice"),
        ("bad name: {hosts: [a]}", "Invalid pool name 'bad name'."),
        ("-p: {hosts: [a]}", "Invalid pool name '-p'."),
        ("$(touch x): {hosts: [a]}", "Invalid pool name"),
        ("local: {hosts: [a]}", "Pool 'local' is this machine: one host, `ip: localhost`."),
        ("local: {hosts: [localhost, 127.0.0.1]}", "Pool 'local' is this machine"),
        ("p: {hosts: [{ip: a, port: '22'}]}", "Invalid port '22'. Give a number from 1 to 65535."),
        ("p: {port: 65536, hosts: [a]}", "Invalid port 65536."),
        ("p: {hosts: [{ip: a, port: true}]}", "Invalid port True."),
        ("p: {hosts: [{ip: a, accelerators: H100}]}", "accelerators should be a mapping"),
        ("p: {hosts: [{ip: a, accelerators: {H100: 0.5}}]}", "whole number of devices. Found: 0.5"),
        ("p: {hosts: [{ip: a, accelerators: {H100: -1}}]}", "whole number of devices. Found: -1"),
        ("p: {hosts: [{ip: a, accelerators: {H100: }}]}", "whole number of devices. Found: None"),
        ("p: {hosts: [{ip: a, accelerators: {H100: true}}]}", "'H100' should be a whole number"),
        ("p: {hosts: [{ip: a, accelerators: {H100: 10000}}]}", "'H100' should be a whole number"),
        ("p: {hosts: [{ip: a, accelerators: {H 100: 1}}]}", "Invalid accelerator name 'H 100'."),
        ("p: {hosts: [{ip: a, accelerators: {H100: 1, h100: 1}}]}", "Accelerator 'h100' stands twice"),
        ("p: {hosts: [{ip: a, cpus: 4+}]}", "cpus of a host should be a plain number. Found: '4+'"),
        ("p: {hosts: [{ip: a, memory: 64GB+}]}", "memory of a host should be a plain number."),
        ("p: {hosts: [{ip: a, memory: x}]}", 'The "memory" field should be either a number'),
        ("p: {hosts: [{ip: a, cpus: -1}]}", 'The "cpus" field should be positive. Found: -1'),
        ("p: {hosts: [bob@a]}", "Write {ip: host, user: name}."),
    ],
)
def test_what_is_off_is_told_with_its_place(text: str, message: str) -> None:
    assert message in refusal(text)


@pytest.mark.parametrize(
    "value",
    [
        "-oProxyCommand=x",
        "a b",
        "a\\tb",
        "a\\nb",
        "a\\x1b[2J",
        "$(touch x)",
        "a;b",
        "`id`",
        "a'b",
        "a|b",
        "",
        "a" * 300,
    ],
)
def test_nothing_that_ssh_or_a_shell_could_misread_is_a_host_or_user(value: str) -> None:
    assert "Invalid ip " in refusal(f'p: {{hosts: ["{value}"]}}')
    for field in ("user", "internal_ip"):
        message = refusal(f'p: {{hosts: [{{ip: a, {field}: "{value}"}}]}}')
        assert f"Invalid {field} " in message
        assert message.isprintable()


@pytest.mark.parametrize("value", ["-F", "a\\nb", "a\\0b"])
def test_an_identity_file_is_a_path(value: str) -> None:
    refusal(f'p: {{identity_file: "{value}", hosts: [a]}}')


def test_a_mistake_has_the_line_of_the_host_or_of_the_pools_default() -> None:
    assert refusal("p:\n  hosts:\n    - a\n    - -b").endswith("(pools.yaml, line 4)")
    assert refusal("p:\n  user: -b\n  hosts:\n    - a").endswith("(pools.yaml, line 2)")
    assert refusal("p:\n  user: b\n  hosts:\n    - ip: a\n      user: -b").endswith("(pools.yaml, line 5)")


def test_other_keys_are_noted_and_passwords_are_dropped() -> None:
    host = "{ip: a, acelerators: {H100: 4}, password: hunter2}"
    text = f"p:\n  rack: 7\n  password: hunter2\n  hosts:\n    - {host}"
    pool = load_inventory(text, "pools.yaml")["p"]
    assert pool.notes == (
        "pools.yaml, line 2: 'rack' is not used.",
        "pools.yaml, line 5: 'acelerators' is not used. Did you mean 'accelerators'?",
    )
    assert "hunter2" not in repr(pool)


@pytest.mark.parametrize("ip", ["localhost", "127.0.0.1"])
def test_local_is_this_machine(ip: str) -> None:
    pools = load_inventory(f"local: {{hosts: [{{ip: {ip}, accelerators: {{H100: 4}}}}]}}", "pools.yaml")
    assert pools["local"].hosts[0].accelerators == {"H100": 4}


_keys = st.sampled_from(
    [
        "ip",
        "user",
        "port",
        "identity_file",
        "internal_ip",
        "accelerators",
        "cpus",
        "memory",
        "password",
        "hosts",
        "x",
    ]
)
_value = st.recursive(
    st.sampled_from(["a", "-a", "localhost", "22", "'22'", "~", "true", "4+", "1e999", "0.5", "''", "H100"]),
    lambda inner: (
        st.lists(inner, max_size=3).map(lambda items: "[" + ", ".join(items) + "]")
        | st.dictionaries(_keys, inner, max_size=4).map(
            lambda items: "{" + ", ".join(f"{key}: {value}" for key, value in items.items()) + "}"
        )
    ),
    max_leaves=8,
)


@patient
@given(
    st.dictionaries(_keys, _value, max_size=4), st.lists(_value, max_size=3), st.sampled_from(["p", "local"])
)
def test_any_fields_make_pools_or_an_error_in_words(
    fields: dict[str, str], some: list[str], name: str
) -> None:
    lines = [f"  {key}: {value}" for key, value in {**fields, "hosts": f"[{', '.join(some)}]"}.items()]
    try:
        load_inventory("\n".join([f"{name}:", *lines]), "pools.yaml")
    except SkyqError as error:
        assert "pools.yaml" in str(error)


@patient
@given(st.text())
def test_any_text_makes_pools_or_an_error_in_words(text: str) -> None:
    try:
        load_inventory(text, "pools.yaml")
    except SkyqError as error:
        assert "pools.yaml" in str(error)
