"""A metric learned from rephrases: nearer to one's own, farther from other facts that look alike."""

import torch
from torch import Tensor
from torch.nn import functional as F

FACTS = 64  # of a step, each another's negative
TEMPERATURE = 0.1
LEARNING_RATE = 1e-3
STEPS = 200
PULL = 0.001  # towards the identity, which is no metric at all


def learn_metric(prompts: Tensor, rephrases: list[Tensor], unrelated: Tensor, seed: int) -> Tensor:
    """M (d, d) for w -> w M, from whitened keys, by contrast (InfoNCE, both ways).

    prompts: (n, d). rephrases: of each prompt (k, d), k >= 1. unrelated: (m, d), ordinary questions.
    The negatives of a rephrase are other prompts that lie near its own, as those of the same relation with another
    subject do, and unrelated questions.
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
