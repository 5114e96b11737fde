"""The baselines of `bench delivery` and `bench latency`: plain paho clients, each a process of its
own.

`receive PORT CLIENT FILTER COUNT` takes COUNT messages at QoS 1 and keeps nothing; paho acks as it
goes. It prints when it was connected and when the last one came, in seconds since 1970; COUNT 0
only leaves a session on the broker. `publish PORT TOPIC SIZE COUNT` prints when it began and when
the broker had acked the last. `echo PORT FROM TO` prints when it listens, and publishes on TO what
comes on FROM until it is ended.
"""

import os
import sys
import time
from typing import Any

from paho.mqtt.client import Client, MQTTMessage, MQTTv5
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

_SESSION = 3600  # seconds


def receive(port: int, name: str, topics: str, count: int) -> None:
    client = Client(CallbackAPIVersion.VERSION2, client_id=name, protocol=MQTTv5)
    left = count

    def on_connect(*_: Any) -> None:
        print(time.time(), flush=True)
        if not count:
            client.subscribe(topics, qos=1)

    def on_message(*_: Any) -> None:
        nonlocal left
        left -= 1
        if not left:
            client.disconnect()

    def on_subscribe(*_: Any) -> None:
        client.disconnect()

    client.on_connect, client.on_message = on_connect, on_message
    client.on_subscribe = on_subscribe
    session = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
    session.SessionExpiryInterval = _SESSION
    client.connect("127.0.0.1", port, clean_start=False, properties=session)
    client.loop_forever()
    print(time.time())


def publish(port: int, topic: str, size: int, count: int) -> None:
    client = Client(CallbackAPIVersion.VERSION2, protocol=MQTTv5)
    client.connect("127.0.0.1", port)
    client.loop_start()
    payload = os.urandom(size)
    print(time.time())
    for sent in [client.publish(topic, payload, qos=1) for _ in range(count)]:
        sent.wait_for_publish()
    print(time.time())
    client.disconnect()


def echo(port: int, heard: str, said: str) -> None:
    client = Client(CallbackAPIVersion.VERSION2, protocol=MQTTv5)

    def on_connect(*_: Any) -> None:
        client.subscribe(heard, qos=1)

    def on_subscribe(*_: Any) -> None:
        print(time.time(), flush=True)

    def on_message(_client: Client, _given: Any, message: MQTTMessage) -> None:
        client.publish(said, message.payload, qos=1)

    client.on_connect, client.on_subscribe = on_connect, on_subscribe
    client.on_message = on_message
    client.connect("127.0.0.1", port)
    client.loop_forever()


if __name__ == "__main__":
    _what, _port, _first, _second, *_count = sys.argv[1:]
    if _what == "receive":
        receive(int(_port), _first, _second, int(_count[0]))
    elif _what == "publish":
        publish(int(_port), _first, int(_second), int(_count[0]))
    else:
        echo(int(_port), _first, _second)
