"""What all commands share: quiet imports, one line for a user's mistake, exit codes."""

import argparse
import difflib
import logging
import os
import signal
import sys
import tempfile
import threading
import types
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from pipelines.errors import USER_ERROR, UserError


def run_command(
    parser: argparse.ArgumentParser, action: Callable[[argparse.Namespace], int | None], argv: Sequence[str] | None
) -> int:
    """Parses the arguments, acts, and turns a user's mistake into one line on standard error.

    Args:
        parser: the command's arguments.
        action: what the command does with them; it returns an exit code, or None for 0.
        argv: the arguments; those of the process where None.

    Returns:
        The exit code: 2 for a user's mistake, 138 where trying again may help, 128 + the signal's number where a signal
        ended the command.
    """
    arguments = parser.parse_args(argv)
    if os.getpid() == 1 and threading.current_thread() is threading.main_thread():
        # In a container the system ignores SIGTERM to process 1, unless it says itself what to do.
        signal.signal(signal.SIGTERM, lambda number, frame: os._exit(128 + number))
    for stream in (sys.stdout, sys.stderr):
        # Class names and texts may be Chinese whatever the locale says; a replacement is better than a traceback.
        stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    try:
        return action(arguments) or 0
    except UserError as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return error.exit_code
    except PermissionError as error:
        print(f"error: no permission for {error.filename}; change it or choose another place", file=sys.stderr)
        return USER_ERROR
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # The reader (`head`, say) has seen enough. Python would complain once more when it flushes at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141


def make_parser(command: str, description: str, epilog: str = "") -> argparse.ArgumentParser:
    """An argument parser with the project's habits.

    Args:
        command: the module's name after `python -m`.
        description: one sentence.
        epilog: examples, shown as they are.
    """
    return _Parser(
        prog=f"python -m {command}",
        description=description,
        epilog=epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )


class _Parser(argparse.ArgumentParser):
    """Tells a mistake in the arguments in one line, as every other mistake is told."""

    def error(self, message: str) -> NoReturn:
        advice = f"see {self.prog} --help"
        if message.startswith("unrecognized arguments: "):
            # Such as --dry-run, as other programs write it.
            options = [name for name in self._option_string_actions if name.startswith("--")]
            for word in message.split():
                name = "--" + word.partition("=")[0].removeprefix("--").replace("-", "_")
                near = difflib.get_close_matches(name, options, n=1, cutoff=0.7) if word.startswith("--") else []
                if near:
                    advice = f"did you mean {near[0]}?"
                    break
        self.exit(USER_ERROR, f"error: {message}; {advice}\n")


def callable_module(name: str, function: Callable) -> None:
    """Lets a command's module be called as the function of its name.

    `tfbigmodel.train` is both a function of the public face and the module that `python -m tfbigmodel.train` runs;
    Python binds the module to that name as soon as anything imports it.

    Args:
        name: the module's `__name__`.
        function: what a call of the module calls.
    """

    class CallableModule(types.ModuleType):
        def __call__(self, *args: Any, **kwargs: Any) -> Any:
            return function(*args, **kwargs)

    sys.modules[name].__class__ = CallableModule


def say(text: str) -> None:
    """Prints a line for the user at once."""
    print(text, flush=True)


def import_tensorflow() -> None:
    """Imports TensorFlow without its greetings, which would drown the messages that matter.

    Some of them cannot be switched off: they are written before TensorFlow reads its settings. What was held back is
    shown if the import fails. Its "errors" are held back too: real ones are raised, and what is left over are remarks
    such as oneDNN's on a type that it leaves to others. Set TF_CPP_MIN_LOG_LEVEL to 0 to see everything.
    """
    if os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3") == "0":
        return
    # That functions are traced for one shape after another is meant; a user can do nothing about it.
    logging.getLogger("tensorflow").addFilter(lambda record: "retracing" not in record.getMessage())
    sys.stderr.flush()
    with tempfile.TemporaryFile() as held_back:
        standard_error = os.dup(2)
        os.dup2(held_back.fileno(), 2)
        try:
            import tensorflow as tf

            tf.config.list_physical_devices()  # looks for GPUs, and says so at length where there are none
        except BaseException:
            held_back.seek(0)
            os.write(standard_error, held_back.read())
            raise
        finally:
            os.dup2(standard_error, 2)
            os.close(standard_error)
