"""docs/providers.md names tests that exist, and every client and provider that they know."""

import re
from pathlib import Path

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs/providers.md").read_text()
CLIENTS = (ROOT / "tests/clients/test_clients.py").read_text()


def test_every_test_that_the_page_names_exists() -> None:
    named = set(re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", PAGE))
    assert len(named) > 15
    for path, test in sorted(named):
        assert re.search(rf"^def {test}\(", (ROOT / path).read_text(), re.MULTILINE), f"{path}::{test}"


def test_every_client_and_provider_of_the_tests_has_a_row() -> None:
    rows = "\n".join(line.split("|")[1] for line in PAGE.splitlines() if line.startswith("| "))
    refused = set(re.findall(r'Refusal\(\s+"([^"]+)"', CLIENTS))
    told = set(re.findall(r'Told\(\s+"([^"]+)"', CLIENTS))
    imported = set(re.findall(r'^(\w+) = pytest.importorskip\("', CLIENTS, re.MULTILINE))
    # Modules that go by another name on the page, and helpers of google-api-core and grpc.
    known_as = {"genai": "google-genai", "google_exceptions": "google-api-core", "mistral_client": "mistralai"}
    helpers = {"botocore_config", "botocore_exceptions", "rpc_details", "rpc_durations"}
    assert refused
    assert told
    for name in refused | told | {known_as.get(name, name) for name in imported - helpers}:
        assert name in rows, name
