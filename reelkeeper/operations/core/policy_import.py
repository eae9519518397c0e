"""Import the policies of 0.1.0, parameters in prefect.yaml and on the API's command line, as one document."""

import json
from collections.abc import Mapping, Sequence
from typing import Any, Final

import yaml
from pydantic import ValidationError

from reelkeeper.errors import PolicyRefused
from reelkeeper.rules.core.earlier_policies import without_fixed
from reelkeeper.rules.policies import Policies, as_written, parse, require_fixed

_SECTIONS: Final = {"policy": "lifecycle", "keeping": "record_retention"}  # names in 0.1.0
_GRACE: Final = ("grace_days", "grace_days_service_keys")  # parameters of purge_retired and sync_catalog
_NULL: Final = "never"  # in 0.1.0 null switched a rule off


def collect(prefect_yaml: str, params: Sequence[str]) -> Policies:
    """Gather every policy that parameters set.

    Raises PolicyRefused for another document than prefect.yaml, where two parameters contradict each other, and for a
    value that nobody can set now.

    `params` are those of `reelkeeper api --param`, as `admission.slots=4`.
    """
    found: dict[str, dict[str, Any]] = {}
    origin: dict[tuple[str, str], str] = {}
    for deployment in _deployments(prefect_yaml):
        name = str(deployment.get("entrypoint") or deployment.get("name")).rpartition(".")[2]
        for parameter, value in (deployment.get("parameters") or {}).items():
            if parameter in _GRACE:
                _add(found, origin, "lifecycle", {parameter: value}, name)
            elif isinstance(value, Mapping):
                _add(found, origin, _SECTIONS.get(parameter, parameter), value, name)
    for param in params:
        path, _, text = param.partition("=")
        section, _, field = path.partition(".")
        try:
            value = json.loads(text)
        except ValueError:
            value = text
        _add(found, origin, _SECTIONS.get(section, section), {field: value} if field else value, "api --param")
    require_fixed(as_written(found))
    try:
        return parse(found)
    except ValidationError as error:
        wrong = "; ".join(f"{'.'.join(map(str, entry['loc']))}: {entry['msg']}" for entry in error.errors())
        raise PolicyRefused(f"these parameters do not make a valid document: {wrong}") from None


def _deployments(prefect_yaml: str) -> list[dict[str, Any]]:
    try:
        document = yaml.safe_load(prefect_yaml) or {}
    except (yaml.YAMLError, RecursionError) as error:
        raise PolicyRefused(f"prefect.yaml is not valid YAML: {' '.join(str(error).split())}") from None
    found = document.get("deployments") or [] if isinstance(document, dict) else None
    if not isinstance(found, list) or not all(isinstance(deployment, dict) for deployment in found):
        raise PolicyRefused("this is no prefect.yaml: it has no list of `deployments`")
    return found


def carried_over(deployments: Sequence[dict[str, Any]]) -> None:
    """Leave fields that are fixed now out of deployments' parameters. Raises PolicyRefused for another value."""
    for deployment in deployments:
        if given := deployment.get("parameters"):
            # guard policy.fixed_deployed: a deployment's exception is dropped unseen: its flow runs under another value
            require_fixed(as_written(given))
            deployment["parameters"] = without_fixed(given)


def _add(
    found: dict[str, dict[str, Any]],
    origin: dict[tuple[str, str], str],
    section: str,
    fields: Mapping[str, Any],
    where: str,
) -> None:
    into = found.setdefault(section, {})
    for name, value in fields.items():
        plain = _NULL if value is None else value
        if into.setdefault(name, plain) != plain:
            raise PolicyRefused(
                f"{section}.{name} is {into[name]!r} for {origin[section, name]} and {plain!r} for {where}; a document "
                "can contain only one value. Choose one, and keep the other as an exception of that deployment"
            )
        origin[section, name] = where
