"""Everything that can go wrong, as one tree. Each message names value and place, and what to do.

    EdgeccError                    exit code 1
    ├── ConfigError                78  the configuration or a command's input is wrong
    ├── BudgetError                78  memory_budget is too small for any plan
    ├── MessageError                   a message is not a valid sample, label or command
    ├── StoreError                     the log cannot be opened, read or written
    │   └── StorageFull            75  its disk is full
    ├── BrokerError                75  the broker cannot be reached, or went away
    │   ├── AuthError              77  it rejects these credentials or this client
    │   └── NotRunning             69  no edgecc answers for this node
    └── CheckpointError            76
        ├── Corrupt                    bytes, digests or shapes do not match
        ├── Incompatible               a version or an architecture this edgecc cannot use
        └── Untrusted                  no valid signature by a known key
"""

from typing import Any


class EdgeccError(Exception):
    exit_code = 1


class ConfigError(EdgeccError):
    exit_code = 78


class BudgetError(EdgeccError):
    exit_code = 78


class MessageError(EdgeccError):
    pass


class StoreError(EdgeccError):
    pass


class StorageFull(StoreError):
    exit_code = 75


class BrokerError(EdgeccError):
    exit_code = 75


class AuthError(BrokerError):
    exit_code = 77


class NotRunning(BrokerError):
    exit_code = 69


class CheckpointError(EdgeccError):
    exit_code = 76


class Corrupt(CheckpointError):
    pass


class Incompatible(CheckpointError):
    pass


class Untrusted(CheckpointError):
    pass


def shown(value: Any) -> str:
    """A foreign value, short and safe to print: very large integers have no decimal form."""
    if isinstance(value, str | bytes):
        return repr(value[:80])
    short = type(value) is int and abs(value) < 2**63
    if value is None or short or isinstance(value, float | bool):
        return repr(value)
    return f"of type {type(value).__name__}"
