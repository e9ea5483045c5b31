"""`snapshot status` and `snapshot restore`: what is done to a snapshot file without a cluster.

The one module of the program that uses the server's code: the file's format and a data directory's are the server's.
"""

from __future__ import annotations

import shutil
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from kvctl import apart, gotext, table
from kvctl.failure import CommandFailed, Exit, bad_args
from kvctl.options import Command, Settings, flag

if TYPE_CHECKING:
    from kvstore.storage.meta import Identity
    from kvstore.storage.snapshot_file import SnapshotInfo


@click.command(
    cls=Command,
    short_help="Check a snapshot file and show what it holds.",
    epilog="Example: kvctl snapshot status backup.db -w table",
    options_metavar="[options]",
)
@click.argument("words", metavar="<filename>", nargs=-1)
@flag("--skip-hash-check", help="take a file copied from a data directory, which has no hash")
def status(settings: Settings, words: tuple[str, ...], skip_hash_check: bool) -> None:
    """Check a snapshot file, and show its checksum, revision, number of keys with all their versions, and size.

    It reads the whole file.
    """
    if len(words) != 1:
        bad_args("snapshot status requires exactly one argument")
    path = Path(words[0])
    try:
        info = apart.run(lambda: _verify(path, skip_hash_check))
    except apart.Died as death:
        raise _damaged(path, death) from death
    if settings.write_out == "json":
        values = {"hash": info.hash, "revision": info.revision, "totalKey": info.total_keys}
        print(gotext.to_json(values | {"totalSize": info.total_size}))
    elif settings.write_out == "fields":
        print(f'"Hash" : {info.hash}\n"Revision" : {info.revision}')
        print(f'"Keys" : {info.total_keys}\n"Size" : {info.total_size}')
    else:
        row = [f"{info.hash:x}", str(info.revision), str(info.total_keys), gotext.human_bytes(info.total_size)]
        heading = ["hash", "revision", "total keys", "total size"]
        print(table.render(heading, [row]) if settings.write_out == "table" else ", ".join(row) + "\n", end="")


@click.command(
    cls=Command,
    short_help="Make a member of a new cluster from a snapshot file.",
    epilog="Example: kvctl snapshot restore backup.db --name m1 --data-dir /var/lib/kvstore "
    "--initial-cluster m1=http://10.0.0.1:2380 --initial-advertise-peer-urls http://10.0.0.1:2380",
    options_metavar="[options]",
)
@click.argument("words", metavar="<filename>", nargs=-1)
@click.option("--data-dir", default="", metavar="DIR", help="the directory to make ($name.etcd)")
@click.option("--wal-dir", default="", metavar="DIR", help="a directory of its own for the log")
@click.option("--name", default="default", metavar="NAME", help="the member's name (default)")
@click.option(
    "--initial-cluster",
    default="default=http://localhost:2380",
    metavar="NAME=URL,...",
    help="all members of the new cluster (default=http://localhost:2380)",
)
@click.option(
    "--initial-cluster-token", default="etcd-cluster", metavar="TOKEN", help="the new cluster's token (etcd-cluster)"
)
@click.option(
    "--initial-advertise-peer-urls",
    default="http://localhost:2380",
    metavar="URLS",
    help="the member's peer URLs (http://localhost:2380)",
)
@flag("--skip-hash-check", help="take a file copied from a data directory, which has no hash")
def restore(settings: Settings, words: tuple[str, ...], skip_hash_check: bool, **options: str) -> None:
    """Make the data directory of one member of a new cluster that begins with the keys in a snapshot file.

    Run it once for each member, from the same file and with the same --initial-cluster and token; then start the
    members with these flags. Members of the old cluster cannot join the new one by mistake.
    """
    if len(words) != 1:
        bad_args("snapshot restore requires exactly one argument")
    path = Path(words[0])
    data_dir = Path(options["data_dir"] or f"{options['name']}.etcd")
    try:
        identity = apart.run(lambda: _restore(path, data_dir, skip_hash_check, options))
    except apart.Died as death:
        from kvstore.storage.snapshot_file import work_directory

        shutil.rmtree(work_directory(data_dir, death.pid), ignore_errors=True)
        raise _damaged(path, death) from death
    done = {
        "level": "info",
        "ts": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "logger": "kvctl",
        "msg": "restored snapshot",
        "path": words[0],
        "data-dir": str(data_dir),
        "cluster-id": f"{identity.cluster_id:x}",
        "member-id": f"{identity.member_id:x}",
    }
    print(gotext.to_json(done), file=sys.stderr)


def _verify(path: Path, skip_hash_check: bool) -> SnapshotInfo:
    from kvstore.storage import snapshot_file
    from kvstore.storage.errors import StorageError

    try:
        return snapshot_file.verify(path, skip_hash_check)
    except StorageError as error:
        raise CommandFailed(Exit.ERROR, str(error)) from error


def _restore(path: Path, data_dir: Path, skip_hash_check: bool, options: dict[str, str]) -> Identity:
    from kvstore.server.bootstrap import BootstrapError
    from kvstore.server.config import ConfigError, parse_initial_cluster, parse_urls
    from kvstore.server.restore import restore as restore_member
    from kvstore.storage.errors import StorageError

    try:
        return restore_member(
            path,
            data_dir=data_dir,
            name=options["name"],
            peer_urls=parse_urls(options["initial_advertise_peer_urls"]),
            initial_cluster=parse_initial_cluster(options["initial_cluster"]),
            cluster_token=options["initial_cluster_token"],
            wal_dir=Path(options["wal_dir"]) if options["wal_dir"] else None,
            skip_hash_check=skip_hash_check,
        )
    except (BootstrapError, ConfigError, StorageError, ValueError) as error:
        raise CommandFailed(Exit.ERROR, str(error)) from error


def _damaged(path: Path, death: apart.Died) -> CommandFailed:
    return CommandFailed(Exit.ERROR, f"{path}: is damaged: reading it ended with {death.signal}")
