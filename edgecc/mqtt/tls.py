"""TLS to the broker: 1.2 or newer, verified; where it fails, why, and what to do."""

import socket
import ssl
from contextlib import closing

from edgecc.config.schema import Mqtt
from edgecc.errors import ConfigError
from edgecc.mqtt.connection_events import Disconnected

_PATIENCE = 3.0  # seconds for a broker that refuses our certificate to say so
_HOST, _ADDRESS = 62, 64  # X509_V_ERR_*
_CLOCKS = {  # X509_V_ERR_*: what it means
    9: "the broker's certificate is not valid yet: correct the clock of this machine",
    10: "the broker's certificate has expired: renew it there, or correct this machine's clock",
}
_MEANINGS = {  # part of OpenSSL's reason: what it means
    "CERTIFICATE_REQUIRED": "the broker asks for a certificate: set mqtt.cert and mqtt.key",
    "UNKNOWN_CA": "the broker does not trust mqtt.cert: have it signed by the broker's authority",
    "ALERT_DECRYPT_ERROR": "the broker does not trust mqtt.cert: have it signed by its authority",
    "ALERT_BAD_CERTIFICATE": "the broker refuses mqtt.cert: have it signed by its authority",
    "CERTIFICATE_EXPIRED": "the broker says that mqtt.cert has expired: renew it",
    "CERTIFICATE_REVOKED": "the broker says that mqtt.cert is revoked: make another",
    "HANDSHAKE_FAILURE": "the broker refuses the handshake: does it ask for mqtt.cert and key?",
    "UNSUPPORTED_PROTOCOL": "the broker speaks no TLS 1.2: set `tls_version tlsv1.2` there",
    "PROTOCOL_VERSION": "the broker speaks no TLS 1.2: set `tls_version tlsv1.2` there",
    "WRONG_VERSION_NUMBER": "no TLS on this port: set mqtt.port to the TLS listener's, often 8883",
}


def context(settings: Mqtt) -> ssl.SSLContext:
    """ConfigError where the files cannot be used."""
    try:
        tls = ssl.create_default_context(cafile=settings.ca)
    except OSError as error:  # ssl.SSLError is one
        raise ConfigError(f"mqtt.ca {settings.ca} cannot be read: {_short(error)}") from error
    tls.minimum_version = ssl.TLSVersion.TLSv1_2
    if settings.cert is not None:
        try:  # an empty password: never ask for one on a terminal
            tls.load_cert_chain(settings.cert, settings.key, password="")
        except OSError as error:
            raise ConfigError(
                f"mqtt.cert {settings.cert} and mqtt.key {settings.key or 'in it'} cannot be used "
                f"(PEM, not encrypted, fitting each other): {_short(error)}") from error
    return tls


def explain(error: Exception, settings: Mqtt) -> Disconnected:
    """Why a connection failed, over TLS or not."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return _unverified(error, settings)
    if isinstance(error, ssl.SSLError):
        for part, meaning in _MEANINGS.items():
            if part in (error.reason or ""):
                return Disconnected(meaning, lasting=True)
    if settings.tls and isinstance(error, ConnectionResetError | ssl.SSLEOFError):
        return Disconnected(f"{error}: is port {settings.port} a TLS listener?")
    return Disconnected(f"{type(error).__name__}: {error}")


def ask_why(settings: Mqtt, reason: str) -> Disconnected:
    """Why the broker ended a connection before it answered, or `reason`.

    With TLS 1.3 a broker that refuses our certificate says so only after the handshake.
    """
    place = settings.host or "localhost", settings.port
    try:
        with (
            socket.create_connection(place, timeout=_PATIENCE) as plain,
            closing(context(settings).wrap_socket(plain, server_hostname=place[0])) as secure,
        ):
            secure.recv(1)
    except (OSError, ConfigError) as error:
        failure = explain(error, settings)
        if failure.lasting:
            return failure
    return Disconnected(reason)


def _unverified(error: ssl.SSLCertVerificationError, settings: Mqtt) -> Disconnected:
    if error.verify_code in _CLOCKS:
        return Disconnected(_CLOCKS[error.verify_code])
    if error.verify_code in (_HOST, _ADDRESS):
        host = settings.host or "localhost"
        return Disconnected(f"the broker's certificate is not for {host!r}: set mqtt.host to a "
                            "name in it, or put this name into its subjectAltName", lasting=True)
    known = f"in mqtt.ca {settings.ca}" if settings.ca else "that this system trusts"
    return Disconnected(f"no authority {known} has signed the broker's certificate "
                        f"({error.verify_message}): set mqtt.ca to the right one", lasting=True)


def _short(error: OSError) -> str:
    return error.strerror or str(error)
