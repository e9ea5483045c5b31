"""Builds the package as setuptools does; asks for mypy besides, where KVSTORE_COMPILE asks for a compiled build.

A static requirement would have everybody fetch a type checker who only wants to install. See setup.py.
"""

import os
from typing import Any

from setuptools import build_meta
from setuptools.build_meta import (
    build_editable,
    build_sdist,
    build_wheel,
    get_requires_for_build_editable,
    get_requires_for_build_sdist,
    prepare_metadata_for_build_editable,
    prepare_metadata_for_build_wheel,
)

__all__ = [
    "build_editable",
    "build_sdist",
    "build_wheel",
    "get_requires_for_build_editable",
    "get_requires_for_build_sdist",
    "get_requires_for_build_wheel",
    "prepare_metadata_for_build_editable",
    "prepare_metadata_for_build_wheel",
]

COMPILER = "mypy>=1.18"


def get_requires_for_build_wheel(config_settings: Any = None) -> list[str]:
    """What building a wheel needs besides setuptools (PEP 517)."""
    needed: list[str] = build_meta.get_requires_for_build_wheel(config_settings)
    return needed if os.environ.get("KVSTORE_COMPILE", "0") in ("", "0") else [*needed, COMPILER]
