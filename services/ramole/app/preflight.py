"""What a system on this machine needs, looked at before the first model is loaded.

Each fault would end the start later as well, but after a minute, and in the words of some library.
"""

from __future__ import annotations

import errno
import os
import socket
from contextlib import ExitStack
from pathlib import Path

from ramole.adapters.store.writer import FolderLock
from ramole.app.scratch import sweep
from ramole.app.services import SERVICES
from ramole.app.trust import trust_of
from ramole.core.address import join_address
from ramole.core.errors import WrongState
from ramole.core.settings import Settings
from ramole.lora.files import FILES
from ramole.lora.sources import is_gguf
from ramole.transport.tls import ServerTls

_MINILM = "minilm"
_GPU_DRIVER = Path("/dev/nvidiactl")


def preflight(settings: Settings) -> None:
    """Changes nothing but that the data folder exists with its secret, and that what dead servers have left is gone.

    Args:
        settings: resolved.

    Raises:
        WrongState: a file or folder is missing or cannot be written, or an address cannot be listened on.
        Unavailable: another server uses the data folder.
    """
    check_models(settings)
    if settings.gateway.tls.is_on:
        ServerTls(settings.gateway.tls)
    sweep()  # may free ports and the data folder
    check_ports(settings)
    for field, folder in (("data_dir", settings.data_dir), ("cache.dir", settings.cache_dir)):
        _check_folder(field, folder)
    trust_of(settings)
    store = settings.data_dir / "store"
    _check_folder("data_dir", store)
    FolderLock(store).close()


def check_ports(settings: Settings) -> None:
    """Listens on every port that is given, for a moment and on all together. Raises WrongState."""
    servers = {name: spec.section(settings).server for name, spec in SERVICES.items()}
    # Also those whose port is 0, any free one: the host may not be this machine's.
    listeners = [(f"{name}.server", server.host, server.port) for name, server in servers.items()]
    if settings.gateway.http.port is not None:
        listeners.append(("gateway.http", settings.gateway.http.host, settings.gateway.http.port))
    if settings.metrics.port:
        listeners.append(("metrics", settings.metrics.host, settings.metrics.port))
    with ExitStack() as held:
        for field, host, port in listeners:
            try:
                family, kind, _, _, where = socket.getaddrinfo(
                    host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
                )[0]
                probe = held.enter_context(socket.socket(family, kind))
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind(where)
                probe.listen(1)
            except OSError as error:
                is_port = error.errno in (errno.EADDRINUSE, errno.EACCES)
                raise WrongState(
                    f"cannot listen on {join_address(host, port)}: {error.strerror}",
                    field=f"{field}.{'port' if is_port else 'host'}",
                    remedy="choose another port, or 0 for any free one" if is_port else "give an address of this host",
                ) from error


def settle_device(settings: Settings) -> Settings:
    """`executor.device: auto` as it is meant on this machine."""
    if settings.executor.device != "auto":
        return settings
    num_gpus = 0
    if _GPU_DRIVER.exists():  # torch takes seconds to load
        import torch

        num_gpus = torch.cuda.device_count()
    executor = settings.executor.model_copy(update={"device": "cuda" if num_gpus else "cpu"})
    return settings.model_copy(update={"executor": executor})


def check_models(settings: Settings) -> None:
    """That the files of every model, and that of an authority, are there. Raises WrongState."""
    if is_gguf(settings.base_model):
        if not Path(settings.base_model).is_file():
            raise WrongState(
                f"there is no file {settings.base_model}", field="base_model", remedy="name a GGUF file on this machine"
            )
    else:
        check_model("base_model", settings.base_model, "config.json")
    encoders = [("embedding", settings.embedding.encoder, settings.embedding.retriever)]
    if settings.embedding.previous is not None:
        previous = settings.embedding.previous
        encoders.append(("embedding.previous", previous.encoder, previous.retriever))
    for section, encoder, retriever in encoders:
        if encoder != _MINILM:
            check_model(f"{section}.encoder", encoder)
        if retriever:
            _check_files(f"{section}.retriever", Path(retriever), "retriever.json")
    if settings.executor.router:
        _check_files("executor.router", Path(settings.executor.router), *FILES)
    for field, what in (("ca_file", "a PEM file"), ("token_file", "a file with user:password or an API key")):
        name = getattr(settings.retrieval, field)
        if name and not Path(name).is_file():
            raise WrongState(f"there is no file {name}", field=f"retrieval.{field}", remedy=f"name {what}")


def check_model(field: str, path_or_id: str, *files: str) -> None:
    """A folder with these files; or the form of a hub id, of which nothing else is known here. Raises WrongState."""
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils._validators import validate_repo_id

    path = Path(path_or_id)
    if path.exists():
        _check_files(field, path, *files)
        return
    is_path = path.is_absolute() or path_or_id.startswith(".") or path_or_id.endswith("/")
    try:
        validate_repo_id(path_or_id)
    except HFValidationError:
        is_path = True
    if is_path:
        raise WrongState(
            f"there is no folder {path_or_id!r}", field=field, remedy="name a folder or a hub id: org/name"
        )


def _check_files(field: str, folder: Path, *names: str) -> None:
    if not folder.is_dir():
        raise WrongState(f"there is no folder {str(folder)!r}", field=field, remedy="name one, or leave the setting")
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        raise WrongState(f"{str(folder)!r} has no {missing[0]}", field=field, remedy=f"name a folder with {names[0]}")


def _check_folder(field: str, folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _unusable(field, folder, error.strerror or str(error)) from error
    if not os.access(folder, os.W_OK | os.X_OK):
        raise _unusable(field, folder, "it cannot be written")


def _unusable(field: str, folder: Path, why: str) -> WrongState:
    return WrongState(f"the folder {str(folder)!r} cannot be used: {why}", field=field, remedy="name another folder")
