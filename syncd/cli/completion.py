"""`completion`: the script by which a shell completes commands, folders and holds."""

import click
from click.shell_completion import CompletionItem, get_completion_class

from syncd.cli.group import COMPLETION
from syncd.cli.options import Options, common


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@common
@click.pass_context
def completion(ctx: click.Context, shell: str) -> None:
    """Print the script that makes SHELL complete commands, options, folders and holds.

    For bash, add this line to ~/.bashrc: source <(syncd completion bash). For zsh, the same with
    zsh in ~/.zshrc. For fish: syncd completion fish > ~/.config/fish/completions/syncd.fish.
    """
    made = get_completion_class(shell)
    if made is None:
        raise click.UsageError(f"there is no completion for {shell}")
    click.echo(made(ctx.find_root().command, {}, "syncd", COMPLETION).source())


def paths(ctx: click.Context, _: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Complete the name of a folder that the state knows; else a path on disk."""
    names = [CompletionItem(name) for name in _folders(ctx) if name.startswith(incomplete)]
    return names or [CompletionItem(incomplete, type="file")]


def folders(ctx: click.Context, _: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Complete the name of a folder that the state knows; else a directory on disk."""
    names = [CompletionItem(name) for name in _folders(ctx) if name.startswith(incomplete)]
    return names or [CompletionItem(incomplete, type="dir")]


def statuses(_: click.Context, __: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Complete the last of several statuses with commas between them."""
    from syncd.state.manifest import Word  # noqa: PLC0415 - as below

    before, comma, last = incomplete.rpartition(",")
    return [CompletionItem(before + comma + word.value) for word in Word if word.startswith(last)]


def rates(_: click.Context, __: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Complete the words that `limit` takes in place of a rate."""
    words = {"off": "no limit", "configured": "what the configuration says"}
    return [
        CompletionItem(word, help=what)
        for word, what in words.items()
        if word.startswith(incomplete)
    ]


def documents(ctx: click.Context, _: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Complete the next word of a command that has a schema."""
    from syncd.report.schemas import DOCUMENTS  # noqa: PLC0415 - as below

    given = tuple(ctx.params.get("command") or ())
    names = [tuple(name.split()) for name in DOCUMENTS]
    nexts = {
        name[len(given)]: None
        for name in names
        if name[: len(given)] == given and len(name) > len(given)
    }
    return [CompletionItem(word) for word in nexts if word.startswith(incomplete)]


def numbers(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Complete the number of a hold that waits for a decision."""
    return [item for item in holds(ctx, param, incomplete) if item.value.isdecimal()]


def holds(ctx: click.Context, _: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Complete the number of a hold that waits for a decision, or its folder."""
    # Here and below: the commands that complete nothing start without these.
    from syncd.state import holds as kept, views  # noqa: PLC0415
    from syncd.state.holds import decisions  # noqa: PLC0415

    try:
        directory = _options(ctx).glance().state_directory
        found = views.read(directory, lambda db: decisions.reviewable(kept.open_holds(db)))
    except Exception:
        return []
    known = {str(hold.id): f"{decisions.folder_of(hold)}: {hold.reason}" for hold in found}
    known |= {decisions.folder_of(hold): "folder" for hold in found}
    return [
        CompletionItem(key, help=what) for key, what in known.items() if key.startswith(incomplete)
    ]


def _folders(ctx: click.Context) -> list[str]:
    from syncd.state import views  # noqa: PLC0415

    try:
        return sorted(views.read(_options(ctx).glance().state_directory, views.roots))
    except Exception:
        return []


def _options(ctx: click.Context) -> Options:
    return ctx.find_object(Options) or Options()
