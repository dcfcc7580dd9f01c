# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""Why a pin cannot be created, read or removed: each failure becomes one exception with one
sentence."""

from __future__ import annotations

import errno
from typing import NoReturn

from ..errors import (
    BackendUnavailableError,
    CgroupRemovedError,
    ClosedError,
    MemcgError,
    PinExistsError,
    PinNotFoundError,
    PinPathError,
    PinPermissionError,
    StreamError,
    TreeTooLargeError,
    errno_text,
    is_transient,
    shortage,
)

_NOT_ALLOWED = (errno.EPERM, errno.EACCES, errno.EROFS)
_NO_SUCH_PLACE = (errno.ENOTDIR, errno.ENAMETOOLONG, errno.ELOOP)
# What open() and read() answer for the other objects in a bpffs, such as maps and programs, and for
# symbolic links.
_NOT_AN_ITERATOR = (errno.EIO, errno.ENXIO, errno.EISDIR, errno.ELOOP)


# --- what a failed call means


def place_error(path: str, above: str, error: OSError) -> MemcgError:
    """What it means that the directory above the path of a new pin could not be looked at."""
    if is_transient(error):
        return shortage(f"{above} cannot be looked at", error, "stat")
    if error.errno in _NOT_ALLOWED:
        return _not_allowed(path, error)
    return _no_such_place(path, error)


def listing_error(directory: str, error: OSError) -> MemcgError:
    """What it means that the directory above a new pin could not be listed for a moment."""
    return shortage(f"{directory} cannot be listed", error, "open")


def raise_creation_error(path: str, error: BaseException) -> NoReturn:
    """Raises what it means that a pin or a directory could not be created.

    Errors that say nothing about the path are raised as they are.
    """
    if isinstance(error, OSError):
        about_path = not isinstance(error, MemcgError) or error.call == "bpf_obj_pin"
        if about_path and error.errno == errno.EEXIST:
            raise exists(path) from error
        if about_path and error.errno == errno.ENOENT:
            raise unpinned(path) from error
        if about_path and error.errno in _NOT_ALLOWED:
            raise _not_allowed(path, error) from error
        if about_path and error.errno in _NO_SUCH_PLACE:
            raise _no_such_place(path, error) from error
        if not isinstance(error, MemcgError):
            message = f"{path} cannot be created: {errno_text(error.errno or 0)}"
            raise MemcgError(message, errno=error.errno, call="bpffs") from error
    raise error


def read_error(path: str, error: Exception) -> MemcgError:
    """What it means that a pin could not be opened, listed or read."""
    if isinstance(error, ValueError):  # the path has a NUL
        return PinNotFoundError(f"{path!r} cannot be a path: {error}")
    assert isinstance(error, OSError)
    number = error.errno or 0
    if isinstance(error, (FileNotFoundError, NotADirectoryError)):
        message = f"there is no pin at {path}: it was removed, or never created"
        return PinNotFoundError(message, errno=number, call="open")
    if isinstance(error, PermissionError):
        return PinPermissionError(
            f"this user may not read {path}: the mode of the file, or of a directory above it, "
            "does not allow it; the user who pinned it can chmod or chown it",
            errno=number,
            call="open",
        )
    if number in _NOT_AN_ITERATOR:
        message = f"{path} is not a statistics stream: {errno_text(number)}"
        return StreamError(message, errno=number, call="open")
    return MemcgError(f"{path} cannot be read: {errno_text(number)}", errno=number, call="read")


def removal_error(path: str, error: OSError) -> MemcgError:
    """What it means that a pin, or the directory of a pinned tree, could not be removed."""
    if error.errno in _NOT_ALLOWED:
        return _not_allowed(path, error)
    if isinstance(error, FileNotFoundError):
        return read_error(path, error)
    message = f"{path} cannot be removed: {errno_text(error.errno or 0)}"
    return MemcgError(message, errno=error.errno, call="bpffs")


def mount_table_error(path: str, error: OSError) -> MemcgError:
    """The error where the mount table cannot be read."""
    return MemcgError(
        f"whether {path} is on a bpffs, as pins are, cannot be told, because /proc/self/mountinfo "
        f"cannot be read ({errno_text(error.errno or 0)})",
        remedy="mount /proc",
        errno=error.errno,
        call="open",
    )


def no_mount_table() -> MemcgError:
    """The error where no bpffs can be looked for."""
    return MemcgError(
        "no pin can be looked for, because /proc/self/mountinfo cannot be read",
        remedy="mount /proc",
    )


def _not_allowed(path: str, error: OSError) -> PinPermissionError:
    return PinPermissionError(
        f"this user may not create or remove {path} ({errno_text(error.errno or 0)})",
        remedy="run as root, or as the owner of the directory",
        errno=error.errno,
        call="bpffs",
    )


def _no_such_place(path: str, error: OSError) -> PinPathError:
    return PinPathError(
        f"{path} cannot be a pin's path: {errno_text(error.errno or 0)}",
        errno=error.errno,
        call="bpffs",
    )


# --- what is wrong with the path of a new pin


def not_a_path(path: str) -> PinPathError:
    """The error for text that is empty, or has a NUL."""
    return PinPathError(f"{path!r} cannot be a path")


def exists(path: str) -> PinExistsError:
    """The error where something is at the path already."""
    return PinExistsError(f"{path} exists already: unpin it first, or choose another path")


def not_on_bpffs(path: str) -> PinPathError:
    """The error for the path of a new pin on another file system."""
    return PinPathError(
        f"{path} is not on a bpffs; pins can only be created there (mount -t bpf bpf /sys/fs/bpf, "
        "if there is none, and give a path below it)"
    )


def no_longer_on_bpffs(directory: str) -> PinPathError:
    """The error where a path led to a bpffs when it was checked, and does not any more."""
    return PinPathError(f"{directory} is no longer on a bpffs: choose another path")


def inside_pinned_tree(path: str, tree: str) -> PinPathError:
    """The error for a new pin in the directory of a pinned tree."""
    return PinPathError(
        f"{path} would lie in the directory of a pinned tree, {tree}: choose another path"
    )


def name_with_dot(path: str, name: str) -> PinPathError:
    """The error for a name that the kernel does not accept in a bpffs."""
    return PinPathError(
        f"a bpffs accepts no name with a dot in it, and {path} has {name!r}: "
        "choose another name, for instance with an underscore"
    )


def replaceable(directory: str) -> PinPathError:
    """The error for a directory in which other users could replace what is created."""
    return PinPathError(
        f"other users may rename what is in {directory}: pin into a directory that only this user "
        "may write to (chown, chmod go-w)"
    )


# --- what is wrong with what is at a path


def no_pin(path: str) -> PinPathError:
    """The error for a file or directory on another file system."""
    return PinPathError(f"{path} is not on a bpffs, so it is not a pin")


def no_place_of_pins(directory: str) -> PinPathError:
    """The error for a directory on another file system, in which pins are looked for."""
    return PinPathError(f"{directory} is not on a bpffs, so there are no pins in it")


def bad_stream(path: str, error: StreamError) -> StreamError:
    """The error for a stream that the wire format does not allow; it says which stream."""
    return StreamError(f"{path}: {error}")


def bad_header(path: str) -> StreamError:
    """The error for a header that could be read, but names items or an order wrongly."""
    return StreamError(f"{path}: damaged stream: its header makes no sense")


def bad_rows(path: str, size: int) -> StreamError:
    """The error for a stream of one cgroup that has more or less than one row."""
    return StreamError(f"{path}: damaged stream: {size} bytes of rows instead of one row")


def cut_short(path: str, size: int) -> StreamError:
    """The error for a stream that ends before its trailer, though the buffer was not full."""
    return StreamError(f"{path}: the stream is cut short: its {size} bytes have no trailer")


def replaced(path: str) -> StreamError:
    """The error where another pin is at the path than when the reader was made."""
    return StreamError(
        f"{path} is now another pin, with other items or another order: make a new PinnedReader"
    )


def cgroup_removed(path: str) -> CgroupRemovedError:
    """The error for a stream without rows."""
    return CgroupRemovedError(
        f"the cgroup that {path} reads was removed, or has lost its memory controller: unpin it"
    )


def too_large(where: str, rows: int, buffer: int) -> TreeTooLargeError:
    """The error for a walk that does not fit into one pin's buffer, which takes so many rows."""
    return TreeTooLargeError(
        f"the walk {where} does not fit into the kernel's buffer of {buffer >> 10} KiB, "
        f"which takes {rows} cgroups with these items: pin fewer items, or publish the tree with "
        "pin_tree() (pin --tree)",
        rows=rows,
        max_rows=rows,
    )


