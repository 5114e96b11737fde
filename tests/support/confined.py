"""Runs a program under what deploy/edgecc.service restricts, where systemd is not process 1.

`python confined.py WRITABLE PROGRAM...`: reads the unit, then capabilities, system calls, sockets,
namespaces, mounts and limits, as systemd would set them. Not here: the user (whoever calls, without
capabilities), PrivateUsers, MemoryMax, and ProtectHome where Python itself lives there.
"""

import ctypes
import os
import re
import resource
import subprocess
import sys
from pathlib import Path

UNIT = Path(__file__).parents[2] / "deploy" / "edgecc.service"
PERMITTED, EPERM, ENOSYS, EAFNOSUPPORT = 0x7FFF0000, 0x00050001, 0x00050026, 0x00050061
EQUAL, MASKED = 4, 7  # libseccomp's comparisons
NAMESPACES = 0x7E020080  # every CLONE_NEW* flag
FAMILIES = {"AF_UNIX": 1, "AF_INET": 2, "AF_INET6": 10}
NEW_MOUNTS, RECURSIVE, READ_ONLY = 0x00020000, 0x8000, 1
MS_BIND, MS_PRIVATE_ALL = 4096, 0x44000
libc = ctypes.CDLL(None, use_errno=True)


def settings() -> dict[str, list[str]]:
    """Each key of the unit with the words of all its lines."""
    words: dict[str, list[str]] = {}
    for key, value in re.findall(r"^(\w+)=(.*)$", UNIT.read_text(), re.MULTILINE):
        words.setdefault(key, []).append(value)
    return words


def check(result: int) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


# --- system calls ---


class Compare(ctypes.Structure):
    _fields_ = (("arg", ctypes.c_uint), ("op", ctypes.c_int), ("a", ctypes.c_uint64),
                ("b", ctypes.c_uint64))


def calls(group: str) -> set[str]:
    """The system calls of a group, as systemd has it."""
    text = subprocess.run(["systemd-analyze", "syscall-filter", group], capture_output=True,
                          text=True, check=True).stdout
    names = re.findall(r"^ {4}([@\w-]+)$", text, re.MULTILINE)
    return set().union(*(calls(name) if name.startswith("@") else {name} for name in names))


def allowed(filters: list[str]) -> set[str]:
    names: set[str] = set()
    for line in filters:
        named = set[str]().union(*(
            calls(word) if word.startswith("@") else {word} for word in line.lstrip("~").split()))
        names = names - named if line.startswith("~") else names | named
    return names


def filter_calls(unit: dict[str, list[str]]) -> None:
    seccomp = ctypes.CDLL("libseccomp.so.2")
    seccomp.seccomp_init.restype = ctypes.c_void_p
    context = ctypes.c_void_p(seccomp.seccomp_init(ctypes.c_uint32(EPERM)))

    def rule(action: int, name: str, *compare: Compare) -> None:
        number = seccomp.seccomp_syscall_resolve_name(name.encode())
        if number >= 0:  # of this machine
            array = (Compare * len(compare))(*compare)
            check(seccomp.seccomp_rule_add_array(
                context, ctypes.c_uint32(action), number, len(compare), array))

    special = {"clone", "clone3", "unshare", "setns", "socket", "personality",
               "sched_setscheduler", "chmod", "fchmod", "fchmodat"}
    permitted = allowed(unit["SystemCallFilter"])
    for name in permitted - special:
        rule(PERMITTED, name)
    rule(ENOSYS, "clone3")  # as systemd does: its flags are out of a filter's sight
    rule(PERMITTED, "clone", Compare(0, MASKED, NAMESPACES, 0))
    for family in unit["RestrictAddressFamilies"][0].split():
        rule(PERMITTED, "socket", Compare(0, EQUAL, FAMILIES[family], 0))
    for family in {*range(46)} - set(FAMILIES.values()):
        rule(EAFNOSUPPORT, "socket", Compare(0, EQUAL, family, 0))
    for persona in (0, 0xFFFFFFFF):
        rule(PERMITTED, "personality", Compare(0, EQUAL, persona, 0))
    for policy in (0, 3, 5):  # neither FIFO nor round robin
        rule(PERMITTED, "sched_setscheduler", Compare(1, EQUAL, policy, 0))
    for name, place in (("chmod", 1), ("fchmod", 1), ("fchmodat", 2)):
        rule(PERMITTED, name, Compare(place, MASKED, 0o6000, 0))
    check(seccomp.seccomp_load(context))  # and no new privileges


# --- mounts ---


def mount(source: str, target: str, kind: str = "", flags: int = 0, data: str = "") -> None:
    check(libc.mount(source.encode(), target.encode(), kind.encode(), ctypes.c_ulong(flags),
                     data.encode()))


def set_read_only(target: str, *, read_only: bool, recursive: bool) -> None:
    values = (ctypes.c_uint64 * 4)(READ_ONLY if read_only else 0, 0 if read_only else READ_ONLY)
    check(libc.syscall(442, -100, target.encode(), RECURSIVE if recursive else 0,
                       ctypes.byref(values), 32))


def hide_files(writable: str) -> None:
    """Own mounts: everything read-only but `writable`; own /tmp, /dev and /proc.

    Of /tmp, `writable` stays, and the programs where they lie there.
    """
    check(libc.unshare(NEW_MOUNTS))
    mount("none", "/", flags=MS_PRIVATE_ALL)
    programs = [place for place in (str(UNIT.parent.parent), sys.prefix) if place[:5] == "/tmp/"]
    kept = {place: os.open(place, os.O_PATH | os.O_DIRECTORY) for place in (*programs, writable)}
    mount("tmpfs", "/tmp", "tmpfs")
    for place, descriptor in kept.items():
        Path(place).mkdir(parents=True, exist_ok=True)
        mount(f"/proc/self/fd/{descriptor}", place, flags=MS_BIND)
    own_devices()
    mount("proc", "/proc", "proc", data="hidepid=invisible")
    set_read_only("/", read_only=True, recursive=True)
    for path in (writable, "/tmp", "/dev/shm"):
        set_read_only(path, read_only=False, recursive=False)


def own_devices() -> None:
    numbers = {name: os.stat(f"/dev/{name}").st_rdev
               for name in ("null", "zero", "full", "random", "urandom", "tty")}
    mount("tmpfs", "/dev", "tmpfs", data="mode=755")
    for name, number in numbers.items():
        os.mknod(f"/dev/{name}", 0o20666, number)
        os.chmod(f"/dev/{name}", 0o666)
    Path("/dev/shm").mkdir()
    mount("tmpfs", "/dev/shm", "tmpfs")


# --- the rest ---


def drop_capabilities() -> None:
    for capability in range(64):
        libc.prctl(24, capability, 0, 0, 0)  # PR_CAPBSET_DROP; beyond the last: EINVAL
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)
    check(libc.capset(ctypes.byref(header), ctypes.byref((ctypes.c_uint32 * 6)())))


def main(writable: str, *program: str) -> None:
    unit = settings()
    if os.geteuid() == 0:
        hide_files(writable)
        drop_capabilities()
    os.umask(int(unit["UMask"][0], 8))
    resource.setrlimit(resource.RLIMIT_CORE, (int(unit["LimitCORE"][0]),) * 2)
    os.chdir(writable)
    filter_calls(unit)
    os.execv(program[0], program)


if __name__ == "__main__":
    main(*sys.argv[1:])
