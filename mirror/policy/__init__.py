"""Policy: rules → a verdict for each file, with its reason, and when the verdict next changes by itself. Pure.

rules        what each kind of rule objects to
verdicts     the rules applied to a project: `apply`
explanation  verdicts in lines for people
osv          what one OSV record reports
records      the policy of each repository, rebuilt when a folder of OSV records changes; the one part that reads files
"""

from mirror.policy.explanation import explain
from mirror.policy.rules import Versions, matches
from mirror.policy.verdicts import (
    FilterResult,
    Policy,
    Verdict,
    apply,
    as_of,
    concerns,
    named_projects,
    osv_folders,
    parse_moment,
    policy_for,
    verdict,
)

__all__ = [
    "FilterResult",
    "Policy",
    "Verdict",
    "Versions",
    "apply",
    "as_of",
    "concerns",
    "explain",
    "matches",
    "named_projects",
    "osv_folders",
    "parse_moment",
    "policy_for",
    "verdict",
]
