"""A function that tries to get out: `do` names the attempt, `with` has its arguments; the answer is what came of it."""

# mypy: ignore-errors

import ctypes
import errno
import mmap
import os
import signal
import socket
import stat
import subprocess
import threading
import time

libc = ctypes.CDLL(None, use_errno=True)
libc.shmat.restype = ctypes.c_void_p
LISTENER = ABSTRACT = None
if "LISTEN" in os.environ:
    LISTENER = socket.create_server(("127.0.0.1", int(os.environ["LISTEN"])))
if "SYSTEM_V" in os.environ:
    SHM = libc.shmget(int(os.environ["SYSTEM_V"]), 8192, 0o1600)
    SHARED = libc.shmat(SHM, None, 0)
    ctypes.memmove(SHARED, b"init", 5)
    SEMAPHORE = libc.semget(int(os.environ["SYSTEM_V"]), 1, 0o1600)
    libc.semctl(SEMAPHORE, 0, 16, 7)


def handler(event, context):
    try:
        return globals()[event["do"]](*event["with"])
    except OSError as error:
        return f"OSError {errno.errorcode.get(error.errno, error.errno)}"


def call(number, *arguments):
    """A raw system call: its result, or the name of its error."""
    ctypes.set_errno(0)
    result = libc.syscall(ctypes.c_long(number), *(ctypes.c_long(value) for value in arguments))
    return result if result != -1 else errno.errorcode.get(ctypes.get_errno(), ctypes.get_errno())


def calls(numbers, *arguments):
    return {name: call(number, *arguments) for name, number in numbers.items()}


