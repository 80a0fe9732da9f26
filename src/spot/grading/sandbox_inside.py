"""The sandbox's inside: a process that locks itself in and then runs an untrusted program.

It is started by spot.grading.sandbox as a script, in a fresh interpreter without site-packages, once for
every program; hence the standard library only, and little of it. What each lock is worth stands in
spot.grading.sandbox. The order comes by stdin as JSON, replies go to what was stdout, one JSON value a line:
first what locks are missing, then `["loaded", error or null]`, then `[index, value, error or null]`.
"""

from __future__ import annotations

import ctypes
import json
import os
import resource
import struct
import sys
from types import ModuleType

TYPE_CHECKING = False  # as in typing, whose import takes as long as a program
if TYPE_CHECKING:
    from typing import Any

OUT_OF_MEMORY = 77  # exit status where not even a reply could be made

# ---------------------------------------------------------------------------------- system calls

# What a computation takes: memory, clocks, reading files, its own signal handlers. Everything else
# is refused: processes and threads, sockets, signals to others, changes of files, namespaces, ….
# Name, number on x86-64, number on AArch64.
PLAIN = """
    read 0 63, write 1 64, readv 19 65, writev 20 66, pread64 17 67, lseek 8 62, close 3 57,
    fstat 5 80, stat 4 -, lstat 6 -, newfstatat 262 79, statx 332 291, access 21 -,
    faccessat 269 48, faccessat2 439 439, readlink 89 -, readlinkat 267 78, getdents64 217 61,
    getcwd 79 17, dup 32 23, dup2 33 -, dup3 292 24, poll 7 -, ppoll 271 73, select 23 -,
    pselect6 270 72, mmap 9 222, mprotect 10 226, munmap 11 215, mremap 25 216, brk 12 214,
    madvise 28 233, rt_sigaction 13 134, rt_sigprocmask 14 135, rt_sigreturn 15 139,
    sigaltstack 131 132, restart_syscall 219 128, pause 34 -, alarm 37 -, getitimer 36 102,
    setitimer 38 103, nanosleep 35 101, clock_nanosleep 230 115, clock_gettime 228 113,
    clock_getres 229 114, gettimeofday 96 169, time 201 -, times 100 153, getpid 39 172,
    getppid 110 173, gettid 186 178, getuid 102 174, geteuid 107 175, getgid 104 176,
    getegid 108 177, getrusage 98 165, sysinfo 99 179, uname 63 160, sched_yield 24 124,
    sched_getaffinity 204 123, futex 202 98, getrandom 318 278, exit 60 93, exit_group 231 94
"""
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND | 0o20000000  # O_TMPFILE
OPEN = (("open", "2", "-", 1), ("openat", "257", "56", 2))  # and which argument the flags are
# fcntl can make the kernel signal another process (F_SETOWN, F_SETSIG); what remains copies
# descriptors and tells or sets close-on-exec. ioctl: is it a terminal, how large, close-on-exec.
LISTED = (
    ("fcntl", "72", "25", 1, (0, 1, 2, 3, 1030)),
    ("ioctl", "16", "29", 1, (0x5401, 0x5413, 0x5450, 0x5451)),
)
ARCHITECTURES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}  # column, AUDIT_ARCH

LOAD, EQUAL, ANY_BIT, RETURN = 0x20, 0x15, 0x45, 0x06  # instructions of classic BPF
ALLOW, KILL, REFUSE = 0x7FFF0000, 0x80000000, 0x00050000 | 1  # 1 is EPERM


def system_call_filter(machine: str) -> bytes:
    """A seccomp program that lets the calls above through and answers EPERM to all others."""
    column, audit = ARCHITECTURES[machine]
    code = [(LOAD, 0, 0, 4), (EQUAL, 1, 0, audit), (RETURN, 0, 0, KILL), (LOAD, 0, 0, 0)]
    for _, *numbers in map(str.split, PLAIN.split(",")):
        if numbers[column] != "-":
            code += [(EQUAL, 0, 1, int(numbers[column])), (RETURN, 0, 0, ALLOW)]
    for _, x86, arm, argument in OPEN:
        if (number := (x86, arm)[column]) != "-":
            code += [(EQUAL, 0, 4, int(number)), (LOAD, 0, 0, 16 + 8 * argument)]
            code += [(ANY_BIT, 0, 1, WRITING), (RETURN, 0, 0, REFUSE), (RETURN, 0, 0, ALLOW)]
    for _, x86, arm, argument, allowed in LISTED:
        body = [(LOAD, 0, 0, 16 + 8 * argument)]
        for value in allowed:
            body += [(EQUAL, 0, 1, value), (RETURN, 0, 0, ALLOW)]
        body.append((RETURN, 0, 0, REFUSE))
        code += [(EQUAL, 0, len(body), int((x86, arm)[column])), *body]
    code.append((RETURN, 0, 0, REFUSE))
    return b"".join(struct.pack("=HBBI", *instruction) for instruction in code)


# ---------------------------------------------------------------------------------------- locks

