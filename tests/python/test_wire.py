"""Our own messages are defined once: in C++, with a mirror in Python and a page in the docs."""

from __future__ import annotations

import re
from pathlib import Path

from ddipp.shared import wire

ROOT = Path(__file__).parents[2]
HEADER = (ROOT / "protocol/extensions.hpp").read_text()
PAGE = (ROOT / "docs/protocol.md").read_text()


def constants(name: str) -> list[str]:
    return re.findall(rf'constexpr const char\* {name} = "(.*?)";', HEADER)


def test_both_languages_have_the_same_names():
    requests = [wire.CUT_REQUEST, wire.REPORT_REQUEST, wire.REPLAY_REQUEST]
    assert constants("type") == requests
    assert constants("kEntry") == [wire.ENTRY]
    assert re.findall(r"kVersion = (\d+);", HEADER) == [str(wire.VERSION)]
    keys = constants("key")
    assert keys == [
        *set(wire.interrupt(2, "id")) - {"sig"},
        *set(wire.cell_terms(1.0)[wire.ENTRY]) - {"version"},
        wire.Facts.DEATH,
    ]


def test_both_languages_have_the_same_fields():
    for struct, content in [
        ("CutRequest", wire.cut(1)),
        ("ReportRequest", wire.report("", stack=True)),
    ]:
        body = re.search(rf"struct {struct} \{{(.*?)\n\}};", HEADER, re.DOTALL)
        assert body is not None
        fields = re.findall(r"^  (?:std::\S+|bool|int) (\w+)\b(?: = .*)?;", body[1], re.MULTILINE)
        assert sorted(fields) == sorted(content), struct


def test_no_other_file_spells_our_messages():
    spelled = re.compile(r"ddipp_(cut|report|replay)_(request|reply)")
    folders = ["protocol", "controller", "engine", "launcher", "common", "magics"]
    for folder in folders:
        for file in (ROOT / folder).rglob("*"):
            if file.suffix not in (".cpp", ".hpp", ".py") or file.name in (
                "extensions.hpp",
                "wire.py",
            ):
                continue
            for line in file.read_text().splitlines():
                said = spelled.search(line)
                comment = line.lstrip().startswith(("//", "#")) or "``" in line
                assert not said or comment, f"{file.relative_to(ROOT)}: {line.strip()}"


def test_the_page_tells_of_all_of_them():
    for name in [*constants("type"), *constants("reply_type"), *constants("key")]:
        assert name in PAGE, name
    for fact in (wire.Facts.CONSEQUENCE, wire.Facts.SHOWN, wire.Facts.DEATH):
        assert fact in PAGE


def test_the_stub_of_the_engine_names_its_functions():
    table = (ROOT / "engine/host/python_module.cpp").read_text().partition("methods[]")[2]
    functions = re.findall(r'^    \{"(\w+)", \w+, METH_', table, re.MULTILINE)
    stub = (ROOT / "engine/stubs/_ddipp_engine.pyi").read_text()
    assert re.findall(r"^def (\w+)\(", stub, re.MULTILINE) == functions
