"""What several ranks show becomes one text: equal lines once, in the order of each rank."""

from __future__ import annotations

import random
from typing import Any

import pytest
from ddipp.notebook.display import OutputView
from ddipp.notebook.renderers import InPlace, LineByLine
from ddipp.notebook.transcript import Transcript, as_text, ranks_label


def test_ranks_are_named_by_spans():
    assert ranks_label([1]) == "rank 1"
    assert ranks_label([0, 1, 2, 3]) == "ranks 0-3"
    assert ranks_label([3, 0, 2, 6]) == "ranks 0, 2-3, 6"


class Lines:
    """Streams that write what a transcript says."""

    def __init__(self, ranks: list[int], live: bool) -> None:
        self.transcript = Transcript(ranks, LineByLine.PATIENCE_S)
        self.renderer = LineByLine(self._write, self._rich, live)
        self.written: list[tuple[str, str]] = []

    def _write(self, stream: str, text: str) -> None:
        self.written.append((stream, text))

    def _rich(self, place: int) -> None:
        self.written.append(("rich", self.transcript.entries[place].text))

    def add(self, rank: int, text: str, now: float, stream: str = "stdout") -> None:
        self.transcript.add(rank, stream, text, now)

    def take(self, now: float, *, everything: bool = False) -> str:
        self.renderer.render(self.transcript, now, everything=everything)
        taken, self.written = self.written, []
        return "".join(text for _, text in taken)


# --- for those who read it later ----------------------------------------------------------------


def test_lines_that_all_ranks_write_are_one_and_do_not_wait():
    lines = Lines([0, 1], live=False)
    lines.add(0, "a\nb\n", 0.0)
    assert lines.take(0.1) == ""
    lines.add(1, "a\nb\n", 0.1)
    assert lines.take(0.1) == "[ranks 0-1]\na\nb\n"


def test_a_line_waits_for_its_like_only_so_long():
    lines = Lines([0, 1, 2], live=False)
    lines.add(0, "a\n", 0.0)
    lines.add(2, "a\n", 0.1)
    assert lines.take(0.2) == ""
    assert lines.take(0.25) == "[ranks 0, 2]\na\n"
    lines.add(1, "a\n", 0.3)
    assert lines.take(0.3) == "" and lines.take(0.6) == "[rank 1]\na\n"


def test_unfinished_lines_come_after_a_while_and_go_on():
    lines = Lines([0, 1], live=False)
    lines.add(0, "x", 0.0)
    lines.add(0, "y", 0.1)
    assert lines.take(0.2) == ""
    assert lines.take(0.3) == "[rank 0]\nxy"
    lines.add(0, "z\n", 0.3)
    assert lines.take(0.3, everything=True) == "z\n"


def test_streams_are_not_mixed():
    lines = Lines([0, 1], live=False)
    lines.add(0, "a\n", 0.0)
    lines.add(1, "a\n", 0.0, "stderr")
    lines.renderer.render(lines.transcript, 0.0, everything=True)
    assert [stream for stream, _ in lines.written] == ["stdout", "stderr"]
    assert lines.take(0.0) == "[rank 0]\na\n[rank 1]\na\n"


@pytest.mark.parametrize("live", [False, True])
def test_nothing_is_lost_and_the_order_of_each_rank_is_kept(live: bool):
    for seed in range(200):
        rng = random.Random(seed)
        lines = Lines([0, 1, 2], live)
        written: dict[int, str] = {0: "", 1: "", 2: ""}
        shown, now = "", 0.0
        for _ in range(60):
            now += rng.random() * 0.2
            rank = rng.randrange(3)
            text = "".join(rng.choice("ab\n") for _ in range(rng.randrange(1, 5)))
            written[rank] += text
            lines.add(rank, text, now)
            shown += lines.take(now, everything=rng.random() < 0.1)
        shown += lines.take(now, everything=True)
        entries = lines.transcript.entries
        for rank, text in written.items():
            assert "".join(one.text for one in entries if rank in one.ranks) == text
        if not live:
            assert letters_of(shown) == {
                rank: text.replace("\n", "") for rank, text in written.items()
            }


