"""The verbs: which module of this package each one is, and what it does in one line."""

from __future__ import annotations

VERBS = {
    "exec": ("exec_", "Run a task or a command on a cluster"),
    "launch": ("launch", "Like exec, with the task's setup first"),
    "run": ("run", "A command or a shell at this terminal, with devices"),
    "queue": ("queue", "Show the jobs of a cluster"),
    "logs": ("logs", "Show, follow or fetch the logs of a job"),
    "cancel": ("cancel", "End jobs"),
    "status": ("status", "Show a cluster's nodes: devices in use and free, jobs"),
    "clean": ("clean", "Remove what ended jobs left on disk"),
    "doctor": ("doctor", "Tell what is well here, and what to do about the rest"),
    "add": ("add", "Take more hosts into a cluster"),
    "remove": ("remove", "Take nodes out of a cluster"),
    "drain": ("drain", "Start nothing new on nodes"),
    "resume": ("resume", "Let jobs start again: on drained nodes, or after a pause"),
    "ssh": ("ssh", "A shell on a node, or one command"),
    "wait": ("wait", "Wait until jobs have ended"),
    "rerun": ("rerun", "Submit jobs once more"),
    "hold": ("hold", "Keep waiting jobs from starting"),
    "release": ("release", "Let held jobs start"),
    "pause": ("pause", "Start no job any more; what runs goes on"),
    "config": ("config", "Show or change settings of a cluster"),
    "recover": ("recover", "Make a damaged or deleted queue anew"),
    "down": ("down", "End a cluster: its jobs, its queue, what it has installed"),
    "why": ("why", "Tell why a job waits, or how it ended"),
    "simulate": ("simulate", "Play a list of jobs through the scheduler"),
    "completion": ("completion", "Print what completes skyq's words in a shell"),
}
