"""Pure: rules → a verdict per file, with its reason, and when the verdict next changes by itself.

rules        the kinds of rule, as the configuration spells them
osv          what a folder of OSV records says; the one part that reads files
verdicts     the rules asked about a project: `apply`
past         the index as it was at a moment
explanation  the same in lines for people
patterns     globs on names
"""

from mirror.policy.explanation import explain
from mirror.policy.past import as_of, moment
from mirror.policy.patterns import matches
from mirror.policy.rules import AnyRule, Versions, rule_from, rules_from
from mirror.policy.verdicts import FilterResult, Policy, Verdict, apply, concerns, folders, named, policy_for, verdict

__all__ = [
    "AnyRule",
    "FilterResult",
    "Policy",
    "Verdict",
    "Versions",
    "apply",
    "as_of",
    "concerns",
    "explain",
    "folders",
    "matches",
    "moment",
    "named",
    "policy_for",
    "rule_from",
    "rules_from",
    "verdict",
]
