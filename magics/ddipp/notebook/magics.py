"""The magics: ``%makedip``, ``%dipstat``, ``%%dip``, ``%dipush``, ``%dipull`` and the others."""

from __future__ import annotations

import argparse
from typing import Any

from IPython.core.magic import Magics, line_cell_magic, line_magic, magics_class

from ..apps import load_app
from ..cluster.clusters import left_behind
from ..cluster.launchers import engine_environment
from ..cluster.nursery import kept_warm
from ..errors import DdippError
from ..group.group import Group
from ..group.report import table as report_table
from ..shared.devices import choose_gpus, parse_ids
from . import options
from .autodip import LOCAL_MARK, Autodip
from .display import say
from .lookup import RemoteNames
from .place import place_of
from .status import LiveTable

PLACES = {
    "remote": "remote",
    "remotely": "remote",
    "local": "local",
    "locally": "local",
    "everywhere": "everywhere",
}


def _check_start(start: dict[str, Any]) -> None:
    """Complain of what can't be started."""
    if start["app"] != "auto":
        load_app(start["app"])
    if start["gpus"] is not None:
        choose_gpus(start["gpus"] if isinstance(start["gpus"], str) else "all")
    elif start["ranks"] is None or start["ranks"] < 1:
        raise DdippError("how many ranks? Give GPUs (-g all) or a number of CPU ranks (-n 2)")