LANDLOCK_CREATE, LANDLOCK_ADD, LANDLOCK_RESTRICT = 444, 445, 446
READ_FILE, READ_DIR = 1 << 2, 1 << 3
FILE_RIGHTS = {1: 13, 2: 14, 3: 15, 4: 15}  # how many there are, by version; 16 from 5 on
NEW_USER, NEW_IPC, NEW_NET = 0x10000000, 0x08000000, 0x40000000
SET_NO_NEW_PRIVS, SET_SECCOMP, SET_PDEATHSIG, FILTER, SIGKILL = 38, 22, 1, 2, 9


def lock_in(order: dict[str, Any]) -> list[str]:
    """Apply every lock that the machine has; names of the necessary ones that it lacks."""
    for limit, most in (
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_NOFILE, 64),
        (resource.RLIMIT_AS, order["memory"]),
    ):
        resource.setrlimit(limit, (most, most))
    resource.setrlimit(resource.RLIMIT_CPU, (order["seconds"], order["seconds"] + 1))
    if sys.platform != "linux":
        return ["seccomp", "landlock"]
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(SET_PDEATHSIG, SIGKILL, 0, 0, 0)
    if os.getppid() != order["parent"]:
        os._exit(1)  # it died before it could be noticed
    libc.unshare(NEW_USER | NEW_IPC | NEW_NET)  # one wall more, where it is allowed
    resource.setrlimit(resource.RLIMIT_NPROC, (0, 0))
    libc.prctl(SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    return [
        name
        for name, done in (("landlock", _landlock(libc)), ("seccomp", _seccomp(libc)))
        if not done
    ]


def _landlock(libc: ctypes.CDLL) -> bool:
    """Allow reading the interpreter's own files, and nothing else of any file system."""
    version = libc.syscall(LANDLOCK_CREATE, None, 0, 1)
    if version < 1:
        return False
    # rights over files, over TCP (from version 4), scopes of signals and sockets (from 6)
    attributes = struct.pack("=QQQ", (1 << FILE_RIGHTS.get(version, 16)) - 1, 3, 3)
    size = 8 if version < 4 else 16 if version < 6 else 24
    rules = libc.syscall(LANDLOCK_CREATE, attributes[:size], size, 0)
    for path in readable():
        fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
        rights = READ_FILE | READ_DIR if os.path.isdir(path) else READ_FILE
        if libc.syscall(LANDLOCK_ADD, rules, 1, struct.pack("=Qi", rights, fd), 0):
            return False
        os.close(fd)
    done = libc.syscall(LANDLOCK_RESTRICT, rules, 0) == 0
    os.close(rules)
    return done


def readable() -> list[str]:
    """Where the interpreter, its library and the libraries of these are."""
    paths = [os.path.dirname(os.__file__)]
    paths += [os.path.join(sys.base_prefix, name) for name in ("lib", "lib64")]
    paths += "/lib /lib64 /usr/lib /usr/lib64 /etc/ld.so.cache /dev/null /dev/urandom".split()
    paths += os.environ.get("LD_LIBRARY_PATH", "").split(":")
    return sorted({path for path in paths if os.path.exists(path)})


def _seccomp(libc: ctypes.CDLL) -> bool:
    machine = os.uname().machine
    if machine not in ARCHITECTURES:
        return False
    code = ctypes.create_string_buffer(program := system_call_filter(machine))
    header = struct.pack("=H6xQ", len(program) // 8, ctypes.addressof(code))
    return bool(libc.prctl(SET_SECCOMP, FILTER, header, 0, 0) == 0)


# -------------------------------------------------------------------------------------- the work


def say(pipe: int, value: Any) -> None:
    """One line of JSON into the pipe."""
    rest = json.dumps(value).encode() + b"\n"
    while rest:
        rest = rest[os.write(pipe, rest) :]


def load(program: str, entry_point: str) -> Any:
    """The function of that name once the program has run as a module."""
    module = ModuleType("solution")
    sys.modules["solution"] = module  # dataclasses look their module up
    exec(compile(program, "solution.py", "exec"), module.__dict__)
    if entry_point not in module.__dict__:
        raise NameError(entry_point)
    return module.__dict__[entry_point]


def work(pipe: int, order: dict[str, Any]) -> None:
    """Load the program and call it on each list of arguments; an error ends that call only."""
    try:
        function = load(order["program"], order["entry_point"])
        say(pipe, ["loaded", None])
    except BaseException as error:  # SystemExit, too: the program may raise anything
        say(pipe, ["loaded", type(error).__name__])
        return
    for index, arguments in enumerate(order["calls"]):
        try:
            say(pipe, [index, function(*arguments), None])
        except BaseException as error:
            say(pipe, [index, None, type(error).__name__])


def main() -> None:
    """Read the order, lock in, work, and leave without running what the program left behind."""
    order = json.loads(sys.stdin.buffer.read())
    pipe = os.dup(1)
    with open(os.devnull, "r+b", buffering=0) as null:
        for fd in (0, 1, 2):
            os.dup2(null.fileno(), fd)
    missing = lock_in(order)
    say(pipe, missing)
    if not missing:
        try:
            work(pipe, order)
        except MemoryError:
            os._exit(OUT_OF_MEMORY)
    os._exit(0)


if __name__ == "__main__":
    main()