def letters_of(shown: str) -> dict[int, str]:
    """Return what a reader takes for the output of each rank, but for its line ends."""
    found = {0: "", 1: "", 2: ""}
    ranks: list[int] = []
    for line in shown.splitlines():
        if line.startswith("["):
            span = line[1:-1].partition(" ")[2].replace("-", ", ").split(", ")
            ranks = [0, 1, 2] if line == "[ranks 0-2]" else [int(one) for one in span]
        else:
            for rank in ranks:
                found[rank] += line
    return found


# --- for those who look on ----------------------------------------------------------------------


def test_a_line_is_shown_at_once_and_who_has_written_the_same_afterwards():
    lines = Lines([0, 1, 2], live=True)
    lines.add(0, "a\n", 0.0)
    assert lines.take(0.01) == "[rank 0]\na\n"
    lines.add(2, "a\n", 0.05)
    assert lines.take(0.06) == ""
    lines.add(1, "a\n", 0.1)
    lines.add(0, "b\n", 0.1)
    assert lines.take(0.11) == "b\n"
    lines.add(1, "b\n", 0.12)
    lines.add(2, "c\n", 0.12)
    assert lines.take(0.13) == "[rank 2: the same line]\n[rank 2]\nc\n"
    assert lines.take(0.5) == "[rank 1: the same 2 lines]\n"


def test_a_bar_stays_in_its_line_and_labels_do_not_tear_it():
    lines = Lines([0, 1], live=True)
    lines.add(0, "\r10%", 0.0)
    assert lines.take(0.0) == "[rank 0]\n10%"
    lines.add(0, "\r20%", 0.1)
    lines.add(1, "\r15%", 0.1)
    assert lines.take(0.1) == "\r20%"
    lines.add(1, "\r100%\n", 0.2)
    lines.add(0, "\r30%", 0.2)
    assert lines.take(0.2) == "\r30%\n[rank 1]\n100%\n"
    lines.add(0, "\r100%\n", 0.3)
    assert lines.take(0.3) == "[rank 0]\n100%\n"


# --- in place -----------------------------------------------------------------------------------


class Cell:
    """The output of a cell in a notebook."""

    def __init__(self, ranks: list[int]) -> None:
        self.transcript = Transcript(ranks, InPlace.FOLD_S)
        self.renderer = InPlace(self._publish, self._rich, self._clear)
        self.outputs: dict[str, str] = {}
        self.messages = 0
        self._waits = False

    def _publish(self, data: dict[str, Any], display_id: str, update: bool) -> None:
        self.messages += 1
        if not update and self._waits:
            self.outputs, self._waits = {}, False
        assert update == (display_id in self.outputs)
        self.outputs[display_id] = data["text/plain"]

    def _rich(self, place: int) -> None:
        self.outputs[f"rich {len(self.outputs)}"] = self.transcript.entries[place].text

    def _clear(self, wait: bool) -> None:
        if wait:
            self._waits = True
        else:
            self.outputs = {}

    def shown(self, now: float = 0.0) -> list[str]:
        self.renderer.render(self.transcript, now, everything=False)
        return list(self.outputs.values())


def test_lines_that_come_equal_later_are_joined_in_place():
    cell = Cell([0, 1])
    cell.transcript.add(0, "stdout", "a\nb\n", 0.0)
    assert cell.shown() == ["[rank 0]\na\nb"]
    cell.transcript.add(1, "stdout", "a\nc\n", 1.0)
    assert cell.shown() == ["[ranks 0-1]\na\n[rank 0]\nb\n[rank 1]\nc"]
    cell.transcript.add(0, "stdout", "c\n", 2.0)
    assert cell.shown() == ["[ranks 0-1]\na\n[rank 0]\nb\n[ranks 0-1]\nc"]


def test_what_comes_late_is_news():
    cell = Cell([0, 1])
    cell.transcript.add(0, "stdout", "a\n", 0.0)
    cell.transcript.add(1, "stdout", "a\n", InPlace.FOLD_S + 1)
    assert cell.shown() == ["[rank 0]\na\n[rank 1]\na"]


