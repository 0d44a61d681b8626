"""What every command starts from: the home that was meant, the clock, and how an error is said."""

import os
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from tools.home import Home

# Whether a file can be read is for the command to say, with a code, file by file.
FILE = click.Path(path_type=Path, readable=False)


def now() -> datetime:
    """The one place where a command reads the clock."""
    return datetime.now(UTC)


class Moment(click.ParamType[datetime]):
    """A moment with its time zone."""

    name = "time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> datetime:
        """Parse RFC 3339; a time without a zone is refused, since two readers would differ."""
        try:
            moment = datetime.fromisoformat(str(value))
        except ValueError:
            self.fail("give a time such as 2026-11-25T08:00:00Z", param, ctx)
        if moment.tzinfo is None:
            self.fail("say which time zone, for instance with a Z at the end", param, ctx)
        if not 1970 <= moment.year <= 9000:
            self.fail("give a time of the years 1970 to 9000", param, ctx)
        return moment.astimezone(UTC)


def home_path(context: click.Context) -> Path:
    """Where the home is, or would be."""
    from tools.home import default_path

    chosen = context.obj
    return chosen if isinstance(chosen, Path) else default_path(os.environ)


def home_of(context: click.Context) -> "Home":
    """The home that was meant, which must exist."""
    from tools.home import open_home

    return open_home(home_path(context))


def home_if_any(context: click.Context) -> "Home | None":
    """A home that was named must exist; the default one need not."""
    from tools.home import open_home

    path = home_path(context)
    if context.obj is None and "LIGHTSEAL_HOME" not in os.environ and not path.exists():
        return None
    return open_home(path)


def say_error(error: Any) -> None:
    """Two lines: what happened, by its stable code, and what to do next."""
    from authn.plain import plain

    said = plain(str(error).encode("utf-8", "backslashreplace").decode(), 1000)
    click.echo(f"error[{error.code}]: {said}\n  next: {error.remedy}", err=True)
