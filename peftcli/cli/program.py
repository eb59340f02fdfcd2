"""The program ``peft``: its commands, its global options, and the one place where errors become words."""

from __future__ import annotations

import os
import signal
import sys
import traceback
from collections.abc import Sequence
from typing import Annotated

import typer

from peftcli.cli import (
    check,
    compare,
    console,
    data,
    export,
    import_,
    init,
    launch,
    merge,
    methods,
    params,
    predict,
    schema,
    train,
    unmerge,
    verify,
)
from peftcli.cli import eval as eval_  # the command's name is also a builtin's
from peftcli.cli.environment import DEBUG, end_with_parent, installed_version, is_launched, prepare
from peftcli.errors import PeftcliError, RecipeError

_GLOBAL = ("--debug", "--offline")
_INTERRUPTED = 128 + signal.SIGINT

_EPILOG = """\b
Start here:
  peft init recipe.yaml            write a commented recipe
  peft check recipe.yaml           show every mistake in it at once
  peft data recipe.yaml            show the rows as the network will read them
  peft train recipe.yaml           train, measure, report
  peft methods                     list the methods

\b
Exit codes:
   0  done                          6  training diverged
   1  a mistake in peftcli          7  disk, memory, permission or a lock
   2  usage or recipe               8  a process of a distributed run failed
   3  data                          9  done, but a check failed
   4  base model or tokenizer      75  stopped with a checkpoint: run again with --resume
   5  artifact or checkpoint  130/143  stopped before anything was saved
"""

app = typer.Typer(
    name="peft",
    help="Adapt a pretrained model by training a small delta: train, eval, merge, params.",
    epilog=_EPILOG,
    add_completion=False,
    rich_markup_mode=None,  # plain help starts twice as fast and keeps the examples as they are written
    pretty_exceptions_enable=False,
)


def _show_version(asked: bool) -> None:
    if asked:
        console.data(f"peftcli {installed_version('peftcli')}")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def settings(
    context: typer.Context,
    offline: Annotated[
        bool, typer.Option("--offline", help="Use local files only; never ask a hub. Allowed anywhere on the line.")
    ] = False,
    debug: Annotated[  # noqa: ARG001  # read by run(), before there is a command
        bool, typer.Option("--debug", help="Show the traceback of an error. Allowed anywhere on the line.")
    ] = False,
    version: Annotated[  # noqa: ARG001  # answered by its callback
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Adapt a pretrained model by training a small delta: train, eval, merge, params."""
    if context.invoked_subcommand is None:
        console.data(context.get_help())
        raise typer.Exit(RecipeError.exit_code)
    prepare(offline=offline)


for _module in (
    *(train, eval_, predict, merge, params, check, data, init, methods, schema, verify, unmerge, compare),
    *(export, import_),
):
    app.command(_module.NAME, epilog=_module.EXAMPLES)(_module.run)


def main() -> None:
    """Run the command line and leave with its exit code."""
    sys.exit(run(sys.argv[1:]))


def run(arguments: Sequence[str]) -> int:
    """Run ``peft ARGUMENTS`` and return its exit code; nothing but SystemExit is ever raised."""
    written = list(arguments)
    if "--debug" in written:
        os.environ[DEBUG] = "1"
    if is_launched() and launch.FOLDER in os.environ:
        end_with_parent(signal.SIGKILL)
    try:
        result = app(args=_global_first(written), prog_name="peft", standalone_mode=False)
    except typer.TyperException as mistake:
        return _fail(_usage(mistake))
    except PeftcliError as mistake:
        return _fail(mistake)
    except KeyboardInterrupt:
        return _INTERRUPTED
    except SystemExit as leaving:
        return _left(leaving)
    except Exception as unforeseen:  # noqa: BLE001  # the boundary: what arrives here becomes words and an exit code
        from peftcli.cli import crash

        return _fail(crash.translate(unforeseen, written))
    if result == _INTERRUPTED:
        console.note("stopped")
    return result if isinstance(result, int) else 0


def _fail(mistake: PeftcliError) -> int:
    if DEBUG in os.environ:
        console.traceback(traceback.format_exc())
    if not launch.record_failure(mistake):
        console.error(mistake)
    return mistake.exit_code


def _left(leaving: SystemExit) -> int:
    """Return the exit code of an exit that something else asked for; a reader that closed the pipe is no failure."""
    if isinstance(leaving.__context__, BrokenPipeError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # what is still buffered has nowhere to go
        return 0
    return leaving.code if isinstance(leaving.code, int) else int(leaving.code is not None)


def _usage(mistake: typer.TyperException) -> RecipeError:
    """Return Typer's complaint about the command line in our form."""
    context = getattr(mistake, "ctx", None)
    message = mistake.format_message().rstrip(".")
    command = context.command_path if context else "peft"
    return RecipeError(message[:1].lower() + message[1:], hint=f"See '{command} --help'.")


def _global_first(arguments: Sequence[str]) -> list[str]:
    """Return ``arguments`` with the global options, which may stand anywhere, before the command."""
    everywhere = [a for a in arguments if a in _GLOBAL]
    return [*everywhere, *(a for a in arguments if a not in _GLOBAL)]
