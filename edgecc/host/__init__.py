"""This machine: memory, allocator, board, systemd, lock, logs, durable files."""
