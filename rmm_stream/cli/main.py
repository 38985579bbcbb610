"""`rmm-stream`: the table of commands, and whose fault an exit code says it was.

0 done, 1 failed while running, 2 wrong usage or configuration, 3 the shard belongs to another process now.
A command is a file with `add_parser(subparsers)` and `run(args) -> exit code`; it is loaded when it is asked for.
"""

import argparse
import os
import sys
import traceback
from collections.abc import Sequence
from importlib import import_module

from .. import __version__
from ..errors import ConfigError, LeaseLost, RmmError

#: name -> (file, one line for the list). Literal, so that grep finds it and `--help` loads no command.
COMMANDS = {
    "demo": ("rmm_stream.cli.demo", "the whole thing on one machine, in about a minute"),
    "run": ("rmm_stream.cli.run", "the live service of a configuration, until SIGTERM"),
    "check": ("rmm_stream.cli.check", "validate a configuration, compile the kernels, print the memory it needs"),
    "simulate": ("rmm_stream.cli.simulate", "a detector with planted defects that speaks a real protocol"),
    "batch": ("rmm_stream.cli.batch", "the same mask maker over files"),
    "watch": ("rmm_stream.cli.watch", "print mask updates as they come, or save the present mask"),
    "expose": ("rmm_stream.cli.expose", "tell a running service what the detector sees now"),
    "history": ("rmm_stream.cli.history", "numbered versions of the mask: list, compare, put an older one in force"),
    "accept": ("rmm_stream.cli.accept", "publish held maps of a running service after all"),
    "reject": ("rmm_stream.cli.reject", "dismiss held maps of a running service: what is published stays"),
}

DONE, FAILED, WRONG, LOST, INTERRUPTED = 0, 1, 2, 3, 130


class Parser(argparse.ArgumentParser):
    """argparse with errors of one line."""

    def error(self, message: str):
        self.exit(WRONG, f"{self.prog}: {message}; see {self.prog} --help\n")


def parser(wanted: str | None = None) -> Parser:
    """The parser of all commands; the arguments of `wanted` alone, so that one command does not load the others."""
    top = Parser(
        prog="rmm-stream",
        usage="rmm-stream [--version] [--traceback] COMMAND ...",
        description="A robust bad-pixel mask, made live from a detector's stream.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="commands (each with --help):\n"
        + "\n".join(f"  {name:<10}{text}" for name, (_, text) in COMMANDS.items()),
    )
    top.add_argument("--version", action="version", version=f"rmm-stream {__version__}")
    top.add_argument("--traceback", action="store_true", help="after an unexpected error, show where it was")
    subparsers = top.add_subparsers(
        prog="rmm-stream", dest="command", required=True, metavar="COMMAND", help=argparse.SUPPRESS
    )
    if wanted in COMMANDS:
        import_module(COMMANDS[wanted][0]).add_parser(subparsers)
    else:
        for name in COMMANDS:
            subparsers.add_parser(name)
    return top


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command. Returns the exit code; errors are one line on stderr, with the next step."""
    argv = list(sys.argv[1:] if argv is None else argv)
    wanted = next((word for word in argv if not word.startswith("-")), None)
    try:
        args = parser(wanted).parse_args(argv)
        return import_module(COMMANDS[args.command][0]).run(args)
    except SystemExit as e:  # --help, --version, wrong usage
        return e.code if isinstance(e.code, int) else WRONG
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:  # `rmm-stream watch | head`: the reader has had enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return DONE
    except ConfigError as e:
        return _say(e, WRONG)
    except LeaseLost as e:
        return _say(e, LOST)
    except (RmmError, TimeoutError) as e:
        return _say(e, FAILED)
    except OSError as e:
        return _say(e, FAILED)
    except Exception as e:
        if "--traceback" in argv:
            traceback.print_exc()
        return _say(
            f"unexpected {type(e).__name__}: {e} (our fault; --traceback before the command shows where)", FAILED
        )


def _say(error: Exception | str, code: int) -> int:
    print("rmm-stream:", " ".join(str(error).split()), file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
