"""Decides like Google's IAM whether an account has a permission on a resource, and which workflow gets which role."""

import re
from typing import Any

from tests.helpers.google_roles import ROLES

OWNER = "me@example.com"
State = dict[str, Any]
_CLAUSE = re.compile(
    r"resource\.name\.startsWith\('(?P<name>[^']*)'\)"
    r"|api\.getAttribute\('storage\.googleapis\.com/objectListPrefix', ''\)\.startsWith\('(?P<prefix>[^']*)'\)"
)


class DeniedError(Exception):
    """The message of Google for a request that is refused."""


def member(account: str) -> str:
    return f"serviceAccount:{account}" if account.endswith("gserviceaccount.com") else f"user:{account}"


def require(state: State, account: str, permission: str, resource: str, name: str = "") -> None:
    """Records that a permission is needed, and refuses the request if the account lacks it.

    Args:
        state: State of the double.
        account: Address of the account that asks.
        permission: Such as `run.services.get`.
        resource: Such as `services/gtsrb`; `buckets/B` for objects as well.
        name: For objects, `NAME` or, if they are listed, `PREFIX*`.
    """
    role = "owner" if account == OWNER else account.partition("@")[0].rpartition("-")[2]
    needed = state.setdefault("needed", [])
    if [role, permission] not in needed:
        needed.append([role, permission])
    if [role, permission] == state.get("denied") or not allowed(state, account, permission, resource, name):
        raise DeniedError(
            f"PERMISSION_DENIED: Permission '{permission}' denied on resource '{resource}' (or it may not exist). This "
            f"command is authenticated as {account} using the credentials in gha-creds-1.json."
        )


def allowed(state: State, account: str, permission: str, resource: str, name: str = "") -> bool:
    """Returns whether an account has a permission; the owner of the project has all of them."""
    if account == OWNER:
        return True
    return any(
        who in (member(account), "allUsers")
        and permission in ROLES.get(role, set())
        and (condition is None or _holds(condition, permission, resource, name))
        for place in (resource, "project")
        for who, role, condition in state.get("policies", {}).get(place, [])
    )


def _holds(condition: str, permission: str, resource: str, name: str) -> bool:
    """Evaluates a condition on objects. A request that lists objects has the bucket as its resource."""
    found = [match for clause in condition.split(" || ") if (match := _CLAUSE.fullmatch(clause))]
    if len(found) != len(condition.split(" || ")):
        raise AssertionError(f"a condition that the double cannot evaluate: {condition}")
    lists = permission == "storage.objects.list"
    full = f"projects/_/{resource}" + ("" if lists else f"/objects/{name}")
    return any(
        full.startswith(match["name"])
        if match["name"]
        else lists and name.removesuffix("*").startswith(match["prefix"])
        for match in found
    )


def bind(state: State, resource: str, who: str, role: str, option: str | None, *, remove: bool = False) -> None:
    """Adds or removes a binding, with gcloud's rules for conditions.

    Raises:
        DeniedError: The member does not exist, a condition is missing or invalid, or there is no such binding.
    """
    bindings = state.setdefault("policies", {}).setdefault(resource, [])
    conditional = any(condition for *_, condition in bindings)
    if (
        who.startswith("serviceAccount:")
        and who not in state.get("agents", [])
        and ["iam service-accounts", who.partition(":")[2]] not in state["things"]
    ):
        raise DeniedError(f"INVALID_ARGUMENT: Service account {who.partition(':')[2]} does not exist.")
    if resource == "project" and who in ("allUsers", "allAuthenticatedUsers"):
        raise DeniedError("INVALID_ARGUMENT: allUsers is not supported in the policy of a project.")
    if option is None and conditional:
        raise DeniedError(
            "Adding a binding without specifying a condition to a policy containing conditions is prohibited in "
            "non-interactive mode. Run the command again with `--condition=None`"
        )
    condition = _parse(option) if option not in (None, "None") else None
    entry = [who, role, condition]
    if remove and entry not in bindings:
        raise DeniedError("Policy binding with the specified principal, role, and condition not found!")
    if remove:
        bindings.remove(entry)
    elif entry not in bindings:
        bindings.append(entry)


def _parse(option: str) -> str:
    """Splits like gcloud: at commas, or at the separator between two circumflexes."""
    separator, rest = (option[1], option[3:]) if option.startswith("^") else (",", option)
    parts = dict(part.split("=", 1) for part in rest.split(separator))
    few = parts.get("expression", "").count(" || ") <= 12  # the limit of logical operators
    if set(parts) != {"title", "expression"} or not 1 <= len(parts["title"]) <= 100 or not few:
        raise DeniedError(f"argument --condition: Bad syntax for dict arg: {sorted(parts)}")
    return parts["expression"]


def role_of_workflow(mapping: str, condition: str, claims: dict[str, str]) -> str | None:
    """Returns the role of a GitHub token; None if the provider refuses the token."""
    if not _evaluate(condition, claims):
        return None
    parts = dict(part.split("=", 1) for part in mapping.removeprefix("^~^").split("~"))
    return str(_evaluate(parts["attribute.role"], claims))


def _evaluate(expression: str, claims: dict[str, str]) -> object:
    """Evaluates the part of the Common Expression Language that this repository uses. A missing claim is an error."""
    if " ? " in expression:
        test, _, rest = expression.partition(" ? ")
        then, _, otherwise = rest.partition(" : ")
        return _evaluate(then if _evaluate(test, claims) else otherwise, claims)
    python = re.sub(r"has\(assertion\.(\w+)\)", r"('\1' in claims)", expression)
    python = re.sub(r"assertion\.(\w+)", r"claims['\1']", python)
    for cel, own in (("&&", "and"), ("||", "or"), (".startsWith(", ".startswith(")):
        python = python.replace(cel, own)
    return eval(python, {"claims": claims})
