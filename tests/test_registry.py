"""Names resolve to what they say, and unknown ones suggest near ones."""

import pytest

from piflow_cli import registry
from piflow_cli.errors import PiflowError

ENTRIES = [(kind, name) for kind in registry.ENTRIES for name in registry.names(kind)]


@pytest.mark.parametrize(("kind", "name"), ENTRIES, ids=[f"{kind}-{name}" for kind, name in ENTRIES])
def test_every_name_resolves_to_something_of_that_name(kind: str, name: str) -> None:
    found = registry.resolve(kind, name)
    fields = getattr(found, "model_fields", None)
    own_name = fields["type"].default if fields else found.name
    assert own_name == name


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("gmflo", "unknown policy 'gmflo'. Did you mean gmflow? Known:"),
        ("nonsense", "unknown policy 'nonsense'. Known:"),
    ],
)
def test_unknown_names_suggest_near_ones(name: str, message: str) -> None:
    with pytest.raises(PiflowError) as error:
        registry.resolve("policy", name)
    assert str(error.value) == f"{message} {', '.join(registry.names('policy'))}."


def test_a_newcomer_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(registry.ENTRIES["policy"], "newcomer", "piflow_cli.policies.dx:DX")
    assert "newcomer" in registry.names("policy")
    assert registry.resolve("policy", "newcomer").__name__ == "DX"