@magics_class
class DdippMagics(Magics):
    """Directs cells to the notebook or to a group of ranks."""

    shell: Any

    def __init__(self, shell: Any) -> None:
        super().__init__(shell)
        self.group: Group | None = None
        self._last_start: dict[str, Any] | None = None
        self._table: LiveTable | None = None
        self._autodip = Autodip(shell)
        # ipyparallel's client looks for it when ranks send messages of widgets.
        self._shell_had_kernel = hasattr(shell, "kernel")
        if not self._shell_had_kernel:
            shell.kernel = None
        self._names = RemoteNames(shell, lambda: self.group, self._autodip)
        for note in left_behind():
            say(
                f"a group that an earlier notebook has left still runs ({note}); take it back "
                f"with: %makedip --attach {note.cluster_id}"
            )

    def unload(self) -> None:
        """End the group and leave IPython as it was."""
        self._names.remove()
        self._autodip.remove()
        if not self._shell_had_kernel:
            del self.shell.kernel
        self._end_group()

    # --- the group ---------------------------------------------------------------------------

    @line_magic
    @options.documented(options.makedip)
    def makedip(self, line: str) -> None:
        """Make, show, change or end the group."""
        args = options.makedip().read(line)
        if args is None:
            return
        if args.kill:
            return self._kill()
        if args.renew is not None:
            return self._need_group().renew(parse_ids(args.renew) if args.renew else None)
        places = (args.gpus, args.ranks, args.attach, args.connect)
        asked = any(place is not None for place in places)
        if not asked and not args.restart:
            shown = args.info or args.why or args.grace is not None or args.hang_after is not None
            if shown:
                return self._adjust(args)
            if self._last_start is None:
                raise DdippError("say where: %makedip -g all (GPUs) or %makedip -n 2 (CPU ranks)")
        if self.group is not None and not args.restart:
            raise DdippError(
                f"there is a group of {self.group.world_size} ranks; end it with %makedip -k or "
                "replace it with -r"
            )
        self._make(args, asked)
        self._adjust(args)

    def _make(self, args: argparse.Namespace, asked: bool) -> None:
        gpus = None if self.group is None else self.group.gpus
        with kept_warm(engine_environment(gpus)):
            self._make_anew(args, asked)

    def _make_anew(self, args: argparse.Namespace, asked: bool) -> None:
        start = self._last_start
        if asked or start is None:
            names = ("gpus", "ranks", "connect", "app")
            start = {name: getattr(args, name) for name in names}
        if args.attach is None and start.get("connect") is None:
            _check_start(start)  # while the present group still lives
        self._end_group()
        if args.attach is not None:
            self.group = Group.resume(args.attach or None, timeout_s=args.timeout)
            gpus, ranks = self.group.gpus, self.group.world_size
            start = {"gpus": gpus, "ranks": ranks if gpus is None else None, "app": self.group.app}
        elif start.get("connect") is not None:
            self.group = Group.connect(
                start["connect"] or None, app=start["app"], timeout_s=args.timeout
            )
        else:
            self.group = Group.start(
                start["ranks"],
                start["gpus"],
                app=start["app"],
                timeout_s=args.timeout,
                verbose=args.verbose,
                linger_s=args.linger,
                fresh=args.fresh,
            )
        self._last_start = start
        print(self._describe(self.group))

    def _adjust(self, args: argparse.Namespace) -> None:
        """Do what is asked of a group that is there."""
        group = self._need_group()
        if args.grace is not None:
            group.limits.grace_s = args.grace
        if args.hang_after is not None:
            group.limits.hang_after_s = args.hang_after or None
        if args.info:
            self._show_table()
        if args.why:
            print(report_table(group.reports()))

    @staticmethod
    def _describe(group: Group) -> str:
        devices = list(dict.fromkeys(group.devices))
        word = "rank" if group.world_size == 1 else "ranks"
        return (
            f"ddipp: {group.world_size} {word} on {', '.join(devices)}, {group.backend}, "
            f"app {group.app}"
        )

    def _kill(self) -> None:
        if self.group is None:
            raise DdippError("there is no group to end")
        ranks = self.group.world_size
        self._end_group()
        also = "; cells run in the notebook" if self._autodip.on else ""
        self._autodip.flags = None
        print(f"ddipp: ended {ranks} {'rank' if ranks == 1 else 'ranks'}{also}")

    def _end_group(self) -> None:
        self._end_table("the group has ended")
        if self.group is not None:
            group, self.group = self.group, None
            group.shutdown()

    @line_magic
    def dipstat(self, line: str) -> None:
        """``%dipstat``: show the ranks and what they do.

        In a notebook the table stays up to date, also while a cell runs.
        """
        if line.strip():
            raise DdippError("%dipstat has no options")
        self._show_table()

    def _show_table(self) -> None:
        group = self._need_group()
        self._end_table("a newer table is further down")
        self._table = LiveTable(lambda: group.reports(stack=False), group.devices)
        self._table.show()

    def _end_table(self, note: str) -> None:
        if self._table is not None:
            self._table.end(note)
            self._table = None

    def _need_group(self) -> Group:
        if self.group is None:
            raise DdippError("there is no group; make one with %makedip -g all or %makedip -n 2")
        return self.group

    # --- cells -------------------------------------------------------------------------------

    @line_cell_magic
    @options.documented(options.dip)
    def dip(self, line: str, cell: str | None = None) -> None:
        """Run a cell on the ranks, here, or here and there."""
        args = options.dip().read(line)
        if args is None:
            return
        place = PLACES.get(args.where)
        if place is None:
            raise DdippError(f"%%dip {args.where}: say remote, local or everywhere")
        if place != "local":
            group = self._need_group()
            see = self._ranks_to_see(args, group)
        if args.replay:
            return self._need_group().replay(self._ranks_to_see(args, self._need_group()))
        if cell is None:
            raise DdippError("%dip --replay, or %%dip above the code that is to run on the ranks")
        if place in ("local", "everywhere"):
            with self._autodip.suspended():
                result = self.shell.run_cell(cell)
            if not result.success:
                raise DdippError(
                    "the cell failed here"
                    + ("; it was not run on the ranks" if place == "everywhere" else "")
                )
        if place in ("remote", "everywhere"):
            how = {"see": see, "quiet": args.quiet, "ranks": args.ranks}
            if args.appcmd:
                group.run(args.appcmd, **how)
            stands = place_of(self.shell, cell)
            group.run(cell, timeout_s=args.timeout, place=stands, **how)

    @staticmethod
    def _ranks_to_see(args: argparse.Namespace, group: Group) -> list[int] | None:
        if args.see is None:
            return [args.ranks[0]] if args.ranks else [0]
        see = None if args.see.lower() == "all" else parse_ids(args.see)
        unknown = [rank for rank in [*(see or []), *(args.ranks or [])] if rank >= group.world_size]
        if unknown:
            raise DdippError(
                f"there is no rank {unknown[0]}; the group has ranks 0-{group.world_size - 1}"
            )
        return see

    @line_magic
    def dipper(self, line: str) -> None:
        """``%dipper name``: give the group object, a :class:`ddipp.Group`, that name here."""
        name = line.strip()
        if not name.isidentifier():
            raise DdippError("which name? %dipper name")
        self.shell.user_ns[name] = self._need_group()

    @line_magic
    def autodip(self, line: str) -> None:
        """``%autodip on [flags of %%dip]`` directs all cells to the ranks, ``off`` ends it."""
        word, _, flags = line.strip().partition(" ")
        if word == "on":
            self._need_group()
            options.dip().read(flags)
            self._autodip.flags = flags.strip()
            print(f"ddipp: cells run on the ranks; those with {LOCAL_MARK} stay here")
        elif word == "off":
            self._autodip.flags = None
            print("ddipp: cells run in the notebook")
        else:
            raise DdippError("%autodip on, or %autodip off")

    # --- variables ---------------------------------------------------------------------------

    @line_magic
    def dipush(self, line: str) -> None:
        """``%dipush a b``: set variables of the notebook on all ranks."""
        names = line.replace(",", " ").split()
        if not names:
            raise DdippError("which variables? %dipush name [name ...]")
        group = self._need_group()
        missing = [name for name in names if name not in self.shell.user_ns]
        if missing:
            raise DdippError(
                f"the notebook has no variable {', '.join(missing)}; nothing was pushed"
            )
        group.push({name: self.shell.user_ns[name] for name in names})

    @line_magic
    @options.documented(options.dipull)
    def dipull(self, line: str) -> None:
        """Get variables of a rank, or of all."""
        args = options.dipull().read(line.replace(",", " "))
        if args is None:
            return
        group = self._need_group()
        if args.gather:
            found = group.gather(args.names)
        elif args.rank is None:
            found = group.pull_all(args.names)
        else:
            found = group.pull(args.names, args.rank)
        self.shell.user_ns.update(found)

    @line_magic
    @options.documented(options.dipsync)
    def dipsync(self, line: str) -> None:
        """Copy variables of one rank to others."""
        args = options.dipsync().read(line)  # only names are separated by commas, too
        if args is None:
            return
        names = [name for text in args.names for name in text.split(",") if name]
        done = self._need_group().sync(names or None, args.source, args.targets)
        targets = ", ".join(map(str, done["targets"]))
        print(f"ddipp: {', '.join(done['names'])}: from rank {done['source']} to {targets}")
        for name, why in done["skipped"].items():
            print(f"ddipp: not copied: {name} ({why})")