def child(function, *arguments):
    """What `function` returns in a child process, or the signal that ended that."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.write(writer, str(globals()[function](*arguments)).encode())
        finally:
            os._exit(0)
    os.close(writer)
    with open(reader, encoding="ascii") as pipe:
        answer = pipe.read()
    _, status = os.waitpid(pid, 0)
    return signal.Signals(os.WTERMSIG(status)).name if os.WIFSIGNALED(status) else answer


def int80():
    """getpid by the 32-bit entry of x86_64: mov eax, 20; int 0x80; ret."""
    code = mmap.mmap(-1, 4096, prot=7)
    code.write(b"\xb8\x14\x00\x00\x00\xcd\x80\xc3")
    entry = ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(code)))
    return entry()


def ordinary_work():
    """What must go on working: threads, processes, locks between them."""
    answers = []
    thread = threading.Thread(target=lambda: answers.append(subprocess.check_output(["echo", "hi"], text=True)))
    thread.start()
    thread.join()
    return [*answers, child("os_name")]


def os_name():
    return os.name


def identity():
    with open("/proc/self/status", encoding="ascii") as file:
        status = dict(line.rstrip("\n").split(":\t", 1) for line in file if ":\t" in line)
    names = ("Uid", "Gid", "Groups", "CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb", "NoNewPrivs", "Seccomp")
    return {name: status[name].split() for name in names}


def namespaces():
    return {name: os.readlink(f"/proc/self/ns/{name}") for name in ("uts", "ipc", "net", "pid", "mnt", "user")}


def environment():
    with open("/proc/1/environ", "rb") as file:
        return [dict(os.environ), file.read().decode().split("\0")]


def host_name():
    return socket.gethostname()


def processes():
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]


def signal_others():
    """Who can be signalled, of the first thousands of PIDs; -1 means all that may be."""
    reached = []
    for pid in (*range(2, 4096), os.getppid()):
        try:
            os.kill(pid, 0)
            reached.append(pid)
        except (ProcessLookupError, PermissionError):
            continue
    return reached


def shared_memory(key):
    return call({"x86_64": 29, "aarch64": 194}[os.uname().machine], key, 0, 0)


def system_v():
    answer = [ctypes.string_at(SHARED, 4).decode(), libc.semctl(SEMAPHORE, 0, 12)]
    ctypes.memmove(SHARED, b"mine", 5)
    return answer


def look(*paths):
    """What each path is: its names, where it is a folder; how it begins, where it is a file."""
    found = {}
    for path in paths:
        try:
            if os.path.isdir(path):
                found[path] = sorted(os.listdir(path))
            else:
                with open(path, "rb") as file:
                    found[path] = file.read(64).decode("latin1")
        except OSError as error:
            found[path] = f"OSError {errno.errorcode[error.errno]}"
    return found


def write(*paths):
    """Whether each file can be opened for writing, or made anew in a folder."""
    found = {}
    for path in paths:
        try:
            target = os.path.join(path, "made-by-the-function") if os.path.isdir(path) else path
            os.close(os.open(target, os.O_WRONLY | (os.O_CREAT if target != path else 0), 0o600))
            found[path] = "written"
        except OSError as error:
            found[path] = f"OSError {errno.errorcode[error.errno]}"
    return found


def writable_mounts():
    """The mount points that are not read-only."""
    with open("/proc/self/mountinfo", encoding="utf-8") as file:
        fields = [line.split() for line in file]
    return sorted(found[4] for found in fields if "ro" not in found[5].split(","))


def devices():
    found = {}
    for name in os.listdir("/dev"):
        status = os.lstat(f"/dev/{name}")
        kind = "device" if stat.S_ISCHR(status.st_mode) else "link" if stat.S_ISLNK(status.st_mode) else "other"
        found[name] = [kind, os.major(status.st_rdev), os.minor(status.st_rdev)]
    return found


def make_device():
    os.mknod("/tmp/kmem", stat.S_IFCHR | 0o666, os.makedev(1, 2))


def interfaces():
    return [name for _, name in socket.if_nameindex()]


def descriptors():
    """What is open, each with what it is."""
    found = {}
    for name in os.listdir("/proc/self/fd"):
        try:
            found[int(name)] = os.readlink(f"/proc/self/fd/{name}").partition(":")[0]
        except OSError:
            continue  # The one that lists the folder.
    return found


def abort():
    """A child that would leave a core file, after it has tried to have one, or the host's own program for it."""
    import resource

    for limit in (0, resource.RLIM_INFINITY):
        try:
            resource.setrlimit(resource.RLIMIT_CORE, (limit, limit))
        except ValueError:
            continue
    pid = os.fork()
    if pid == 0:
        os.abort()
    return [list(resource.getrlimit(resource.RLIMIT_CORE)), os.WCOREDUMP(os.waitpid(pid, 0)[1])]


def run_program(*argv):
    return subprocess.check_output(argv, text=True).split()


def stop_myself():
    """No signal stops the first process of a PID namespace that comes from within; its children it does."""
    pid = os.fork()
    if pid == 0:
        os.kill(os.getpid(), signal.SIGSTOP)
        os._exit(0)
    os.waitpid(pid, os.WUNTRACED)
    os.kill(os.getpid(), signal.SIGSTOP)
    signal.pause()


def bomb():
    """Children that do the same, until no more can be; and then wait, whatever becomes of who is at the top."""
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    while True:
        try:
            os.fork()
            os.setsid()
        except OSError:
            time.sleep(0.05)  # Not to be a burden to the other tests too: there are a thousand of them by now.


def kernel_memory(megabytes):
    """Fill sockets, whose content is the kernel's memory and no process's; how much was taken."""
    pairs, done = [], 0
    try:
        while done < megabytes << 20 and len(pairs) < 400:
            pairs.append(socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM))
            pairs[-1][0].setblocking(False)
            pairs[-1][0].setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 24)
            try:
                while True:
                    done += pairs[-1][0].send(b"x" * 65000)
            except BlockingIOError:
                continue
    except OSError as error:
        return [done >> 20, errno.errorcode[error.errno]]
    return [done >> 20, None]


