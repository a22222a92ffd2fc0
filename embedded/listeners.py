"""Tells who listens at an address of this machine: any of its users may, where nothing else does."""

import os
from ipaddress import ip_address
from typing import Any
from urllib.parse import urlsplit

import psutil

_PORTS = {"http": 80, "https": 443}


def is_own(url: str) -> bool:
    """Tell whether what listens at an address is a program of this user, on this machine."""
    try:
        parts = urlsplit(url)
        port = parts.port or _PORTS.get(parts.scheme)
        here = parts.hostname == "localhost" or ip_address(parts.hostname or "").is_loopback
    except ValueError:
        return False
    if not here or port is None:
        return False
    pids = _listening(port)
    return bool(pids) and all(pid is not None and _is_mine(pid) for pid in pids)


def _listening(port: int) -> set[int | None]:
    """Return the processes that listen at a port; None stands for one that is not told, being another user's."""
    try:
        found = psutil.net_connections("tcp")
    except psutil.AccessDenied:  # macOS tells only of each user's own
        return {process.pid for process in psutil.process_iter() if _listens(process, port)}
    return {each.pid for each in found if _is_at(each, port)}


def _listens(process: psutil.Process, port: int) -> bool:
    try:
        found = process.net_connections("tcp")
    except psutil.Error:
        return False
    return any(_is_at(each, port) for each in found)


def _is_at(connection: Any, port: int) -> bool:
    return bool(connection.status == psutil.CONN_LISTEN and connection.laddr.port == port)


def _is_mine(pid: int) -> bool:
    try:
        return psutil.Process(pid).uids().effective == os.geteuid()
    except psutil.Error:
        return False
