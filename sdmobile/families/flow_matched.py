"""What families state alike that are sampled by flow matching; see `flow_matching`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from sdmobile.families.family import Family
from sdmobile.families.flow_matching import flow_scheduler
from sdmobile.families.kept_tables import EVEN_FLOW, FLOW, loop_of
from sdmobile.families.scheduler_document import GUIDANCE, document_of


class FlowMatched(Family):
    """It stands before the family's other bases. `loop_kind` says which of the two ways to σ it has."""

    loop_kind: ClassVar[str] = FLOW

    def scheduler(self, config: Mapping[str, Any], name: str | None, steps: int) -> Any:
        scheduler = flow_scheduler(config, name, even=self.loop_kind == EVEN_FLOW)
        scheduler.set_timesteps(steps)
        return scheduler

    def scheduler_document(
        self, config: Mapping[str, Any], scaling_factor: float, shift_factor: float = 0.0
    ) -> dict[str, Any]:
        loop, length = loop_of(config, self.loop_kind), config.get("num_train_timesteps", 1000)
        return document_of(loop, scaling_factor, shift_factor, GUIDANCE, self.default_steps, length)
