"""The other end, for commands: connect once, ask, wait for answers with a deadline."""

import json
import math
import secrets
import time
from collections.abc import Callable, Iterator
from typing import Any

from edgecc.config.schema import Config
from edgecc.errors import AuthError, BrokerError, EdgeccError, NotRunning
from edgecc.mqtt.connection import Link
from edgecc.mqtt.connection_events import Connected, Disconnected, Published, Subscribed
from edgecc.protocol.messages import Inbound, to_json

_PATIENCE = 10.0  # seconds


class Client:
    """A short-lived session with the broker; use as a context manager."""

    def __init__(self, config: Config, *, receive_maximum: int = 256) -> None:
        self.id = secrets.token_hex(8)
        self._config = config
        self._link = Link(
            config.mqtt, client_id=f"edgecc-{self.id}", receive_maximum=receive_maximum, clean=True)
        self._messages: list[Inbound] = []
        self._published: dict[int, str | None] = {}
        self._subscribed: list[list[str]] = []
        self.window = 0
        self.max_payload: int | None = None  # bytes that the broker takes in one message

    def __enter__(self) -> "Client":
        self._link.start()
        self._wait_until(lambda: self.window)
        return self

    def __exit__(self, *_: object) -> None:
        self._link.stop()

    def subscribe(self, filters: list[str]) -> None:
        """Returns once the broker has answered."""
        self._link.subscribe(filters)
        self._wait_until(lambda: self._subscribed)
        if refused := self._subscribed.pop(0):
            raise AuthError(f"the broker refuses {filters}: {', '.join(refused)}")

    def unsubscribe(self, filters: list[str]) -> None:
        self._link.unsubscribe(filters)

    def publish(self, topic: str, payload: bytes, **options: Any) -> int:
        """Hand over a message; `arrived` tells when the broker has it."""
        return self._link.publish(topic, payload, **options)

    def arrived(self, mid: int, *, wait: bool = False) -> bool:
        """True once the broker has acknowledged packet `mid`."""
        if wait:
            self._wait_until(lambda: mid in self._published)
        if mid not in self._published:
            return False
        failure = self._published.pop(mid)
        if failure is not None:
            raise BrokerError(f"the broker refused a message: {failure}")
        return True

    def next_message(self, timeout: float) -> Inbound | None:
        """The next message on any subscription; None after `timeout` seconds without one."""
        deadline = time.monotonic() + timeout
        while not self._messages:
            if time.monotonic() >= deadline:
                return None
            self.wait(max(0.0, deadline - time.monotonic()))
        return self._messages.pop(0)

    def retained(self, topic: str, timeout: float = 2.0) -> bytes | None:
        """The retained message on `topic`, if there is one."""
        self.subscribe([topic])
        message = next(self._messages_on(topic, timeout), None)
        self.unsubscribe([topic])
        return None if message is None else message.payload

    def command(
        self, verb: str, args: dict[str, Any], timeout: float = _PATIENCE,
        request: str | None = None,
    ) -> Any:
        """Run a verb on the node and return its data; NotRunning where nothing answers.

        The broker does not keep it for longer than we wait: nothing happens behind our back.
        """
        topics, request = self._config.topics, request or secrets.token_hex(8)
        answer = topics / f"response/{verb}"
        self.subscribe([answer])
        body = to_json({"id": request, "args": args})
        self.publish(topics / f"command/{verb}", body, expiry=math.ceil(timeout))
        for message in self._messages_on(answer, timeout):
            value = json.loads(message.payload)
            if value.get("id") == request:
                return _data(verb, value)
        raise NotRunning(f"no edgecc answers for {topics.root}; is `edgecc start` running?")

    def _messages_on(self, topic: str, timeout: float) -> Iterator[Inbound]:
        """What arrives on `topic` within `timeout` seconds; other messages are dropped."""
        deadline = time.monotonic() + timeout
        while (left := deadline - time.monotonic()) > 0:
            message = self.next_message(left)
            if message is not None and message.topic == topic:
                yield message

    def _wait_until(self, answered: Callable[[], Any]) -> None:
        deadline = time.monotonic() + _PATIENCE
        while not answered():
            self.wait(0.25)
            if time.monotonic() > deadline:
                raise BrokerError(f"the broker at {self._place} does not answer")

    def wait(self, timeout: float) -> None:
        """Take in what arrives; up to `timeout` seconds for the first event."""
        for event in self._link.take(256, timeout):
            if isinstance(event, Inbound):
                self._link.ack(event)
                self._messages.append(event)
            elif isinstance(event, Published):
                self._published[event.mid] = event.failure
            elif isinstance(event, Subscribed):
                self._subscribed.append(event.refused)
            elif isinstance(event, Connected):
                self.window, self.max_payload = event.window, event.max_payload
            elif isinstance(event, Disconnected):
                raise self._lost(event)

    def _lost(self, event: Disconnected) -> BrokerError:
        if event.refused:
            return AuthError(f"the broker at {self._place} says {event.reason}: check "
                             "mqtt.username and password")
        kind = AuthError if event.lasting else BrokerError
        return kind(f"no connection to the broker at {self._place}: {event.reason}")

    @property
    def _place(self) -> str:
        return f"{self._config.mqtt.host or 'localhost'}:{self._config.mqtt.port}"


def _data(verb: str, value: dict[str, Any]) -> Any:
    """What the node answered; its refusal, with the exit code that goes with it."""
    if value.get("status") != "ok":
        error = EdgeccError(f"{verb}: {value.get('error') or value.get('code')}")
        error.exit_code = int(value.get("code") or 1)
        raise error
    return value.get("data")