# --- pinned trees


def no_walk_yet(path: str) -> PinNotFoundError:
    """The error before the first walk of a tree is published."""
    return PinNotFoundError(f"the tree at {path} is being created: no walk is published yet")


def tree_ended(path: str) -> PinNotFoundError:
    """The error where the process that refreshed a tree has closed it."""
    return PinNotFoundError(
        f"the tree at {path} is not published any more: whoever refreshed it has closed it"
    )


def map_too_small(path: str, needed: int, room: int) -> TreeTooLargeError:
    """The error where the last walk met more than there is room for."""
    return TreeTooLargeError(
        f"{path} was not created for so many cgroups, or for such long names: the last walk met "
        f"{needed:,}, and there is room for {room:,}",
        remedy="unpin() it, and call pin_tree() again with more room= (pin --tree --room)",
        rows=needed,
        max_rows=room,
    )


def bad_state(path: str, state: int) -> StreamError:
    """The error for a state of a tree that this version does not know."""
    return StreamError(f"{path}: damaged head of a pinned tree: its state is {state}")


def too_slow(path: str, tries: int) -> MemcgError:
    """The error where each walk was overwritten before all of it was copied."""
    return MemcgError(
        f"{path} is refreshed faster than this process can read it: in {tries} tries, each walk "
        "was overwritten before all of it was copied",
        remedy="pin it with a longer interval, or give this process more time",
        errno=errno.EAGAIN,
        call="read",
    )