def litter(length):
    """What makes trouble for who clears up /tmp; folders in folders have names so long."""
    os.symlink("/", "/tmp/root")
    os.symlink("/tmp", "/tmp/loop")
    os.mkfifo("/tmp/pipe")
    socket.socket(socket.AF_UNIX).bind("/tmp/socket")
    with open("/tmp/huge", "wb") as file:
        file.truncate(200 << 20)
    os.link("/tmp/huge", "/tmp/again")
    os.mkdir("/tmp/locked", 0)
    with open(b"/tmp/\xff\n", "wb") as file:
        os.fchmod(file.fileno(), 0o6777)
    folder = os.open("/tmp", os.O_RDONLY)
    for _ in range(100):
        os.mkdir("d" * length, dir_fd=folder)
        folder, above = os.open("d" * length, os.O_RDONLY, dir_fd=folder), folder
        os.close(above)
    os.close(folder)
    return "done"


def spin(seconds):
    """How much of a processor this process gets of the last that there is, while it wants all of it."""
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    began, used = time.monotonic(), time.process_time()
    while time.monotonic() - began < seconds:
        pass
    return time.process_time() - used


def listen():
    """Have a port and an abstract name from now on."""
    global LISTENER, ABSTRACT
    LISTENER = socket.create_server(("127.0.0.1", 0))
    ABSTRACT = socket.socket(socket.AF_UNIX)
    ABSTRACT.bind("")  # The kernel gives it an abstract name.
    ABSTRACT.listen()
    return [LISTENER.getsockname()[1], ABSTRACT.getsockname()[1:].decode()]


def connect(port):
    with socket.create_connection(("127.0.0.1", port), timeout=2):
        return "connected"


def connect_abstract(name):
    with socket.socket(socket.AF_UNIX) as client:
        client.connect("\0" + name)
        return "connected"


def talk_to_myself(text):
    """A connection from this process to its own listening socket, made at init."""
    with socket.create_connection(LISTENER.getsockname(), timeout=2) as client, LISTENER.accept()[0] as server:
        client.sendall(text.encode())
        return server.recv(100).decode()


def vsock():
    with socket.socket(40, socket.SOCK_STREAM):
        return "made"


def limits():
    import resource

    names = ("RLIMIT_NOFILE", "RLIMIT_CORE", "RLIMIT_FSIZE")
    return {name: list(resource.getrlimit(getattr(resource, name))) for name in names}


def raise_limit():
    import resource

    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (4096, 4096))
    except ValueError:
        return "refused"
    return "raised"


def open_many(count):
    opened = []
    try:
        while len(opened) < count:
            opened.append(os.open("/dev/null", os.O_RDONLY))
        return len(opened)
    except OSError as error:
        return [len(opened), errno.errorcode[error.errno]]
    finally:
        for fd in opened:
            os.close(fd)


def fill(path, size):
    """Write `size` bytes; how many could be, and why no more."""
    done = 0
    try:
        with open(path, "wb", buffering=0) as file:
            while done < size:
                done += file.write(b"x" * min(1 << 20, size - done))
    except OSError as error:
        return [done, errno.errorcode[error.errno]]
    return [done, None]


def make_files(count):
    os.makedirs("/tmp/many", exist_ok=True)
    for number in range(count):
        try:
            os.mknod(f"/tmp/many/{number}")
        except OSError as error:
            return [number, errno.errorcode[error.errno]]
    return [count, None]


def allocate(megabytes):
    block = bytearray(megabytes << 20)
    for at in range(0, len(block), 4096):
        block[at] = 1
    return len(block) >> 20


def fork_bomb(count):
    """How many children can be at once."""
    children = []
    try:
        while len(children) < count:
            pid = os.fork()
            if pid == 0:
                signal.pause()
            children.append(pid)
    except OSError as error:
        return [len(children), errno.errorcode[error.errno]]
    finally:
        for pid in children:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
    return [len(children), None]


def flood(megabytes):
    for _ in range(megabytes):
        os.write(1, b"x" * ((1 << 20) - 1) + b"\n")
    return "written"
