"""What `serve` and `check-config` look at besides the settings themselves: rules that are none."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mirror.config import Settings


def check(settings: "Settings") -> None:
    """Raises Misconfigured for what only shows in the light of the ecosystems; light enough for `check-config`."""
    from mirror.policy.records import check as check_policies
    from mirror.service.ecosystems import ECOSYSTEMS

    if settings.sync:
        from mirror.airgap.sync import check_sets

        check_sets(settings)
    check_policies(settings, {name: ECOSYSTEMS[one.format].versions for name, one in settings.repositories.items()})
