"""Daemon and learner under the restrictions of the shipped unit: they hold, and nothing is missing.

systemd sets them at boot; confined.py sets the same ones where it does not run.
"""

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

from support.datasets import Digits
from support.live_node import MakeNode
from support.patience import DEADLINE, run_command
from support.shipped import needs

CONFINED = str(Path(__file__).parents[2] / "support/confined.py")
TRIED = ("reboot", "mount", "new namespace", "ptrace", "keyring", "new user", "packets", "raw",
         "set-uid file", "real time")
TRIES = """
import ctypes, json, os, platform, socket
KEYCTL = {"x86_64": 250, "aarch64": 219}[platform.machine()]
libc = ctypes.CDLL(None, use_errno=True)
def errno_of(call, *args):
    return ctypes.get_errno() if call(*args) == -1 else 0
def failure_of(function, *args):
    try:
        function(*args)
    except OSError as error:
        return error.errno
    return 0
open("mine", "w").write("x")
errors = {
    "reboot": errno_of(libc.reboot, 0),
    "mount": errno_of(libc.mount, b"none", b"/mnt", b"tmpfs", 0, None),
    "new namespace": errno_of(libc.unshare, 0x10000000),
    "ptrace": errno_of(libc.ptrace, 0, 0, 0, 0),
    "keyring": errno_of(libc.syscall, KEYCTL, 0, -3, 1),
    "new user": failure_of(os.setuid, 12345),
    "packets": failure_of(socket.socket, 17, socket.SOCK_RAW),
    "raw": failure_of(socket.socket, socket.AF_INET, socket.SOCK_RAW, 1),
    "set-uid file": failure_of(os.chmod, "mine", 0o4755),
    "real time": failure_of(os.sched_setscheduler, 0, os.SCHED_FIFO, os.sched_param(1)),
}
if os.geteuid() == 0:
    errors |= {
        "program": failure_of(open, "/usr/bin/env", "a"), "system": failure_of(open, "/etc/x", "w"),
        "kernel": failure_of(open, "/proc/sys/kernel/hostname", "w"),
        "disk": 0 if any("sd" in name or "vd" in name for name in os.listdir("/dev")) else 2,
    }
print(json.dumps(errors))
"""


def confined(writable: Path, *program: str) -> list[str]:
    needs("systemd-analyze", "systemd")
    return [sys.executable, CONFINED, str(writable), *program]


def test_the_units_restrictions_hold(tmp_path: Path) -> None:
    done = run_command(confined(tmp_path, sys.executable, "-c", TRIES))
    assert done.returncode == 0, done.stderr
    errors = json.loads(done.stdout)
    files = {"program": errno.EROFS, "system": errno.EROFS, "kernel": errno.EROFS,
             "disk": errno.ENOENT} if os.geteuid() == 0 else {}
    wanted = dict.fromkeys(TRIED, errno.EPERM) | {"packets": errno.EAFNOSUPPORT} | files
    assert errors == wanted
    assert (tmp_path / "mine").read_text() == "x"


def test_daemon_and_learner_train_a_block_under_the_units_restrictions(
    make_node: MakeNode, digits: Digits
) -> None:
    node = make_node(grow={"first": 300})
    images, labels = digits
    command = [sys.executable, "-m", "edgecc", "--config", str(node.config), "start"]
    with (node.folder / "daemon.log").open("ab") as log:
        node.process = subprocess.Popen(
            confined(node.folder, *command), stdout=log, stderr=log)
    node.peer.wait(lambda m: m.topic == node.topic("status") and m.payload == b"online")
    ids = node.stream(images[:320], labels[:320])
    assert node.receipt(ids[-1])["status"] == "stored"
    event = node.peer.wait(lambda m: m.topic == node.topic("event")
                          and m.json["type"] == "verdict", timeout=3 * DEADLINE)
    assert event.json["data"]["held_rows"] > 0
    status = Path(f"/proc/{node.process.pid}/status").read_text()
    assert "NoNewPrivs:\t1" in status
    assert "Seccomp:\t2" in status
    assert "CapBnd:\t0000000000000000" in status or os.geteuid() != 0
    assert node.ask(images[400])["label"] == str(labels[400])
    assert node.stop() == 0, node.output
