from __future__ import annotations

import subprocess
import sys

import pytest

from ansible_collections.apgms.release.plugins.module_utils.errors import ApgmsError
from ansible_collections.apgms.release.plugins.module_utils.libraries import _Library


def test_an_absent_library_is_named_at_its_first_use() -> None:
    absent = _Library("no_such_library", package="no-such-library[binary]")
    with pytest.raises(ApgmsError) as error:
        _ = absent.connect
    assert error.value.reason == "library.missing"
    assert f"{sys.executable} -m pip install no-such-library[binary]" in str(error.value)


def test_importing_the_core_imports_no_library() -> None:
    program = (
        "import sys;"
        "import ansible_collections.apgms.release.plugins.modules.gateway_release;"
        "print(sorted({'boto3', 'cryptography', 'docker', 'jmespath', 'psycopg'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={"PYTHONPATH": ".collections"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "[]\n"
