# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""Why backends and transports do not work here, and what users read about it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Optional

from .._bpf.features import Feature
from .._records import Record
from ..errors import (
    BackendUnavailableError,
    BpfPermissionError,
    ItemUnavailableError,
    MemcgError,
)


class Refusal(Record):
    """Why a backend or transport does not work. It holds no exception, because the traceback would
    keep files open.

    Attributes:
        name: the backend or transport.
        why: the message of the error.
        remedy: what can be done about it; "" if nothing is known.
        item_names: the items that are unavailable through it, if that is the reason.
        feature: what the kernel lacks, if that is the reason.
        denied: the errno with which this process was denied BPF, if that is the reason.
        call: the function that failed then.
    """

    name: str
    why: str
    remedy: str = ""
    item_names: tuple[str, ...] = ()
    feature: Optional[Feature] = None
    denied: Optional[int] = None
    call: str = ""

    @classmethod
    def of(cls, name: str, error: MemcgError, feature: Optional[Feature] = None) -> Refusal:
        """The refusal that an error stands for."""
        item_names = error.item_names if isinstance(error, ItemUnavailableError) else ()
        denied = error.errno if isinstance(error, BpfPermissionError) else None
        return cls(name, str(error), error.remedy, item_names, feature, denied, error.call)

    @property
    def problem(self) -> str:
        """The message of the error without the remedy at its end."""
        return self.why[: -len(f": {self.remedy}")] if self.remedy else self.why


def summary(refusals: Iterable[Refusal]) -> str:
    """All refusals with their reasons in full: the text of an error."""
    names: dict[str, list[str]] = {}
    for refusal in refusals:
        names.setdefault(refusal.why, []).append(refusal.name)
    return "; ".join(f"{', '.join(same)}: {why}" for why, same in names.items())


def fallback_reason(refusals: Iterable[Refusal]) -> str:
    """Why nothing faster is used, as short as possible.

    It begins with what something can be done about, each time the problem and then the remedy. That
    the kernel is too old for a feature is mentioned only if there is no other reason, and only if
    some released kernel has the feature.
    """
    others = [refusal for refusal in refusals if refusal.feature is None]
    if others:
        remediable = dict.fromkeys(refusal.why for refusal in others if refusal.remedy)
        rest = summary(refusal for refusal in others if not refusal.remedy)
        return "; ".join((*remediable, *filter(None, (rest,))))
    for refusal in refusals:
        feature = refusal.feature
        if feature is not None and feature.linux:
            return f"{refusal.name}: needs {feature.kernels}"
    return ""


def unavailable_transport(refusals: Sequence[Refusal]) -> BackendUnavailableError:
    """The error for a transport that no backend has here.

    If privileges would help any of them, the error is about these alone.
    """
    denied = [refusal for refusal in refusals if refusal.denied is not None]
    if not denied:
        return BackendUnavailableError(summary(refusals))
    first = denied[0]
    names = ", ".join(each.name for each in denied if each.why == first.why)
    return BpfPermissionError(
        f"{names}: {first.problem}", remedy=first.remedy, errno=first.denied, call=first.call
    )
