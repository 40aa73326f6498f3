"""Names of accelerators."""

from __future__ import annotations

import re
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skyq.core.accelerators import _NAMES, amount_text, canonical, resources_text, spelled
from tests.builders import a_request

PRODUCTS = {
    "NVIDIA H100 80GB HBM3": "H100",
    "NVIDIA H100 PCIe": "H100",
    "NVIDIA H100 NVL": "H100-NVL",
    "nvidia_h100_80gb_hbm3": "H100",
    "NVIDIA H200": "H200",
    "NVIDIA H20": "H20",
    "NVIDIA H800": "H800",
    "NVIDIA B200": "B200",
    "NVIDIA GB200": "GB200",
    "NVIDIA GH200 480GB": "GH200",
    "NVIDIA A100-SXM4-80GB": "A100-80GB",
    "NVIDIA A100 80GB PCIe": "A100-80GB",
    "NVIDIA A100-SXM4-40GB": "A100",
    "A100-PCIE-40GB": "A100",
    "NVIDIA A100-SXM-64GB": "A100-64GB",
    "NVIDIA A100-SXM4-40GB MIG 1g.5gb": "A100-1g.5gb",
    "NVIDIA A800-SXM4-80GB": "A800",
    "NVIDIA A10G": "A10G",
    "NVIDIA A10": "A10",
    "NVIDIA A30": "A30",
    "NVIDIA A40": "A40",
    "NVIDIA L4": "L4",
    "NVIDIA L40": "L40",
    "NVIDIA L40S": "L40S",
    "Tesla V100-SXM2-16GB": "V100",
    "Tesla V100-SXM2-32GB": "V100-32GB",
    "Tesla V100-PCIE-32GB": "V100-32GB",
    "Tesla V100S-PCIE-32GB": "V100S",
    "Tesla P100-PCIE-16GB": "P100",
    "Tesla T4": "T4",
    "Tesla K80": "K80",
    "Tesla M60": "M60",
    "NVIDIA T4G": "T4g",
    "NVIDIA GeForce RTX 4090": "RTX4090",
    "NVIDIA GeForce RTX 4090 D": "RTX4090D",
    "NVIDIA GeForce RTX 3080 Ti": "RTX3080Ti",
    "NVIDIA GeForce RTX 4080 SUPER": "RTX4080-SUPER",
    "NVIDIA GeForce RTX 3070 Laptop GPU": "RTX3070-Laptop",
    "GeForce GTX 1080 Ti": "GTX1080Ti",
    "NVIDIA RTX A6000": "RTXA6000",
    "Quadro RTX 6000": "RTX6000",
    "NVIDIA RTX 6000 Ada Generation": "RTX6000-Ada",
    "NVIDIA RTX PRO 6000 Blackwell Server Edition": "RTXPRO6000",
    "NVIDIA TITAN RTX": "TITAN-RTX",
    "NVIDIA TITAN V": "TITAN-V",
    "AMD Instinct MI300X OAM": "MI300X",
    "AMD Instinct MI210": "MI210",
    "Ascend 910B3": "910B",
    "910B": "910B",
    "Ascend 910": "Ascend-910",
    "NVIDIA Graphics Device": "Device",
    "NVIDIA 2060": "GPU2060",
    "h100": "H100",
    "rtx4090": "RTX4090",
    "a100-80gb": "A100-80GB",
    "显卡": "Unknown",
    "": "Unknown",
}


@pytest.mark.parametrize("product", PRODUCTS)
def test_a_product_has_the_name_that_skypilot_gives_it(product):
    assert canonical(product) == PRODUCTS[product]


@pytest.mark.parametrize("name", _NAMES.split())
def test_a_known_name_is_its_own_name_in_any_case(name):
    assert canonical(name) == canonical(name.lower()) == spelled(name.upper()) == name


KNOWN = (
    "NVIDIA Tesla GeForce RTX GTX PRO Ti D A100 V100 SXM4 PCIe MIG 16GB 40GB 80GB 4090 A6000 Ascend 910B - _"
)
WORDS = st.sampled_from(KNOWN.split()) | st.text(string.printable, max_size=6) | st.text(max_size=6)


@given(st.lists(WORDS, max_size=8))
def test_whatever_a_vendor_prints_has_a_name_that_can_be_typed(words):
    for raw in (" ".join(words), "".join(words), "-".join(words)):
        name = canonical(raw)
        assert re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name)
        assert canonical(name) == name


@pytest.mark.parametrize(
    ("num_nodes", "requests", "cpus_shown", "text"),
    [
        (1, [a_request(4)], "", "1x[H100:4]"),
        (2, [a_request(0.5)], "", "2x[H100:0.5]"),
        (1, [a_request(0.0001, "h100")], "8", "1x[H100:0.0001]"),
        (1, [a_request(8, "A100"), a_request(4)], "", "1x[A100:8|H100:4]"),
        (1, [a_request(1), a_request(1, cpus=8)], "", "1x[H100:1]"),
        (1, [a_request(2, "gpu")], "", "1x[GPU:2]"),
        (1, [a_request(1, "MyChip")], "", "1x[MyChip:1]"),
        (1, [a_request(0)], "", "1x[CPU:1+]"),
        (3, [a_request(0, cpus=4)], "4+", "3x[CPU:4+]"),
    ],
)
def test_the_resources_column(num_nodes, requests, cpus_shown, text):
    assert resources_text(num_nodes, requests, cpus_shown) == text


@given(st.integers(1, 10**7))
def test_an_amount_reads_back_as_itself(amount):
    assert round(float(amount_text(amount)) * 10_000) == amount
