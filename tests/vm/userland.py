# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""Makes the guest's file system: a large cached archive per Debian release, and small ones.

The kernel unpacks an initramfs that consists of several cpio archives, one after the other.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from .cache import in_cache, publish, scratch
from .debian import Apt
from .errors import LabError, need_tool
from .kernels import Package

# Dependencies that only Debian's maintainer scripts need, which never run in a guest.
_EXCLUDED_PACKAGES = frozenset(
    (
        *("debconf", "dpkg", "media-types", "netbase", "openssl-provider-legacy", "perl-base"),
        *("readline-common", "tar", "tzdata"),
    )
)
# Files that no test reads. They are left out because an initramfs takes up guest memory.
_EXCLUDED_FILES = (
    *("./usr/share/doc/*", "./usr/share/man/*", "./usr/share/locale/*", "./usr/share/info/*"),
    *("./usr/share/lintian/*", "./usr/share/bug/*", "./usr/share/terminfo/*", "./lib/terminfo/*"),
    *("./usr/lib/*/gconv/*", "./usr/lib/locale/*", "./usr/lib/valgrind/*", "./usr/share/i18n/*"),
    *("*/idlelib/*", "*/lib2to3/tests/*", "*/ensurepip/*", "*/pydoc_data/*", "*/turtle*"),
)
_TEST_TOOLS = ("pytest>=8", "pyte==0.8.*")
_SITE = "usr/local/lib/python{python}/dist-packages"


@dataclass(frozen=True)
class Userland:
    """A packed Debian userland, and the versions that a guest must find in it."""

    release: str
    archives: tuple[Path, ...]
    python: str
    libbpf: str
    packages: tuple[Package, ...] = ()

    @property
    def site(self) -> str:
        """Return where Python packages are installed in the guest, as a relative path."""
        return _SITE.format(python=self.python)


def short_version(packages: Sequence[Package], name: str) -> str:
    """Return a package's upstream version as MAJOR.MINOR: 1.5 for 1:1.5.0-3."""
    version = next(package.version for package in packages if package.name == name)
    return ".".join(version.rpartition(":")[2].split("-")[0].split(".")[:2])


def prepare(apt: Apt, native: Apt, cache: Path, release: str) -> Userland:
    """Return a userland, which is built unless the cache has it.

    *native* is the Apt for the host's architecture.
    """
    closure = apt.closure(release)
    kept = [package for package in closure if package.name not in _EXCLUDED_PACKAGES]
    python, libbpf = short_version(closure, "python3"), short_version(closure, "libbpf1")
    # This file is part of the key, because it says which files of the packages are kept.
    plan = hashlib.sha256(Path(__file__).read_bytes())
    plan.update("\n".join(package.filename for package in kept).encode())
    key = f"{release}-{apt.architecture}-{plan.hexdigest()[:12]}"
    base, tests = (cache / "userlands" / f"{key}-{part}.cpio" for part in ("base", "pytest"))
    # Both are made together, because the Python in the base compiles pytest.
    if not (in_cache(base) and in_cache(tests)):
        debs = apt.download(kept, release)
        with scratch(cache) as folder:
            root, extra = folder / "root", folder / "pytest"
            _extract(debs, root)
            pip_install(extra / _SITE.format(python=python), python, _TEST_TOOLS)
            runs_here = root
            if native is not apt:
                # Bytecode is the same for all architectures, and the release has one Python.
                runs_here = folder / "native"
                needed = [
                    one for one in native.closure(release) if one.name not in _EXCLUDED_PACKAGES
                ]
                _extract(native.download(needed, release), runs_here)
            _compile(runs_here, python, [root / f"usr/lib/python{python}", extra])
            pack(root, folder / "base.cpio")
            pack(extra, folder / "pytest.cpio")
            publish(folder / "base.cpio", base)
            publish(folder / "pytest.cpio", tests)
    return Userland(release, (base, tests), python, libbpf, tuple(closure))


