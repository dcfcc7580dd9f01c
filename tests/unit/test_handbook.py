# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""What the pages for maintainers say is there: files, make targets, links, options, versions."""

from __future__ import annotations

import configparser
import re
from pathlib import Path

import pytest

import pymemcgbpf
from pymemcgbpf import _wire
from tests.vm import spec
from tests.vm.__main__ import parse_arguments

# Tests run from a copy of theirs below the repository.
ROOT = next(
    above
    for above in Path(__file__).resolve().parents
    if (above / "docs" / "architecture.md").exists()
)
PACKAGE = Path(pymemcgbpf.__file__).resolve().parent
ARCHITECTURE = ROOT / "docs" / "architecture.md"
LAB = ROOT / "tests" / "vm" / "README.md"
CONTRIBUTING = ROOT / "CONTRIBUTING.md"
COMPATIBILITY = ROOT / "docs" / "compatibility.md"
PAGES = [
    ARCHITECTURE,
    COMPATIBILITY,
    CONTRIBUTING,
    LAB,
    ROOT / "CHANGELOG.md",
    ROOT / "SECURITY.md",
]


def without_blocks(page: Path) -> str:
    text = page.read_text(encoding="utf-8")
    return re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)


def mapped() -> dict[str, set[str]]:
    """Folder → the files that the architecture page has in its map of it."""
    found = {}
    for part in re.split("^### ", ARCHITECTURE.read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]:
        head, _, text = part.partition("\n")
        cells = re.findall(r"^\| (`.*?) \|", text.partition("\n## ")[0], re.MULTILINE)
        names = {name for cell in cells for name in re.findall("`([^`]+)`", cell)}
        found[head.partition(":")[0]] = names
    return found


def test_the_map_has_every_module_and_no_other() -> None:
    for folder in ("", "_bench", "_bpf", "_cgroup", "_cli", "_pins", "_sources"):
        modules = {path.name for path in (PACKAGE / folder).glob("*.py")}
        names = mapped()[f"pymemcgbpf/{folder}/" if folder else "pymemcgbpf/"]
        assert {name for name in names if name.endswith(".py")} == modules


def test_the_map_has_every_folder() -> None:
    folders = {path.parent.relative_to(PACKAGE).as_posix() for path in PACKAGE.rglob("*.py")}
    wanted = {"pymemcgbpf/" if name == "." else f"pymemcgbpf/{name}/" for name in folders}
    assert {name for name in mapped() if name.startswith("pymemcgbpf/")} == wanted
    for folder in ("bpf_src", "tests"):
        for name in mapped()[f"{folder}/"]:
            assert (ROOT / folder / name).exists(), f"{folder}/{name}"


def test_every_module_that_a_page_names_exists() -> None:
    for page in PAGES:
        # NAME stands for the name of a file that somebody is to write.
        for name in re.findall(r"`((?:\w+/)+(?!NAME)[a-z_]+\.py)`", without_blocks(page)):
            inside = name.replace("pymemcgbpf/", "", 1) if name.startswith("pymemcgbpf/") else name
            assert (PACKAGE / inside).exists() or (ROOT / name).exists(), name


def anchors(page: Path) -> set[str]:
    heads = re.findall(r"^#+ (.*)$", without_blocks(page), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", head.lower()).replace(" ", "-") for head in heads}


def test_links_lead_to_files_and_headings() -> None:
    for page in PAGES:
        for target, anchor in re.findall(r"\]\(([^)#]*)(?:#([^)]*))?\)", page.read_text("utf-8")):
            if target.startswith("https://"):
                continue
            found = page.parent / target if target else page
            assert found.exists(), (page, target)
            assert not anchor or anchor in anchors(found), (page, anchor)


def test_the_readme_has_no_relative_link_as_it_is_shown_on_the_package_index() -> None:
    targets = re.findall(r"\]\(([^)]*)\)", (ROOT / "README.md").read_text(encoding="utf-8"))
    assert [target for target in targets if not target.startswith("https://")] == []


def test_every_make_target_that_a_page_names_exists() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z-]+(?:/[a-z-]+)*):", makefile, re.MULTILINE))
    targets.add("build/away/ready")
    for page in [ROOT / "README.md", *PAGES]:
        text = page.read_text(encoding="utf-8")
        named = re.findall(r"(?:`|^)make ([a-z/-]+)", text, re.MULTILINE)
        assert set(named) <= targets, page


def test_the_lab_page_names_every_guest_and_its_commands_parse() -> None:
    text = LAB.read_text(encoding="utf-8")
    for guest in spec.DEFAULT_MATRIX:
        assert guest in text
    for release in spec.USERLANDS:
        assert release in text
    commands = re.findall(r"^build/venv/bin/python -m tests\.vm (.*)$", text, re.MULTILINE)
    assert commands
    for command in commands:
        parse_arguments(command.split())
    with pytest.raises(SystemExit):
        parse_arguments(["--no-such-option"])


def test_the_options_on_the_lab_page_exist(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse_arguments(["--help"])
    words = set(re.findall(r"(?<![\w-])--?[a-z]+", capsys.readouterr().out))
    named = set(re.findall(r"^\| `(--?[a-z]+)", LAB.read_text(encoding="utf-8"), re.MULTILINE))
    assert named and named <= words


def test_the_versions_on_the_pages_are_the_code_s() -> None:
    text = COMPATIBILITY.read_text(encoding="utf-8")
    settings = configparser.ConfigParser()
    settings.read(ROOT / "setup.cfg", encoding="utf-8")
    oldest = settings["options"]["python_requires"].removeprefix(">=")
    assert f"Python {oldest}" in text and f"Python {oldest}" in CONTRIBUTING.read_text("utf-8")
    assert f"is version {_wire.VERSION};" in text
    changes = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert f"\n## {pymemcgbpf.__version__} " in changes
