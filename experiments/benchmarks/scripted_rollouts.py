"""Scripted rollouts for benchmarks: prompts, lengths and feedback are given, tokens are sampled."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from tspo_cli.rollout.engines.engine_protocol import GenerationRequest, Sampling
from tspo_cli.training.core.sequences import TrainSequence


@dataclass(frozen=True)
class Shape:
    """Lengths in tokens of the scripted rollouts: `turns` actions of `action` tokens, `feedback`
    tokens between them, after prompts that begin with the same `instruction`.
    """

    instruction: int
    prompt: int
    action: int
    feedback: int
    turns: int


SHAPES = {
    "step": Shape(instruction=120, prompt=170, action=30, feedback=115, turns=3),
    "search_r1": Shape(instruction=120, prompt=200, action=60, feedback=300, turns=4),
}


class Rollouts:
    """`questions` groups of `group` rollouts with the same prompt."""

    def __init__(self, shape: Shape, questions: int, group: int, vocabulary: int) -> None:
        self.shape, self.group = shape, group
        random = np.random.default_rng(0)

        def tokens(count: int) -> list[int]:
            return random.integers(100, vocabulary - 100, count).tolist()

        instruction = tokens(shape.instruction)
        prompts = [instruction + tokens(shape.prompt - shape.instruction) for _ in range(questions)]
        self.prompts = [prompt for prompt in prompts for _ in range(group)]
        self.feedback = [
            [tokens(shape.feedback) for _ in range(shape.turns - 1)] for _ in self.prompts
        ]

    @property
    def sampled(self) -> int:
        """Sampled tokens of all rollouts."""
        return len(self.prompts) * self.shape.turns * self.shape.action

    def with_engine(self, engine: Any) -> tuple[list[list[int]], list[list[float]]]:
        """Roll out with the engine: histories, and log-probabilities of the sampled tokens."""
        histories = [list(prompt) for prompt in self.prompts]
        logprobs: list[list[float]] = [[] for _ in histories]
        turns = [0] * len(histories)

        def submit(session: int) -> None:
            sampling = Sampling(max_new_tokens=self.shape.action)
            seed = session + 1000 * turns[session]
            request = GenerationRequest(session, tuple(histories[session]), sampling, seed)
            engine.submit(request)

        for session in range(len(histories)):
            submit(session)
        unfinished = len(histories)
        while unfinished:
            for done in engine.step():
                session = done.session
                histories[session] += done.token_ids
                logprobs[session] += done.logprobs
                turns[session] += 1
                if turns[session] == self.shape.turns:
                    engine.release(session)
                    unfinished -= 1
                else:
                    histories[session] += self.feedback[session][turns[session] - 1]
                    submit(session)
        return histories, logprobs

    @torch.inference_mode()
    def with_generate(self, model: Any) -> tuple[list[list[int]], list[list[float]]]:
        """The same with `model.generate` from scratch each turn. All histories are equally long, so
        there is no padding.
        """
        histories = [list(prompt) for prompt in self.prompts]
        logprobs: list[list[float]] = [[] for _ in histories]
        for turn in range(self.shape.turns):
            ids = torch.tensor(histories)
            output = model.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                do_sample=True,
                top_k=0,
                min_new_tokens=self.shape.action,
                max_new_tokens=self.shape.action,
                pad_token_id=0,
                output_logits=True,
                return_dict_in_generate=True,
            )
            new = output.sequences[:, ids.shape[1] :]
            values = torch.stack(output.logits, 1).log_softmax(-1).gather(-1, new[..., None])
            rows = zip(new.tolist(), values[..., 0].tolist(), strict=True)
            for session, (row, numbers) in enumerate(rows):
                histories[session] += row
                logprobs[session] += numbers
                if turn < self.shape.turns - 1:
                    histories[session] += self.feedback[session][turn]
        return histories, logprobs

    def mask(self) -> list[int]:
        """1 at sampled tokens, 0 at feedback, behind the prompt."""
        turn, feedback = [1] * self.shape.action, [0] * self.shape.feedback
        return (turn + feedback) * (self.shape.turns - 1) + turn

    def advantage(self, number: int) -> float:
        """Different for the rollouts of a group, so that all of them are trained."""
        return number % self.group - (self.group - 1) / 2

    def sequences(
        self, histories: list[list[int]], logprobs: list[list[float]]
    ) -> list[TrainSequence]:
        """What the learner trains on."""
        weights = [0.0] * self.shape.prompt + [float(weight) for weight in self.mask()]
        made = []
        for number, (ids, values) in enumerate(zip(histories, logprobs, strict=True)):
            own = iter(values)
            old = [next(own) if weight else 0.0 for weight in weights]
            advantage = self.advantage(number)
            made.append(TrainSequence(ids, weights, [advantage * w for w in weights], old))
        return made
