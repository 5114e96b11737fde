"""This machine: memory, allocator, board, watchdog, systemd, lock, logs, durable files."""