def being_replaced(path: str) -> PinNotFoundError:
    """The error where the map at a path changes while it is opened."""
    return PinNotFoundError(f"the tree at {path} is being created or unpinned")


def not_a_map(path: str) -> StreamError:
    """The error for another file in the place of a tree's map."""
    return StreamError(f"{path} is not the map of a pinned tree")


def unmappable(path: str, error: Exception) -> MemcgError:
    """The error where the kernel refuses to map what may be a tree's map."""
    number = error.errno if isinstance(error, OSError) else None
    reason = errno_text(number) if number else str(error)
    return MemcgError(f"{path} cannot be mapped: {reason}", errno=number, call="mmap")


def mapping_refused(path: str, error: OSError) -> BackendUnavailableError:
    """The error where this process may not map a tree's map, which it could open."""
    return BackendUnavailableError(
        f"{path} cannot be mapped: {errno_text(error.errno or 0)}", errno=error.errno, call="mmap"
    )


def closed(path: str) -> ClosedError:
    """The error where a reader is closed while it reads."""
    return ClosedError(f"this reader of {path} is closed")


def not_sent(path: str, error: OSError) -> MemcgError:
    """The error where a socket does not take the descriptor of a tree's map."""
    return MemcgError(
        f"the map of {path} cannot be sent over this socket: {errno_text(error.errno or 0)}",
        errno=error.errno,
        call="sendmsg",
    )


# --- what unpin() does not remove


def symbolic_link(path: str) -> PinPathError:
    """The error for a symbolic link."""
    return PinPathError(f"{path} is a symbolic link: give the path that it leads to")


def file_of_tree(path: str, tree: str) -> PinPathError:
    """The error for a reader of one file of a pinned tree."""
    return PinPathError(f"{path} is part of a pinned tree: read {tree}")


def part_of_tree(path: str, tree: str) -> PinPathError:
    """The error for a file of a tree, which is removed as a whole."""
    return PinPathError(f"{path} is part of a pinned tree: unpin {tree}")


def not_a_tree(directory: str) -> StreamError:
    """The error for a directory without the stream of a tree."""
    return StreamError(f"{directory} is not the directory of a pinned tree: nothing was removed")


def foreign_file(directory: str, name: str) -> StreamError:
    """The error for a directory with other files beside those of a tree."""
    return StreamError(
        f"{directory} has {name!r} beside the files of a pinned tree: nothing was "
        "removed; move that file away first"
    )


def tree_too_large(path: str, rows: int, room: int) -> TreeTooLargeError:
    """A pinned tree that has outgrown its map."""
    return TreeTooLargeError(
        f"there are {rows:,} cgroups in the tree below {path}, and the pin has room for {room:,} "
        "with names of usual length: pin it again, with a larger room= (--room)",
        rows=rows,
    )


def unpinned(path: str) -> PinNotFoundError:
    """A pin that another process has removed while this one creates or refreshes it."""
    return PinNotFoundError(f"{path} was unpinned by another process: pin it again")
