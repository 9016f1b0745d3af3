"""Checks of what others meet: the running server, ports, keys, certificates, clocks."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from importlib.metadata import version
from pathlib import Path

from ramole.app.doctor.findings import Access, Case, Finding
from ramole.app.preflight import check_ports
from ramole.app.services import SERVICES
from ramole.app.trust import check_hosts, secret_path, trust_of
from ramole.client import Description, RamoleClient
from ramole.core.address import join_address
from ramole.core.errors import RamoleError, Unauthenticated
from ramole.core.settings import Settings
from ramole.gateway.identity import EdgeIdentity, keys_path
from ramole.gateway.keys import KeyFile
from ramole.transport.tls import ServerTls

__all__ = ["Access", "access", "certificates", "clock", "ports", "server", "trust"]

_ASK_S = 10.0
_SOON = timedelta(days=14)
_SKEW_S, _MUCH_SKEW_S = 5.0, 300.0
"""From 15 minutes on object stores refuse signatures, and certificates may not be valid yet."""


async def server(case: Case) -> Finding:
    """What a running server says of itself: the one that is named, or the one of these settings."""
    if not case.access.address and not case.runs:
        return Finding.ok("none runs on this data folder")
    address = case.access.address or _own_address(case.settings)
    if not address:
        return Finding.ok("one runs, on any free port: `ramole --address HOST:PORT doctor` asks it")
    if case.settings.gateway.tls.is_on and not (case.access.ca or case.access.address):
        return Finding.ok(f"one runs at {address}, with TLS: `ramole --ca FILE doctor` asks it")
    try:
        found = case.server = await _asked(case, address)
    except Unauthenticated as error:
        return Finding.warning(f"{address} answers, but wants a key: {error.message}", "ramole --key KEY doctor")
    except RamoleError as error:
        return Finding.failed(f"{address}: {error.message}", error.remedy or "see its log")
    return _of_server(f"{address} serves {found.base_model}", found)


async def _asked(case: Case, address: str) -> Description:
    """What a server says of itself; its clock is compared with ours of half-way between question and answer."""
    async with RamoleClient(
        address, key=case.access.key, ca_file=case.access.ca, timeout_s=_ASK_S, retries=0
    ) as client:
        begun = datetime.now(UTC)
        found = await client.describe()
        ended = datetime.now(UTC)
    if found.time is not None:
        case.skew_s = (found.time - (begun + (ended - begun) / 2)).total_seconds()
    return found


def _of_server(says: str, found: Description) -> Finding:
    says = f"{says}, {found.running} running, {found.waiting} waiting"
    ill = [each.name for each in found.services if each.serving < each.replicas or not each.replicas]
    if ill:
        return Finding.warning(f"{says}; replicas that do not serve: {', '.join(ill)}", "see its log")
    here = version("ramole")
    if found.version != here:
        return Finding.warning(f"{says}; it is ramole {found.version}, here is {here}", "upgrade one of them")
    return Finding.ok(f"{says}; ramole {here}")


def _own_address(settings: Settings) -> str:
    options = settings.gateway.server
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(options.host, options.host)
    return join_address(host, options.port) if options.port else ""


def ports(case: Case) -> Finding:
    """Whether every port could be listened on."""
    given = {field: port for spec in SERVICES.values() for field, port in spec.fixed_ports(case.settings).items()}
    shown = ", ".join(f"{field} {port}" for field, port in given.items()) or "any free ones"
    if case.runs:
        return Finding.ok(f"{shown}; not tried, as a server runs here")
    check_ports(case.settings)
    return Finding.ok(f"{shown}: free")


def access(case: Case) -> Finding:
    """Who may come: whether the keys can be read, and whether strangers could do everything."""
    options = case.settings.gateway
    keys = KeyFile(keys_path(case.settings)).all()
    EdgeIdentity(case.settings)
    hosts = {options.server.host, options.http.host} if options.http.port is not None else {options.server.host}
    says = f"{len(keys)} keys" if keys else "no keys: everybody who reaches it may do everything"
    is_public = not all(host in ("127.0.0.1", "::1", "localhost") for host in hosts)
    if is_public and not keys:
        return Finding.warning(says, "make one with `ramole keys add`", field="gateway.allow_anonymous")
    if is_public and not options.tls.is_on:
        return Finding.warning(f"{says}, which travel unencrypted", "set gateway.tls", field="gateway.tls")
    return Finding.ok(says)


def certificates(case: Case) -> Finding:
    """Whether certificates and keys belong together, and for how long they are valid."""
    public, internal = case.settings.gateway.tls, case.settings.internal.tls
    files = {"gateway.tls.cert_file": public.cert_file, "gateway.tls.client_ca_file": public.client_ca_file}
    files |= {"internal.tls.cert_file": internal.cert_file, "internal.tls.ca_file": internal.ca_file}
    files = {field: file for field, file in files.items() if file}
    if public.is_on:
        ServerTls(public)
    if not files:
        return Finding.ok("none: the public ports speak without TLS")
    now = datetime.now(UTC)
    ends = []
    for field, file in files.items():
        for begins_at, ends_at in _validity(Path(file)):
            ends.append((ends_at, field))
            if begins_at > now:
                says = f"a certificate of {file} is valid from {begins_at:%Y-%m-%d %H:%M} UTC on"
                return Finding.failed(says, "set the clock, or have it issued again", field=field)
    first, field = min(ends)
    says = f"{'valid until' if first > now else 'expired at'} {first:%Y-%m-%d %H:%M} UTC"
    if first <= now:
        return Finding.failed(says, "renew it: new files take effect without a restart", field=field)
    if first - now < _SOON:
        return Finding.warning(says, "renew it: new files take effect without a restart", field=field)
    return Finding.ok(says)


def _validity(file: Path) -> Iterator[tuple[datetime, datetime]]:
    """From when to when each certificate of a file is valid."""
    from cryptography import x509

    for certificate in x509.load_pem_x509_certificates(file.read_bytes()):
        yield certificate.not_valid_before_utc, certificate.not_valid_after_utc


def trust(case: Case) -> Finding:
    """Whether the services can know each other."""
    check_hosts(case.settings)
    path = secret_path(case.settings)
    if path is not None and not path.exists() and case.settings.internal.secret_file is None:
        return Finding.ok(f"{path} is not there yet: the first start makes it")
    trust_of(case.settings)
    return Finding.ok(str(path) if path is not None else "by certificates")


def clock(case: Case) -> Finding:
    """How far this machine's clock is from that of a server elsewhere."""
    if not case.access.address:
        return Finding.ok(f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S} UTC; not compared: no --address was given")
    if case.skew_s is None:
        return Finding.warning("not compared: the server did not tell its time", "see what is said of it above")
    says = f"the server's is {abs(case.skew_s):.1f} s {'ahead' if case.skew_s > 0 else 'behind'}"
    if abs(case.skew_s) > _MUCH_SKEW_S:
        return Finding.failed(says, "set the clocks, by NTP: certificates and signatures depend on them")
    if abs(case.skew_s) > _SKEW_S:
        return Finding.warning(says, "set the clocks, by NTP")
    return Finding.ok(says)
