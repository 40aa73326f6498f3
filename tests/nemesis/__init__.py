"""Random jobs and random faults; then skyq is compared with what was seen outside it."""
