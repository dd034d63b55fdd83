"""Methods with one fault each: what is wrong, the rule that has to say so, and the code."""

from __future__ import annotations

HEAD = '''
import random
from dataclasses import dataclass
import numpy as np
import torch
from palimpsest.benchmark.method import IGNORED, Descent, Method, Term, nll_sum, sequence_nll, token_nll

@dataclass(frozen=True)
class Broken(Descent):
    """A method with one fault."""

    lr: float = 1e-3
    epochs: int = 6

    def ascent(self, model, forget, retain):
        kept = Term(nll_sum(model, retain), "tokens", "retain")
        return {"forget": Term(nll_sum(model, forget), "tokens", "forget", -0.2), "retain": kept}
'''
# What is wrong with each, and the rule that has to say so.
BROKEN = {
    "a loss that is not a number": (
        "finite",
        """
    def loss(self, model, forget, retain, reference):
        return {"forget": Term((nll_sum(model, forget) - 1e9).log(), "tokens", "forget")}
""",
    ),
    "weights that are not finite": (
        "finite",
        """
    def loss(self, model, forget, retain, reference):
        return self.ascent(model, forget, retain)

    def unlearn(self, held, data, train):
        state = super().unlearn(held, data, train).fresh().state_dict()
        return held.with_state({k: w / 0 for k, w in state.items()})
""",
    ),
    "something that is no model is returned": (
        "finite",
        """
    def loss(self, model, forget, retain, reference):
        return self.ascent(model, forget, retain)

    def unlearn(self, held, data, train):
        return super().unlearn(held, data, train).model
""",
    ),
    "the sign is wrong": (
        "forgets",
        """
    def loss(self, model, forget, retain, reference):
        return {"forget": Term(nll_sum(model, forget), "tokens", "forget")}
""",
    ),
    "nothing holds the model together": (
        "keeps",
        """
    def loss(self, model, forget, retain, reference):
        return {"forget": Term(nll_sum(model, forget), "tokens", "forget", -1.0)}

    def steps(self, data):
        return 25
""",
    ),
    "the held model is trained in place": (
        "leaves the held model alone",
        """
    def loss(self, model, forget, retain, reference):
        return self.ascent(model, forget, retain)

    def unlearn(self, held, data, train):
        out = super().unlearn(held, data, train)
        held.model.load_state_dict(out.fresh().state_dict())
        return held
""",
    ),
    "the held model's folder is written to": (
        "leaves the held model alone",
        """
    def loss(self, model, forget, retain, reference):
        return self.ascent(model, forget, retain)

    def unlearn(self, held, data, train):
        out = super().unlearn(held, data, train)
        (held.folder / "mask.json").write_text("[]")
        return out
""",
    ),
    "a draw of NumPy's without a seed": (
        "deterministic",
        """
    def loss(self, model, forget, retain, reference):
        terms = self.ascent(model, forget, retain)
        return terms | {"forget": Term(terms["forget"].total * np.random.random(), "tokens", "forget", -0.2)}
""",
    ),
    "a draw of torch's before the training": (
        "deterministic",
        """
    def loss(self, model, forget, retain, reference):
        return self.ascent(model, forget, retain)

    def unlearn(self, held, data, train):
        noisy = {k: w + 1e-3 * torch.randn_like(w) for k, w in held.fresh().state_dict().items()}
        return super().unlearn(held.with_state(noisy), data, train)
""",
    ),
    "draws inside the loss that hang on how many there were": (
        "resumable",
        """
    def loss(self, model, forget, retain, reference):
        terms = self.ascent(model, forget, retain)
        return terms | {"forget": Term(terms["forget"].total * torch.rand(()), "tokens", "forget", -0.2)}
""",
    ),
    "a look at weights that ZeRO-3 has taken apart": (
        "ZeRO-3",
        """
    def loss(self, model, forget, retain, reference):
        size = sum(p.square().sum() for p in model.parameters())
        return self.ascent(model, forget, retain) | {"decay": Term(size * len(forget.names), "sequences", "forget", 1e-2)}
""",
    ),
}
MEAN = """
    def loss(self, model, forget, retain, reference):
        mean = token_nll(model, forget)[0].mean() * forget.real.sum()
        return self.ascent(model, forget, retain) | {"forget": Term(mean, "sequences", "forget", -0.2)}
"""
