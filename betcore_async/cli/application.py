"""All commands under one name. Commands import what they need when they run, so that `--help` is quick."""

import typer

from betcore_async.cli.audit import audit
from betcore_async.cli.config import application as config
from betcore_async.cli.demo import demo
from betcore_async.cli.doctor import doctor
from betcore_async.cli.migrate import application as migrate
from betcore_async.cli.partitions import application as partitions
from betcore_async.cli.redis import redis
from betcore_async.cli.relay import relay

application = typer.Typer(
    name="betcore",
    help="The data layer of a betting platform: weekly SQLite files, prices and live messages in Redis.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",  # else paragraphs keep the line ends of their docstrings
    pretty_exceptions_enable=False,  # a fault of our own shows as a plain traceback, without local variables
    context_settings={"help_option_names": ["-h", "--help"]},
)
application.command("audit")(audit)
application.command("demo")(demo)
application.command("doctor")(doctor)
application.command("redis")(redis)
application.command("relay")(relay)
application.add_typer(config, name="config")
application.add_typer(migrate, name="migrate")
application.add_typer(partitions, name="partitions")
