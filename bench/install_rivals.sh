#!/usr/bin/env bash
# What `bench versus` compares skyq with: Slurm and task-spooler from Debian, HyperQueue from PyPI. As root, on
# Debian or Ubuntu. No daemon is started or left enabled; the bench starts its own, in a folder of its own.
set -eu
cd "$(dirname "$0")"
exec </dev/null
export DEBIAN_FRONTEND=noninteractive RUNLEVEL=1
apt-get -qq update
apt-get -qq install -y --no-install-recommends slurmctld slurmd slurm-client munge task-spooler >/dev/null
if command -v systemctl >/dev/null; then
    systemctl -q disable slurmctld slurmd munge 2>/dev/null || true
fi
python3 -m venv .rivals
.rivals/bin/pip -q install hyperqueue==0.27.0
