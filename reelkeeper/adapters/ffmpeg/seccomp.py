"""Deny a media tool the system calls that reach outside its own process, with a seccomp filter.

Landlock and an empty network namespace leave gaps: sockets with a path, shared memory, signals to other processes and
their limits, the permissions of any file, endless forks (root has no process limit), and for root all of root's rights.
A decoder needs none of these calls. Since Linux 3.5, any user may install such a filter; launcher.py does.

Source of the numbers: arch/x86/entry/syscalls/syscall_64.tbl and include/uapi/asm-generic/unistd.h of Linux 6.18; of
the instructions: linux/bpf_common.h, linux/seccomp.h and linux/audit.h.
"""

import errno
import platform
import struct
from collections.abc import Iterable, Mapping

# Each call with its number on x86-64 and on 64-bit ARM, which lacks some older calls.
_REFUSED: Mapping[str, tuple[int | None, int | None]] = {
    # Sockets and other means of sharing between processes
    "socket": (41, 198),
    "socketpair": (53, 199),
    "shmget": (29, 194),
    "shmat": (30, 196),
    "semget": (64, 190),
    "msgget": (68, 186),
    "mq_open": (240, 180),
    # New processes
    "fork": (57, None),
    "vfork": (58, None),
    # Other processes
    "kill": (62, 129),
    "tkill": (200, 130),
    "tgkill": (234, 131),
    "rt_sigqueueinfo": (129, 138),
    "rt_tgsigqueueinfo": (297, 240),
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "kcmp": (312, 272),
    "setpriority": (141, 140),
    "sched_setscheduler": (144, 119),
    "sched_setparam": (142, 118),
    "sched_setattr": (314, 274),
    "sched_setaffinity": (203, 122),
    "ioprio_set": (251, 30),
    "migrate_pages": (256, 238),
    "move_pages": (279, 239),
    # File operations that Landlock does not restrict
    "chmod": (90, None),
    "fchmod": (91, 52),
    "fchmodat": (268, 53),
    "chown": (92, None),
    "fchown": (93, 55),
    "lchown": (94, None),
    "fchownat": (260, 54),
    "utime": (132, None),
    "utimes": (235, None),
    "futimesat": (261, None),
    "utimensat": (280, 88),
    "setxattr": (188, 5),
    "lsetxattr": (189, 6),
    "fsetxattr": (190, 7),
    "removexattr": (197, 14),
    "lremovexattr": (198, 15),
    "fremovexattr": (199, 16),
    "mknod": (133, None),
    "mknodat": (259, 33),
    "name_to_handle_at": (303, 264),
    "open_by_handle_at": (304, 265),
    # The machine
    "unshare": (272, 97),
    "setns": (308, 268),
    "mount": (165, 40),
    "umount2": (166, 39),
    "pivot_root": (155, 41),
    "chroot": (161, 51),
    "reboot": (169, 142),
    "swapon": (167, 224),
    "swapoff": (168, 225),
    "sethostname": (170, 161),
    "setdomainname": (171, 162),
    "init_module": (175, 105),
    "finit_module": (313, 273),
    "delete_module": (176, 106),
    "kexec_load": (246, 104),
    "kexec_file_load": (320, 294),
    "acct": (163, 89),
    "settimeofday": (164, 170),
    "clock_settime": (227, 112),
    "adjtimex": (159, 171),
    "clock_adjtime": (305, 266),
    "quotactl": (179, 60),
    "iopl": (172, None),
    "ioperm": (173, None),
    "bpf": (321, 280),
    "perf_event_open": (298, 241),
    "userfaultfd": (323, 282),
    "fanotify_init": (300, 262),
    "add_key": (248, 217),
    "request_key": (249, 218),
    "keyctl": (250, 219),
    "syslog": (103, 116),
    "vhangup": (153, 58),
}
_CLONE, _FCNTL, _PRLIMIT = (56, 220), (72, 25), (302, 261)
_CLONE_THREAD = 0x10000
_F_SETOWN, _F_SETOWN_EX = 8, 15  # the process that the kernel signals when a descriptor is ready
# All calls since Linux 5.1, with the same numbers on every processor, such as clone3, io_uring, pidfds and new mounts.
# libc falls back to older calls if the kernel lacks one, and calls of later kernels are refused as well.
_FIRST_NEW, _CLOSE_RANGE = 424, 436

_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_NUMBER, _ARCHITECTURE, _ARGUMENTS = 0, 4, 16  # offsets in struct seccomp_data; both processors are little-endian
_ALLOW, _KILL, _ERROR = 0x7FFF0000, 0x80000000, 0x00050000
_PROCESSORS = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}


def compiled(refused: Iterable[int], column: int, architecture: int) -> bytes:
    """Compile the filter to an array of struct sock_filter: code, jump if true, jump if false, operand."""
    no = _ERROR | errno.EPERM
    program = [
        (_LOAD, 0, 0, _ARCHITECTURE),
        (_EQUAL, 1, 0, architecture),
        (_RETURN, 0, 0, _KILL),  # 32-bit calls, which have other numbers
        (_LOAD, 0, 0, _NUMBER),
        # guard sandbox.new_calls: a decoder leaves the sandbox by a system call newer than this list
        (_AT_LEAST, 0, 3, _FIRST_NEW),  # and all x32 calls of x86-64
        (_EQUAL, 0, 1, _CLOSE_RANGE),
        (_RETURN, 0, 0, _ALLOW),
        (_RETURN, 0, 0, _ERROR | errno.ENOSYS),
    ]
    for number in refused:
        program += [(_EQUAL, 0, 1, number), (_RETURN, 0, 0, no)]
    program += [
        (_EQUAL, 0, 4, _CLONE[column]),
        (_LOAD, 0, 0, _ARGUMENTS),  # the flags
        # guard sandbox.clone: a decoder starts processes without end
        (_ANY_BIT, 1, 0, _CLONE_THREAD),
        (_RETURN, 0, 0, no),
        (_RETURN, 0, 0, _ALLOW),
        (_EQUAL, 0, 4, _PRLIMIT[column]),
        (_LOAD, 0, 0, _ARGUMENTS),  # the process
        # guard sandbox.prlimit: a decoder changes the limits of our other processes
        (_EQUAL, 1, 0, 0),  # itself
        (_RETURN, 0, 0, no),
        (_RETURN, 0, 0, _ALLOW),
        (_EQUAL, 0, 4, _FCNTL[column]),
        (_LOAD, 0, 0, _ARGUMENTS + 8),  # the command
        # guard sandbox.setown: a decoder makes the kernel signal our processes
        (_EQUAL, 1, 0, _F_SETOWN),
        (_EQUAL, 0, 1, _F_SETOWN_EX),
        (_RETURN, 0, 0, no),
        (_RETURN, 0, 0, _ALLOW),
    ]
    return b"".join(struct.pack("=HBBI", *instruction) for instruction in program)


def _for_this_processor() -> bytes | None:
    if platform.machine() not in _PROCESSORS:
        return None
    column, architecture = _PROCESSORS[platform.machine()]
    numbers = (pair[column] for pair in _REFUSED.values())
    return compiled((number for number in numbers if number is not None), column, architecture)


FILTER = _for_this_processor()  # None: the numbers of this processor are unknown
