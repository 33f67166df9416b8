"""Instruction following: language modelling, scored by the responses that a network generates."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kdbench.tasks.language_modelling import LanguageModelling

if TYPE_CHECKING:
    from kdbench.data.text.causal import CausalData
    from kdbench.metrics.base import Metric


class InstructionFollowing(LanguageModelling):
    """Responses to instructions; the main score is ROUGE-L of what the network generates."""

    name = "instructions"
    metric = "rouge_l"
    title = "ROUGE-L"
    like = "lm"

    def build_metric(self, data: CausalData, split: str) -> Metric:
        """Return scores of generated responses, and the token scores of the reference response."""
        from kdbench.data.text.instructions import InstructionData
        from kdbench.metrics.generation import ResponseScores

        assert isinstance(data, InstructionData)
        end, max_tokens = data.generation_limits
        return ResponseScores(
            data.texts[split],
            data.decode,
            split,
            draws=1 if split in ("train", "validation") else data.draws,
            temperature=data.temperature,
            end=end,
            max_tokens=max_tokens,
        )
