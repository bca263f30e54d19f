"""`naruto-add publish`: an exported model, uploaded to a hub."""

from pathlib import Path

import click


@click.command(short_help="Upload the exported model to a hub.")
@click.argument("repository", metavar="OWNER/NAME")
@click.option("--private", is_flag=True, help="Make a new repository private.")
@click.option("--dry-run", is_flag=True, help="Only list the files; needs neither token nor network.")
@click.option("--lora", is_flag=True, help="Upload the teacher's LoRA alone, with its own card.")
@click.option(
    "--folder",
    type=click.Path(path_type=Path),
    default=Path("models/export"),
    show_default=True,
    help="Folder of the export.",
)
def publish(*, repository: str, private: bool, dry_run: bool, lora: bool, folder: Path) -> None:
    """Upload the exported model to the hub repository OWNER/NAME, which is created if it does not exist.

    Uploads the whole folder in one commit: the model in diffusers format, its card and pictures, and all other formats
    that it contains. It needs a token with write access (`hf auth login`, or HF_TOKEN).

    \b
    Examples:
      naruto-add publish me/my-student --dry-run
      naruto-add publish me/my-student --private
      naruto-add publish me/my-lora --lora
    """
    from naruto_add.export.publish import LORA, check_repository, publish_folder, uploads
    from naruto_add.runtime.units import MIB

    check_repository(repository)
    source = folder / LORA if lora else folder
    files = uploads(source)
    for file in files:
        click.echo(f"{file.size_bytes / MIB:9.2f} MiB  {file.path}")
    total = sum(file.size_bytes for file in files) / MIB
    click.echo(f"{total:9.2f} MiB  {len(files)} files of {source}")
    if dry_run:
        click.echo(f"nothing was uploaded to {repository} (--dry-run)")
    else:
        click.echo(publish_folder(source, repository, private=private))
