"""Notifications to systemd for a service of Type=notify; does nothing without systemd."""

import os
import socket


def notify(state: str) -> None:
    """sd_notify(3): 'READY=1', 'WATCHDOG=1', 'STOPPING=1'."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
        channel.connect("\0" + address[1:] if address.startswith("@") else address)
        channel.send(state.encode())
