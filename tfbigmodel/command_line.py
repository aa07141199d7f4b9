"""What all commands share; it is `pipelines.command_line`, since `pipelines` has commands too."""

from pipelines.command_line import (
    USER_ERROR,
    callable_module,
    import_tensorflow,
    make_parser,
    run_command,
    say,
)

__all__ = ["USER_ERROR", "callable_module", "import_tensorflow", "make_parser", "run_command", "say"]