def _extract(debs: Sequence[Path], root: Path) -> None:
    need_tool("dpkg-deb", "dpkg")
    need_tool("tar", "tar")
    for name in ("bin", "lib", "lib64", "sbin"):
        (root / "usr" / name).mkdir(parents=True)
        # Packages of bookworm still hold files under /bin and /lib.
        (root / name).symlink_to(f"usr/{name}")
    for deb in debs:
        extract(deb, root, [f"--exclude={pattern}" for pattern in _EXCLUDED_FILES])


def extract(deb: Path, root: Path, tar_options: Sequence[str]) -> None:
    """Unpack a package, or the part of it that tar's options choose."""
    command = ["tar", "-x", "--keep-directory-symlink", "--no-same-owner", "-C", str(root)]
    with subprocess.Popen(["dpkg-deb", "--fsys-tarfile", deb], stdout=subprocess.PIPE) as unpack:
        done = subprocess.run(
            [*command, *tar_options], stdin=unpack.stdout, stderr=subprocess.PIPE, check=False
        )
    if done.returncode or unpack.returncode:
        reason = done.stderr.decode(errors="replace").strip()
        raise LabError(f"cannot unpack {deb.name}: {reason or 'dpkg-deb failed'}")


def pip_install(site: Path, python: str, requirements: Sequence[str], *more: str) -> None:
    """Install for the guest's Python into a folder, with the host's pip."""
    command = [
        *(sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"),
        *("--no-compile", "--target", str(site)),
        *("--python-version", python, "--implementation", "py", "--only-binary=:all:"),
        *(*more, "--", *requirements),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if "No module named pip" in done.stderr:
        raise LabError(f"the lab needs pip for {sys.executable}: install the package python3-pip")
    if done.returncode:
        reason = (done.stderr.strip() or done.stdout.strip()).splitlines()[-1:]
        raise LabError(f"pip install {' '.join(requirements)} failed: {' '.join(reason)}")


def _compile(root: Path, python: str, folders: Sequence[Path]) -> None:
    """Compile Python sources with the Python in *root*. In a guest it takes seconds."""
    # The loader in lib64 can be an absolute link, which would lead to the host's loader.
    loaders = sorted((root / "usr/lib").glob("*-linux-gnu*/ld-linux*"))
    libraries = ":".join(str(path) for path in sorted((root / "usr/lib").glob("*-linux-gnu*")))
    for folder in folders:
        command = [
            *(str(loaders[0]), "--library-path", libraries),
            *(str(root / f"usr/bin/python{python}"), "-I", "-m", "compileall", "-q"),
            # Archives can lose modification times, so Python must not compare them.
            *("--invalidation-mode", "unchecked-hash", "-s", str(folder), "-p", "/"),
            str(folder),
        ]
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, env={"LC_ALL": "C.UTF-8"}
        )
        if done.returncode:
            reason = (done.stderr.strip() or done.stdout.strip()).splitlines()[-1:]
            raise LabError(f"cannot compile the guest's Python sources: {' '.join(reason)}")


def pack(root: Path, archive: Path) -> None:
    """Write a folder as an uncompressed cpio archive in which root owns all files."""
    cpio = need_tool("cpio", "cpio")
    names = sorted(str(path.relative_to(root)) for path in _walk(root))
    with archive.open("wb") as output:
        done = subprocess.run(
            [cpio, "--quiet", "--null", "-o", "-H", "newc", "-R", "+0:+0", "--reproducible"],
            cwd=root,
            input="\0".join(names).encode() + b"\0",
            stdout=output,
            stderr=subprocess.PIPE,
            check=False,
        )
    if done.returncode:
        raise LabError(f"cpio failed: {done.stderr.decode(errors='replace').strip()}")


def _walk(root: Path) -> list[Path]:
    found = []
    for folder, folders, files in os.walk(root):
        found += [Path(folder, name) for name in (*folders, *files)]
    return found


def concatenate(archives: Sequence[Path], whole: Path) -> None:
    """Write several archives into one file."""
    with whole.open("wb") as output:
        for archive in archives:
            with archive.open("rb") as part:
                shutil.copyfileobj(part, output, 1 << 20)
            # The kernel expects each archive to start at a multiple of four bytes.
            output.write(b"\0" * (-output.tell() % 4))
