"""The commands."""

from __future__ import annotations

import json
import sys
from importlib.metadata import version as version_of
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from turnout.cli import checking, pinging
from turnout.config import Loaded, schema
from turnout.config import check as check_config
from turnout.exceptions import ConfigurationError, RouterError

__all__ = ["app"]

app = typer.Typer(
    name="turnout",
    help="Look at the config of a router before it runs: what it does, what is wrong, who answers.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
# What is read by programs is not broken into lines of a terminal's width.
_WIDTH = None if sys.stdout.isatty() else 240
_out, _err = Console(highlight=False, width=_WIDTH), Console(stderr=True, highlight=False, width=_WIDTH)

Config = Annotated[Path, typer.Argument(help="The config: YAML, TOML or JSON, in turnout's form or LiteLLM's.", metavar="CONFIG")]
AsJson = Annotated[bool, typer.Option("--json", help="Write JSON.")]


def _put(data: Any) -> None:
    # Not through rich, which breaks long lines.
    typer.echo(json.dumps(data, indent=2, ensure_ascii=False))


def _loaded(config: Path, as_json: bool) -> Loaded:
    """Returns a config without errors; ends the command otherwise."""
    try:
        loaded = check_config(config)
    except ConfigurationError as error:
        _fail(str(error), as_json)
    errors = [str(problem) for problem in loaded.problems if problem.level == "error"]
    if errors:
        _fail("\n".join(errors), as_json)
    return loaded


def _fail(text: str, as_json: bool) -> Any:
    if as_json:
        _put({"error": text})
    else:
        _err.print(text, style="red", markup=False, soft_wrap=True)
    raise typer.Exit(1)


@app.command()
def check(
    config: Config,
    strict: Annotated[bool, typer.Option("--strict", help="Let warnings fail too.")] = False,
    as_json: AsJson = False,
) -> None:
    """Tell what a config comes to, and what is wrong with it.

    The exit code is 0 if a router can be made, 1 if not.
    """
    try:
        loaded = check_config(config)
    except ConfigurationError as error:
        _fail(str(error), as_json)
    if as_json:
        _put(checking.as_data(loaded))
    else:
        checking.show(loaded, _out)
    bad = {"error", "warning"} if strict else {"error"}
    raise typer.Exit(int(any(problem.level in bad for problem in loaded.problems)))


@app.command()
def explain(
    config: Config,
    model: Annotated[str, typer.Argument(help="The model name that a request asks for.", metavar="MODEL")],
    tokens: Annotated[int, typer.Option(help="The tokens that it may use.", min=0)] = 0,
    tag: Annotated[list[str] | None, typer.Option(help="A tag that it asks for. May be given several times.")] = None,
    exclude: Annotated[list[str] | None, typer.Option(help="An id that it must not go to. May be given several times.")] = None,
    as_json: AsJson = False,
) -> None:
    """Tell which deployment a first request would go to, and why.

    The exit code is 1 if nobody serves it.
    """
    router = _loaded(config, as_json).router()
    try:
        found = router.explain(model, tokens=tokens, tags=tag or None, exclude=exclude or None)
    except RouterError as error:
        _fail(str(error), as_json)
    if as_json:
        _put(found.to_dict())
    else:
        for line in str(found).splitlines():
            _out.print(checking.printable(line), markup=False, soft_wrap=True)
    raise typer.Exit(int(found.winner is None))


@app.command()
def ping(
    config: Config,
    model: Annotated[str | None, typer.Argument(help="Only deployments of this model name.", metavar="[MODEL]")] = None,
    timeout: Annotated[float, typer.Option(help="Seconds for each answer.", min=0.1)] = 30.0,
    as_json: AsJson = False,
) -> None:
    """Send a minimal request to each endpoint, and tell how it went.

    It costs a few tokens for each deployment. The exit code is 1 if one of them does not answer.
    """
    loaded = _loaded(config, as_json)
    try:
        answers = pinging.ping(loaded, model, timeout)
    except (RouterError, ImportError) as error:
        _fail(str(error), as_json)
    if as_json:
        _put([answer._asdict() for answer in answers])
    else:
        pinging.show(answers, _out)
    raise typer.Exit(int(not all(answer.is_well for answer in answers)))


@app.command("schema")
def schema_() -> None:
    """Write the JSON schema of turnout's own form, for editors."""
    _put(schema())


@app.command()
def version(as_json: AsJson = False) -> None:
    """Tell the version."""
    if as_json:
        _put({"version": version_of("turnout")})
    else:
        typer.echo(version_of("turnout"))
