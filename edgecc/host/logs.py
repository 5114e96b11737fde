"""Logging to standard error, as text or as JSON lines."""

import json
import logging


class JsonLines(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return json.dumps({
            "ts": record.created, "level": record.levelname.lower(), "name": record.name,
            "message": record.getMessage(),
        })


def to_stderr(level: str, form: str) -> None:
    handler = logging.StreamHandler()
    text = logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s")
    handler.setFormatter(JsonLines() if form == "json" else text)
    logging.basicConfig(level=level.upper(), handlers=[handler])
    for noisy in ("matplotlib", "iotcore", "PIL"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
