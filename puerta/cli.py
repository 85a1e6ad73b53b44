"""`puerta-master`: arguments in, exit status out. This is where configuration and processes are put together.

Exit status: 0 after a clean stop, 1 when the server could not boot, 2 for bad usage or a bad configuration.
"""

import argparse
import functools
import os
import sys
from collections.abc import Mapping, Sequence

from puerta import __version__
from puerta.config.load import load
from puerta.config.render import render
from puerta.config.schema import Config
from puerta.errors import ConfigError
from puerta.process import master
from puerta.process.daemon import Readiness, daemonize
from puerta.process.household import ENTRIES, Options
from puerta.process.timing import Timing

CLEAN, CANT_BOOT, BAD_USAGE = 0, 1, 2


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """Exits with status 2 on bad usage, as argparse does."""
    parser = argparse.ArgumentParser(
        prog="puerta-master",
        description="A pre-fork proxy in front of MongoDB sharded clusters and Redis Clusters.",
        epilog="Signals: TERM drain, INT or QUIT stop now, HUP reload, USR1 reopen logs, TTIN/TTOU one worker +/-.",
    )
    parser.add_argument("-c", "--config", metavar="FILE", required=True, help="the configuration")
    parser.add_argument("-t", "--test", action="store_true", help="check the configuration and exit")
    parser.add_argument("--print-config", action="store_true", help="print the configuration as it takes effect")
    parser.add_argument("-d", "--daemon", action="store_true", help="run in the background; returns once it serves")
    parser.add_argument("-p", "--pid-file", metavar="FILE", help="default: {run_dir}/puerta.pid")
    parser.add_argument("-e", "--error-log", metavar="FILE", help="default: stderr; with --daemon {run_dir}/puerta.log")
    parser.add_argument("--version", action="version", version=f"puerta {__version__}")
    return parser.parse_args(argv)


def main(
    argv: Sequence[str] | None = None, *, entries: Mapping[str, str] = ENTRIES, timing: Timing | None = None
) -> int:
    """Run the command. `entries` and `timing` let tests bring roles of their own and shorten the waits."""
    arguments = parse_arguments(argv)
    read = functools.partial(load, arguments.config, os.environ)
    try:
        config = read()
    except ConfigError as error:
        for problem in error.problems:
            print(problem, file=sys.stderr)
        return BAD_USAGE
    if arguments.print_config:
        sys.stdout.write(render(config))
    if arguments.test:
        print(f"{arguments.config}: ok ({_summary(config)})")
    if arguments.print_config or arguments.test:
        return CLEAN
    options = Options(
        config_path=os.path.abspath(arguments.config),
        load=read,
        pid_file=_absolute(arguments.pid_file),
        error_log=_absolute(arguments.error_log),
        daemon=arguments.daemon,
        entries=entries,
        timing=timing or Timing(),
    )
    return master.run(config, options, daemonize() if arguments.daemon else Readiness())


def _absolute(path: str | None) -> str | None:
    return None if path is None else os.path.abspath(path)


def _summary(config: Config) -> str:
    count = len(config.routes)
    return f"{count} route{'' if count == 1 else 's'}: {', '.join(route.name for route in config.routes)}"
