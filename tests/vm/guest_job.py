# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""Runs in the guest: runs the job that the host has written to job.json, pytest or a script."""

from __future__ import annotations

import ctypes
import json
import os
import platform
import subprocess
import sys
from pathlib import Path

from . import guest_record


def libbpf_version() -> str:
    """Return libbpf's version as libbpf itself reports it."""
    try:
        version = ctypes.CDLL("libbpf.so.1").libbpf_version_string
    except (OSError, AttributeError) as error:
        return f"none ({error})"
    version.argtypes = []
    version.restype = ctypes.c_char_p
    text: bytes = version()
    return text.decode().lstrip("v")


def run_tests(arguments: list[str]) -> int:
    """Run pytest, as ``python3 -m pytest`` does."""
    import pytest

    from .guest_plugin import Recorder

    return int(pytest.main(arguments, plugins=[Recorder()]))


def run_script(arguments: list[str]) -> int:
    """Run a script with this Python and send every line that it prints."""
    command = [sys.executable, *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as script:
        assert script.stdout is not None
        for line in script.stdout:
            guest_record.write("output", text=line.decode("utf-8", "replace"))
    # A signal is reported as a shell does.
    return script.returncode if script.returncode >= 0 else 128 - script.returncode


def main() -> int:
    """Return the exit status of the job."""
    job = json.loads(Path(__file__).with_name("job.json").read_text(encoding="utf-8"))
    guest_record.write(
        "guest",
        kernel=platform.release(),
        python=platform.python_version(),
        libbpf=libbpf_version(),
        cpus=os.cpu_count(),
        filesystems=[
            line.split()[-1] for line in Path("/proc/filesystems").read_text().splitlines()
        ],
    )
    # The same as if Python had been started in /lab.
    os.chdir("/lab")
    sys.path[0] = "/lab"
    if job["kind"] == "pytest":
        return run_tests(job["arguments"])
    return run_script(job["arguments"])


if __name__ == "__main__":
    sys.exit(main())
