from __future__ import annotations

import yaml

from ansible_collections.apgms.release.plugins.module_utils.version import VERSION
from tests.conftest import ROOT


def test_the_core_states_the_version_of_the_collection() -> None:
    assert yaml.safe_load((ROOT / "galaxy.yml").read_text())["version"] == VERSION
