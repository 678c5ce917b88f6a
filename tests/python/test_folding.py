"""Equal lines of ranks become one, in the order of each rank."""

from __future__ import annotations

import random

from ddipp.notebook.folding import Folder, Line, ranks_label


def test_ranks_are_named_by_spans():
    assert ranks_label([1]) == "rank 1"
    assert ranks_label([0, 1, 2, 3]) == "ranks 0-3"
    assert ranks_label([3, 0, 2, 6]) == "ranks 0, 2-3, 6"


def test_lines_that_all_ranks_write_are_one_and_do_not_wait():
    folder = Folder([0, 1])
    folder.add(0, "stdout", "a\nb\n", 0.0)
    assert folder.take(0.1) == []
    folder.add(1, "stdout", "a\nb\n", 0.1)
    assert folder.take(0.1) == [
        Line((0, 1), "stdout", "a\n"),
        Line((0, 1), "stdout", "b\n"),
    ]


def test_a_line_waits_for_its_like_only_so_long():
    folder = Folder([0, 1, 2], patience_s=0.25)
    folder.add(0, "stdout", "a\n", 0.0)
    folder.add(2, "stdout", "a\n", 0.1)
    assert folder.take(0.2) == []
    assert folder.take(0.25) == [Line((0, 2), "stdout", "a\n")]


def test_unfinished_lines_come_after_a_while_and_go_on():
    folder = Folder([0, 1])
    folder.add(0, "stdout", "x", 0.0)
    folder.add(0, "stdout", "y", 0.1)
    assert folder.take(0.2) == []
    assert folder.take(0.3) == [Line((0,), "stdout", "xy")]
    folder.add(0, "stdout", "z\n", 0.3)
    assert folder.take(0.3, everything=True) == [Line((0,), "stdout", "z\n")]


def test_streams_are_not_mixed():
    folder = Folder([0, 1])
    folder.add(0, "stdout", "a\n", 0.0)
    folder.add(1, "stderr", "a\n", 0.0)
    assert len(folder.take(0.0, everything=True)) == 2


def test_nothing_is_lost_and_the_order_of_each_rank_is_kept():
    for seed in range(200):
        rng = random.Random(seed)
        folder = Folder([0, 1, 2])
        written: dict[int, str] = {0: "", 1: "", 2: ""}
        shown: dict[int, str] = {0: "", 1: "", 2: ""}
        now = 0.0
        for _ in range(60):
            now += rng.random() * 0.2
            rank = rng.randrange(3)
            text = "".join(rng.choice("ab\n") for _ in range(rng.randrange(1, 5)))
            written[rank] += text
            folder.add(rank, "stdout", text, now)
            for line in folder.take(now, everything=rng.random() < 0.1):
                for who in line.ranks:
                    shown[who] += line.text
        for line in folder.take(now, everything=True):
            for who in line.ranks:
                shown[who] += line.text
        assert shown == written
