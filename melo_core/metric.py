"""A metric learned from rephrases: it moves keys nearer to their own prompt and farther from similar other facts."""

import torch
from torch import Tensor
from torch.nn import functional as F

FACTS = 64  # in a step; each is a negative of the others
TEMPERATURE = 0.1
LEARNING_RATE = 1e-3
STEPS = 200
PULL = 0.001  # towards the identity, which leaves keys unchanged


def learn_metric(prompts: Tensor, rephrases: list[Tensor], unrelated: Tensor, seed: int) -> Tensor:
    """Learn M (d, d) for w -> w M from whitened keys by contrast (InfoNCE, both ways).

    prompts: (n, d). rephrases: (k, d) of each prompt, k >= 1. unrelated: (m, d), ordinary questions.
    The negatives of a rephrase are unrelated questions and other prompts near its own, such as those of the same
    relation with another subject.
    """
    generator = torch.Generator().manual_seed(seed)
    n, d = prompts.shape
    identity = torch.eye(d)
    metric = identity.clone().requires_grad_()
    optimizer = torch.optim.Adam([metric], LEARNING_RATE)
    lookalikes = torch.cdist(prompts, prompts).argsort(1)[:, :FACTS]  # (n, FACTS), the first is the prompt itself
    for _ in range(STEPS):
        facts = lookalikes[torch.randint(n, (), generator=generator)]
        chosen = [rephrases[i][torch.randint(len(rephrases[i]), (), generator=generator)] for i in facts.tolist()]
        others = unrelated[torch.randint(len(unrelated), (FACTS,), generator=generator)]
        asked = F.normalize(torch.stack(chosen) @ metric, dim=-1)  # (b, d)
        edited = F.normalize(prompts[facts] @ metric, dim=-1)
        away = F.normalize(others @ metric, dim=-1)
        near = asked @ edited.T / TEMPERATURE  # (b, b)
        own = torch.arange(len(facts))
        to_edits = F.cross_entropy(torch.cat([near, asked @ away.T / TEMPERATURE], 1), own)
        to_rephrases = F.cross_entropy(torch.cat([near.T, edited @ away.T / TEMPERATURE], 1), own)
        loss = to_edits + to_rephrases + PULL * (metric - identity).square().sum()
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    return metric.detach()
