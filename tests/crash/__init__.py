"""What becomes of the queue when a process of skyq dies, or the disk fails, at each of its system calls."""