def test_bars_of_ranks_stay_in_their_places():
    cell = Cell([0, 1])
    for step in range(3):
        for rank in (0, 1):
            cell.transcript.add(rank, "stdout", f"\rstep {step} of {rank}", 0.0)
            cell.shown()
    assert cell.shown() == ["[rank 0]\nstep 2 of 0\n[rank 1]\nstep 2 of 1"]
    cell.transcript.add(0, "stdout", "\rdone\n", 0.0)
    cell.transcript.add(1, "stdout", "\r\rdone\r\n", 0.0)
    assert cell.shown() == ["[ranks 0-1]\ndone"]


def test_equal_pictures_are_one_whose_label_says_who():
    cell = Cell([0, 1])
    cell.transcript.add(0, "stdout", "a\n", 0.0)
    cell.transcript.add_rich(0, "picture", 0.0)
    cell.transcript.add(0, "stdout", "b\n", 0.0)
    assert cell.shown() == ["[rank 0]\na", "[rank 0]", "picture", "[rank 0]\nb"]
    cell.transcript.add_rich(1, "picture", 1.0)
    assert cell.shown() == ["[rank 0]\na", "[ranks 0-1]", "picture", "[rank 0]\nb"]


def test_a_rank_clears_what_it_has_shown_and_others_keep_theirs():
    cell = Cell([0, 1])
    for epoch in range(3):
        for rank in (0, 1):
            if epoch:
                cell.transcript.clear(rank)
                cell.renderer.clear(True)
            cell.transcript.add(rank, "stdout", f"epoch {epoch}\n", 0.0)
            cell.transcript.add_rich(rank, f"plot {epoch}", 0.0)
            cell.shown()
    assert cell.shown() == ["[ranks 0-1]\nepoch 2", "[ranks 0-1]", "plot 2"]
    cell.transcript.clear(0)
    cell.renderer.clear(cell.transcript.is_shown())
    cell.transcript.add(0, "stdout", "last\n", 0.0)
    assert cell.shown() == ["[rank 1]\nepoch 2", "[rank 1]", "plot 2", "[rank 0]\nlast"]


def test_many_lines_cost_few_messages():
    cell = Cell([0, 1])
    for turn in range(100):
        lines = "".join(f"line {turn * 1000 + number}\n" for number in range(1000))
        for rank in (0, 1):
            cell.transcript.add(rank, "stdout", lines, turn * 0.01)
        cell.shown()
    assert cell.messages < 300
    assert sum(text.count("line") for text in cell.outputs.values()) == 100_000
    assert all(text.startswith("[ranks 0-1]") for text in cell.outputs.values())


def test_text_of_nobody_is_nothing():
    transcript = Transcript([0], 1.0)
    transcript.add(0, "stdout", "a\n", 0.0)
    transcript.clear(0)
    assert as_text(transcript.entries) == "" and not transcript.is_shown()


def test_what_comes_within_a_tick_is_shown_in_rank_order(capsys):
    view = OutputView(None, 3)
    for rank in (2, 0, 1):
        view.show(rank, stream(f"rank {rank}\n"))
    assert capsys.readouterr().out == "" and view.due_in() <= OutputView.TICK_S
    view.end()
    assert capsys.readouterr().out == ("[rank 0]\nrank 0\n[rank 1]\nrank 1\n[rank 2]\nrank 2\n")


def test_one_rank_is_shown_as_it_comes(capsys):
    view = OutputView([1], 3)
    view.show(0, stream("not seen\n"))
    view.show(1, stream("seen"))
    assert capsys.readouterr().out == "seen"


def test_an_error_that_is_going_to_be_raised_is_not_shown_twice(capsys):
    def failed(name: str) -> dict[str, Any]:
        content = {"ename": name, "evalue": "why", "traceback": [f"{name}: why"]}
        return {"header": {"msg_type": "error"}, "content": content}

    class Raised(Exception):
        ename, evalue = "ValueError", "why"

    view = OutputView([0], 1)
    view.show(0, failed("KeyError"))
    view.show(0, failed("ValueError"))
    view.end([Raised()])
    assert capsys.readouterr().err == "KeyError: why\n"


def stream(text: str) -> dict[str, Any]:
    return {"header": {"msg_type": "stream"}, "content": {"name": "stdout", "text": text}}
