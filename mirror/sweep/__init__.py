"""What keeps the store in order: eviction, orphans, and re-reading what is held.

plan    which blobs have to go; pure
evict   lets go of them, while clients install
verify  finds blobs that are no longer what they were, and mends them
"""

from mirror.sweep.evict import Report, Sweeper
from mirror.sweep.plan import Candidate, Plan, plan
from mirror.sweep.verify import Fault, Verified, Verifier

__all__ = ["Candidate", "Fault", "Plan", "Report", "Sweeper", "Verified", "Verifier", "plan"]
