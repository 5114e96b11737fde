"""`edgecc init`: a first edgecc.yaml, short enough to read."""

from pathlib import Path

from edgecc.config.loading import load
from edgecc.errors import ConfigError

_TEMPLATE = """\
# Every key with its default and meaning: edgecc.yaml in edgecc's repository, or
# `edgecc config show`.
node: {node}
state_dir: ~/.local/state/edgecc/{node}
memory_budget: 512MiB   # daemon and learner together
disk_budget: 4GiB       # samples kept for replay

mqtt:
  {host}
  # username: {node}
  # password: !secret mqtt_password   # in secrets.yaml beside this file

input:
  kind: {kind}
  shape: [{shape}]
"""
_SHAPES = {"image": "3, 64, 64", "sensor": "6, 128"}


def write(
    path: Path, *, force: bool, kind: str, shape: str | None, host: str | None, node: str | None
) -> str:
    """Write the file; the line to print."""
    if path.exists() and not force:
        raise ConfigError(f"{path} exists; --force overwrites it")
    sizes = ", ".join(part.strip() for part in (shape or _SHAPES[kind]).split(","))
    node = node or load(None, environ={}).node
    before = path.read_text() if path.exists() else None
    place = f"host: {host}" if host else "# host: broker.local   # else localhost is tried once"
    path.write_text(_TEMPLATE.format(node=node, host=place, kind=kind, shape=sizes))
    try:
        load(path, environ={})
    except ConfigError:
        path.unlink() if before is None else path.write_text(before)
        raise
    return f"wrote {path}; next: edgecc start (--with-broker for a local broker)"
