"""Typed settings: one TOML file, the environment over it, the command line over both.

values (types of single settings), settings (a class for each section), repositories, auth, catalog and policy (sections
of their own), passwords, loading (`load`, the only function that reads the file and the environment), environment (its
variables, of whose names variables decides), reference (every setting as data).

Settings are frozen values that are passed to what needs them, never looked up. An unknown key, a wrong type or an
unusable directory is a ConfigError with one line that names the place.

The surprise: this is also the one package that knows the public indexes.
"""

from mirror.config.auth import AuthSettings, user_name
from mirror.config.catalog import CatalogSettings
from mirror.config.loading import load
from mirror.config.policy import PoliciesSettings, RuleSettings
from mirror.config.reference import Setting, describe
from mirror.config.repositories import AgesSettings, PagesSettings, RepositorySettings, UpstreamSettings
from mirror.config.settings import LimitsSettings, LogSettings, NetworkSettings, Settings, SyncSettings, TLSSettings
from mirror.config.values import Address

__all__ = [
    "Address",
    "AgesSettings",
    "AuthSettings",
    "CatalogSettings",
    "LimitsSettings",
    "LogSettings",
    "NetworkSettings",
    "PagesSettings",
    "PoliciesSettings",
    "RepositorySettings",
    "RuleSettings",
    "Setting",
    "Settings",
    "SyncSettings",
    "TLSSettings",
    "UpstreamSettings",
    "describe",
    "load",
    "user_name",
]
