"""An MQTT client that is not ours: plain paho, so that other code reads what edgecc says."""

import json
import os
import threading
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from support.patience import APART, DEADLINE, Patience, until

BRIEF = 0.5  # seconds in which what must not come would have come


@dataclass(frozen=True)
class Message:
    topic: str
    payload: bytes
    retain: bool
    properties: Any

    @cached_property
    def json(self) -> Any:
        return json.loads(self.payload)


class Speaker(Protocol):
    """Whom a peer listens to: whether it has ended with an error, and its log."""

    @property
    def failed(self) -> bool: ...

    @property
    def output(self) -> str: ...


class Peer:
    """A paho client that keeps everything it receives."""

    def __init__(self, port: int, *filters: str, **login: str) -> None:
        self.messages: list[Message] = []
        self._news = threading.Condition()
        self.speaker: Speaker | None = None  # where it has failed, nothing more will come
        name = f"peer-{os.urandom(8).hex()}"  # its own: a broker that was killed may know it still
        self._client = paho.Client(CallbackAPIVersion.VERSION2, name, protocol=paho.MQTTv5)
        if login:
            self._client.username_pw_set(login["username"], login["password"])
        self._client.max_inflight_messages_set(20)
        self._client.reconnect_delay_set(1, 1)
        self._client.on_message = self._on_message
        self.granted = threading.Event()
        self._client.on_subscribe = lambda *_: self.granted.set()
        self._client.on_disconnect = lambda *_: self.granted.clear()
        self._client.on_connect = lambda *_: self._client.subscribe([(f, 1) for f in filters])
        self._client.connect("127.0.0.1", port)
        self._client.loop_start()
        until(self.granted.is_set, f"{filters} not granted")

    def _on_message(self, _client: Any, _user: Any, message: paho.MQTTMessage) -> None:
        with self._news:
            self.messages.append(Message(
                message.topic, message.payload, message.retain, message.properties
            ))
            self._news.notify_all()

    def publish(
        self, topic: str, payload: bytes | str, *, retain: bool = False, wait: bool = True,
        **properties: Any,
    ) -> paho.MQTTMessageInfo:
        """With `wait`, returns once the broker has it; properties by their MQTT names."""
        wire = Properties(PacketTypes.PUBLISH)
        for name, value in properties.items():
            setattr(wire, name, value)
        sent = self._client.publish(topic, payload, qos=1, retain=retain, properties=wire)
        if wait:
            await_puback(sent, topic)
        return sent

    def find(
        self, wanted: Callable[[Message], bool], *, after: int = 0, timeout: float = DEADLINE
    ) -> Message | None:
        """The first message from number `after` on that is wanted, waiting for it."""
        patience, looked, over = Patience(timeout), after, False
        with self._news:
            while True:
                while looked < len(self.messages):
                    if wanted(self.messages[looked]):
                        return self.messages[looked]
                    looked += 1
                if over:
                    return None
                self._news.wait(APART)
                over = not patience.lasts or (self.speaker is not None and self.speaker.failed)

    def wait(
        self, wanted: Callable[[Message], bool], *, after: int = 0, timeout: float = DEADLINE
    ) -> Message:
        message = self.find(wanted, after=after, timeout=timeout)
        assert message is not None, f"nothing of the kind came; {self._last()}"
        return message

    def _last(self) -> str:
        last = [(m.topic, m.payload[:80]) for m in self.messages if "health" not in m.topic][-5:]
        return f"last: {last}\n{self.speaker.output[-3000:] if self.speaker is not None else ''}"

    def close(self) -> None:
        """paho's client closes the sockets that wake its thread once nothing refers to it."""
        client = self.__dict__.pop("_client", None)
        if client is not None:
            client.disconnect()
            client.loop_stop()
            client.on_connect = client.on_subscribe = client.on_disconnect = None
            client.on_message = None


def await_puback(sent: paho.MQTTMessageInfo, topic: str) -> None:
    def acked() -> bool:
        sent.wait_for_publish(APART)
        return sent.is_published()

    until(acked, f"{topic}: no PUBACK", every=0.0)
