"""The first disk of a machine, its kernels and their initrds: made from Debian's packages, and kept in the cache.

No maintainer script of a package runs and no program of another architecture: what these would have made, and this
project needs, is made here. The environment with the tests' libraries is on the same disk.
"""

from __future__ import annotations

import hashlib
import lzma
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from machines.catalogue import PACKAGES, PROJECT, VENV, Image
from snapruntime.mechanisms.provision import debian

ROOT = Path(__file__).resolve().parents[2]
DISK = Path(__file__).with_name("disk")

#: What the steps use of pyproject.toml's extras; all of `dependencies` comes besides.
_LIBRARIES = ("hypothesis", "numpy", "pytest", "pytest-timeout", "snapshot-restore-py")
#: Modules that must be in a kernel before it has our disks. Those that are built in are passed over.
_MODULES = ("virtio_pci", "virtio_blk", "virtio_rng", "ext4")
_MACHINES = {"x86_64": "amd64", "aarch64": "arm64"}
_WHEELS = {"amd64": "x86_64", "arm64": "aarch64"}
#: Bytes that a machine may write: snapshots, folders of tests.
_FREE = 2_500_000_000

#: Told what is being done.
Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Kernel:
    """One kernel of an image; `release` as in uname."""

    release: str
    file: Path
    initrd: Path


def cache_folder() -> Path:
    """Where images are kept; it may be deleted."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "snapruntime" / "machines"


def provide(image: Image, say: Say) -> tuple[Path, dict[str, Kernel]]:
    """The disk of `image`, and its kernels by package; at once where the cache has them."""
    folder = cache_folder() / f"{image.suite}-{image.architecture}-{_digest(image)}"
    if not folder.is_dir():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".new-", dir=folder.parent) as work:
            _make(image, Path(work), say)
            (Path(work) / "done").rename(folder)
        for other in folder.parent.glob(f"{image.suite}-{image.architecture}-*"):
            if other != folder and other.is_dir():  # Of an older recipe; consoles lie there too.
                shutil.rmtree(other)
    return folder / "disk", {name: _kernel(folder / name) for name in image.kernels}


def _kernel(folder: Path) -> Kernel:
    return Kernel((folder / "release").read_text("utf-8"), folder / "kernel", folder / "initrd")


def _digest(image: Image) -> str:
    recipe = [repr(image), repr(PACKAGES), *_requirements(), Path(__file__).read_text("utf-8")]
    recipe += [path.read_text("utf-8") for path in sorted(DISK.iterdir())]
    return hashlib.sha256("\0".join(recipe).encode()).hexdigest()[:12]


def _requirements() -> list[str]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    extras = [line for extra in project["optional-dependencies"].values() for line in extra]
    return [*project["dependencies"], *(line for line in extras if re.split(r"[<>=\[]", line)[0] in _LIBRARIES)]


def _make(image: Image, work: Path, say: Say) -> None:
    done, root = work / "done", work / "native" / "target"
    done.mkdir()
    root.parent.mkdir()
    say(f"Debian {image.suite} {image.architecture}: unpacking")
    native = _native_python(image, root)
    _unpack(image, root, (*PACKAGES, *image.packages, *image.kernels, "busybox-static"))
    _finish(root)
    say(f"Debian {image.suite} {image.architecture}: libraries")
    _make_environment(image, root)
    _compile(image, native, root)
    say(f"Debian {image.suite} {image.architecture}: disk")
    for package in image.kernels:
        _take_kernel(root, package, done / package)
    size = int(run("du", "--summarize", "--block-size=1", root).split()[0])
    run("mke2fs", "-q", "-t", "ext4", "-O", "^has_journal", "-d", root, done / "disk", f"{(size + _FREE) // 1024}k")


def run(*argv: str | Path, folder: Path | None = None) -> str:
    """Run one command; what it prints. Raises SystemExit with its error."""
    done = subprocess.run(list(map(str, argv)), stdin=subprocess.DEVNULL, capture_output=True, text=True, cwd=folder)
    if done.returncode != 0:
        said = (done.stderr or done.stdout).strip()[-2000:]
        raise SystemExit(f"{Path(argv[0]).name} failed with status {done.returncode}:\n{said}")
    return done.stdout


# --- Debian ----------------------------------------------------------------------------------------------------------


def _unpack(image: Image, root: Path, packages: Iterable[str], architecture: str | None = None) -> None:
    source = f"deb [signed-by={debian.archive_keyring()}] {debian.configured_mirrors()[0]} {image.suite} main"
    run(
        *("mmdebstrap", "--variant=extract", "--format=directory", f"--arch={architecture or image.architecture}"),
        *("--hook-dir=/usr/share/mmdebstrap/hooks/merged-usr", f"--include={','.join(packages)}"),
        *(image.suite, root, source),
    )


def _finish(root: Path) -> None:
    """What maintainer scripts would have made, as far as the project or its tests meet it."""
    for name in ("passwd", "group"):
        shutil.copy(root / f"usr/share/base-passwd/{name}.master", root / "etc" / name)
    users = [line.partition(":")[0] for line in (root / "etc/passwd").read_text().splitlines()]
    shadow = root / "etc/shadow"
    shadow.touch(0o640)
    shadow.write_text("".join(f"{user}:*:20000:0:99999:7:::\n" for user in users))
    old = root / "var/run"  # base-files has a folder, of which its own script makes a link.
    if old.is_dir() and not old.is_symlink():
        old.rmdir()
    old.unlink(missing_ok=True)
    old.symlink_to("/run")
    (root / "usr/bin/awk").symlink_to("mawk")
    (root / "etc/fstab").write_text("")
    (root / "etc/hostname").write_text("machine\n")
    (root / "etc/resolv.conf").write_text("")
    # Where there is none, systemd takes the boot for the first one, and asks questions on the console.
    (root / "etc/machine-id").write_text("5eed" * 8 + "\n")
    # Without this list nf_tables cannot be loaded, and CRIU fails ("kerndat_has_nftables_concat failed").
    for folder in (root / "usr/lib/modules").iterdir():
        run("depmod", "--basedir", root, folder.name)
    # `setup` finds CRIU in the packages on the second disk, as it would find it at Debian.
    (root / "etc/apt/sources.list").write_text(f"deb file://{PROJECT}/debian testing main\n")
    (root / PROJECT.lstrip("/")).mkdir()
    if (root / "usr/lib/systemd/systemd").exists():
        shutil.copy(DISK / "steps.service", root / "etc/systemd/system")
        wanted = root / "etc/systemd/system/multi-user.target.wants"
        wanted.mkdir(exist_ok=True)
        (wanted / "steps.service").symlink_to("../steps.service")


# --- Python ----------------------------------------------------------------------------------------------------------


def _make_environment(image: Image, root: Path) -> None:
    """A virtual environment as Python itself would make it there, with the project in it as if installed editable."""
    venv = root / VENV.lstrip("/")
    packages = venv / "lib" / f"python{image.python}" / "site-packages"
    packages.mkdir(parents=True)
    (venv / "bin").mkdir()
    for name in ("python3", "python"):
        (venv / "bin" / name).symlink_to("/usr/bin/python3")
    (venv / "pyvenv.cfg").write_text(
        f"home = /usr/bin\ninclude-system-site-packages = false\nversion = {image.python}\n"
    )
    # Debian's C library decides how new a wheel may be; both releases have 2.36 or newer.
    platforms = (f"manylinux_2_{minor}_{_WHEELS[image.architecture]}" for minor in (17, 28, 34))
    run(
        *(sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--target", packages),
        *("--only-binary=:all:", "--python-version", image.python, "--implementation", "cp"),
        *(word for name in platforms for word in ("--platform", name)),
        *_requirements(),
    )
    (packages / "snapruntime.pth").write_text(f"{PROJECT}/src\n")
    command = venv / "bin" / "snapruntime"
    command.write_text(f"#!{VENV}/bin/python3\nfrom snapruntime.edges.cli import main\n\nmain()\n")
    command.chmod(0o755)


def _native_python(image: Image, root: Path) -> Path:
    """A folder that contains `root` and has the release's Python, for this host's processor, to change into."""
    own = _MACHINES[platform.machine()]
    if image.architecture == own:
        return root
    _unpack(image, root.parent, ("dash", "libc-bin", "python3"), own)
    return root.parent


def _compile(image: Image, native: Path, root: Path) -> None:
    """Compile all of Python's library: emulated, it would take minutes each time."""
    inside = Path("/") / root.relative_to(native)
    run(
        *("chroot", native, "python3", "-m", "compileall", "-q", "-s", inside, "-p", "/"),
        *(inside / place for place in ("usr/lib/python3", f"usr/lib/python{image.python}", f"{VENV[1:]}/lib")),
    )


