"""The pure middle: no clock, disk, process, network or randomness."""
