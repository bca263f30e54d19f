"""`naruto-add profile`: list, show and use the parameter profiles."""

import click
from click.shell_completion import CompletionItem

from naruto_add.cli.folder import pipeline_folder


def _complete_names(_ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    from naruto_add.config.profiles import profile_names

    try:
        folder = pipeline_folder()
    except Exception:  # noqa: BLE001 (the Tab key must not print an error into the command line)
        return []
    return [CompletionItem(name) for name in profile_names(folder) if name.startswith(incomplete)]


@click.group()
def profile() -> None:
    """List, show and use parameter profiles.

    A profile consists of profiles/default.yaml and the values in profiles/NAME.yaml that differ from it. The pipeline
    reads params.yaml, which `use` writes.

    \b
    Example:
      naruto-add profile use sd15
    """


@profile.command("list")
def list_profiles() -> None:
    """Print the names of the profiles; an asterisk marks the one whose values are in params.yaml.

    \b
    Example:
      naruto-add profile list
    """
    from naruto_add.config.profiles import current_profile, profile_names

    root = pipeline_folder()
    current = current_profile(root)
    for name in profile_names(root):
        click.echo(f"{'*' if name == current else ' '} {name}")


@profile.command()
@click.argument("name", required=False, shell_complete=_complete_names)
def show(name: str | None) -> None:
    """Print the complete parameters of profile NAME, or without NAME those in params.yaml.

    \b
    Example:
      naruto-add profile show sd15
    """
    from naruto_add.config import paths
    from naruto_add.config.load import load_params
    from naruto_add.config.profiles import compose_profile

    root = pipeline_folder()
    if name is None:
        load_params(root / paths.PARAMS)
        click.echo((root / paths.PARAMS).read_text(encoding="utf-8"), nl=False)
    else:
        click.echo(compose_profile(name, root=root), nl=False)


@profile.command()
@click.argument("name", shell_complete=_complete_names)
@click.option("--force", is_flag=True, help="Overwrite params.yaml even if it has values that no profile has.")
def use(name: str, *, force: bool) -> None:
    """Write params.yaml from profile NAME.

    \b
    Example:
      naruto-add profile use sd15
    """
    from naruto_add.config import paths
    from naruto_add.config.profiles import use_profile

    use_profile(name, root=pipeline_folder(), force=force)
    click.echo(f"{paths.PARAMS}: profile {name}")