# --- kernels ---------------------------------------------------------------------------------------------------------


def _take_kernel(root: Path, package: str, place: Path) -> None:
    """Copy one kernel, and make its initrd: busybox, and the modules that lead to the disks."""
    flavour = package.removeprefix("linux-image-")
    (file,) = (path for path in (root / "boot").glob("vmlinuz-*") if re.search(rf"\d-{flavour}$", path.name))
    release = file.name.removeprefix("vmlinuz-")
    place.mkdir()
    (place / "release").write_text(release)
    shutil.copy(file, place / "kernel")
    with tempfile.TemporaryDirectory() as name:
        tree = Path(name)
        (tree / "modules").mkdir()
        shutil.copy(root / "usr/bin/busybox", tree / "busybox")
        shutil.copy(DISK / "initrd-init", tree / "init")
        modules = _module_files(root, release)
        for module in modules:
            data = module.read_bytes()
            (tree / "modules" / module.name).write_bytes(lzma.decompress(data) if module.suffix == ".xz" else data)
        (tree / "modules" / "order").write_text("".join(f"{module.name}\n" for module in modules))
        run("sh", "-c", f"find . | busybox cpio -o -H newc >'{place / 'initrd'}'", folder=tree)


def _module_files(root: Path, release: str) -> Sequence[Path]:
    """The modules to load, in this order."""
    found: dict[Path, None] = {}
    for name in _MODULES:
        listed = run("modprobe", "--show-depends", "--dirname", root, "--set-version", release, name)
        found |= dict.fromkeys(Path(path) for path in re.findall(r"^insmod (\S+)", listed, re.MULTILINE))
    return list(found)
