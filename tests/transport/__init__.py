"""Connections, against a real sshd of the tests' own."""
