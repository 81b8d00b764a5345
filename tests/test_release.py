"""The checks of a release: what the auditor reports is read, and what cannot be asked is said."""

import json

from tests.release import read_audit


def test_vulnerabilities_are_named_with_the_version_that_mends_them() -> None:
    report = read_audit(
        json.dumps(
            {
                "dependencies": [
                    {"name": "six", "version": "1.0", "vulns": [{"id": "PYSEC-1", "fix_versions": ["1.1", "2.0"]}]},
                    {"name": "attrs", "version": "2.0", "vulns": []},
                    {"name": "acme", "skip_reason": "not found"},
                ],
                "fixes": [],
            }
        )
    )
    assert report == (2, 1, ("six 1.0: PYSEC-1, mended in 1.1, 2.0",))
