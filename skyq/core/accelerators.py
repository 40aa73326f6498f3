"""The names of accelerators: from what a vendor's tool prints to what a user types, and back to the screen.

Standard library only and Python 3.8: nodes use it too. It detects nothing.
"""

from __future__ import annotations

import functools
import re

from skyq.core.model import UNIT, Request

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import List, Sequence

_NAMES = """
    GB300 GB200 B300 B200 B100 GH200 H800 H200 H200-NVL H100 H100-NVL H20 A800 A100-80GB A100 A40 A30 A16 A10G
    A10 A2 L40S L40 L20 L4 L2 V100-32GB V100S V100 P100 P40 P4 T4g T4 M60 M40 K80 K40
    RTXPRO6000 RTX6000-Ada RTX5000-Ada RTX4000-Ada RTX6000 RTX5000 RTX4000
    RTXA6000 RTXA5500 RTXA5000 RTXA4500 RTXA4000 RTXA2000
    RTX5090 RTX5080 RTX5070Ti RTX5070 RTX4090D RTX4090 RTX4080 RTX4070Ti RTX4070 RTX4060Ti RTX4060
    RTX3090Ti RTX3090 RTX3080Ti RTX3080 RTX3070Ti RTX3070 RTX3060Ti RTX3060 RTX2080Ti RTX2080 RTX2070
    GTX1080Ti GTX1080 GTX1070 TITAN-RTX TITAN-V TITAN-Xp
    MI325X MI300X MI300A MI250X MI250 MI210 MI100 910B GPU
"""
_SPELLED = {name.lower(): name for name in _NAMES.split()}
"""How SkyPilot's catalog writes a name. One that is missing here is as good, and keeps the case it has."""

# Patterns stay text: only who looks at devices has them compiled.
_NOISE = (
    r"(?i)NVIDIA|Tesla|GeForce|Quadro|Graphics|Generation|Blackwell|Server|Workstation|Edition|GPU|MIG|nvgpu"
    r"|AMD|Instinct|SXM\d?|PCIE?|OAM|DGXS|FHHL|HBM\d?e?"
)
"""Words that say who made it or how it is plugged in."""

_SIZE = r"(?i)\d+GB"
_COMMON_SIZE = {"A100": "40GB", "V100": "16GB"}
"""Sold with two sizes of memory; the other one is part of the name. Everywhere else the size is noise."""

_ASCEND = r"(?i)(Ascend-?)?910B\d?"


def canonical(raw: str) -> str:
    """SkyPilot's name for a product, as a user types it: "NVIDIA A100-SXM4-80GB" is "A100-80GB".

    Never fails: a product that nobody has heard of keeps its words, joined by dashes.
    """
    words = re.findall(r"[A-Za-z0-9]+(?:\.[A-Za-z0-9]+)*", raw)
    telling = [word for word in words if not re.fullmatch(_NOISE, word)]
    name = _joined(_without_size(telling) or words[:1])
    if re.fullmatch(_ASCEND, name):
        return "910B"
    if not name[:1].isalpha():  # YAML reads bare numbers, a request reads "80GB" as an amount of memory
        return "GPU" + name if name else "Unknown"
    return spelled(name)


def _without_size(words: Sequence[str]) -> List[str]:
    common = [size for word, size in _COMMON_SIZE.items() if word in map(str.upper, words)]
    return [
        word.upper() if re.fullmatch(_SIZE, word) else word
        for word in words
        if not re.fullmatch(_SIZE, word) or (common and word.upper() not in common)
    ]


def _joined(words: Sequence[str]) -> str:
    """RTX 4090 is RTX4090, RTX A6000 is RTXA6000, RTX 3080 Ti is RTX3080Ti; all else gets dashes."""
    name = "-".join(words)
    name = re.sub(r"\b(RTX|GTX)-(?:(PRO)-)?(?=A?\d)", r"\1\2", name, flags=re.IGNORECASE)
    return re.sub(r"(?<=\d{4})-(Ti|D)\b", r"\1", name, flags=re.IGNORECASE)


def amount_text(amount: int) -> str:
    """An amount of devices for people: "4", "0.5"."""
    return "%d" % (amount // UNIT) if amount % UNIT == 0 else ("%.4f" % (amount / UNIT)).rstrip("0")


def spelled(name: str) -> str:
    """A name as the user typed it, in SkyPilot's spelling where that differs by case only: h100 is H100."""
    return _SPELLED.get(name.lower(), name)


def resources_text(num_nodes: int, alternatives: Sequence[Request], cpus_shown: str = "") -> str:
    """The RESOURCES column: "2x[H100:0.5]", "1x[CPU:1+]"; before the start "1x[A100:8|H100:4]".

    `cpus_shown` is the cpus field as written, for a job without devices.
    """
    texts = [_devices_text(request) or "CPU:%s" % (cpus_shown or "1+") for request in alternatives]
    return "%dx[%s]" % (num_nodes, "|".join(dict.fromkeys(texts)))


@functools.lru_cache(maxsize=1024)
def _devices_text(request: Request) -> str:
    if not request.accelerator:
        return ""
    return "%s:%s" % (spelled(request.accelerator), amount_text(request.amount))
