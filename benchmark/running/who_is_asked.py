"""Which attacks a suite runs, and which memories each is asked about on which model."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

from ..attack_tools.bases import Attack, Membership, Prompting, Tampering, Tools
from ..battery.shared_pass import Armed, Probes, arm
from ..common.errors import UserError
from ..common.seeds import derive
from ..common.types import HELD, TWIN, EncodedMemory
from ..scoring.calibration import FEWEST_NULL
from ..scoring.score import UNCHANGED
from ..texts.subsets import subset
from .inputs import Inputs
from .model import Model

SHARED = 1  # the last tier whose attacks share passes


class WhoIsAsked:
    """The attacks of a run and their memories. Everything is computed when first needed."""

    def __init__(self, inputs: Inputs):
        self.inputs = inputs
        self.suite = inputs.suite

    @cached_property
    def attacks(self) -> list[Armed]:
        """Those of the suite that apply to memories of the kinds that it has, and compare with no twin where there is none."""
        return [a for a in self._named if self._applies(a)]

    @property
    def not_applying(self) -> tuple[str, ...]:
        """Attacks of the suite that apply to none of its memories, or lack a twin to compare with."""
        return tuple(a.name for a in self._named if not self._applies(a))

    def _applies(self, armed: Armed) -> bool:
        return not self._kinds.isdisjoint(armed.attack.kinds) and bool(self.inputs.twins or not armed.attack.compares)

    @cached_property
    def _kinds(self) -> set[str]:
        return {m.kind for m in self.inputs.memories}

    @cached_property
    def _named(self) -> list[Armed]:
        armed = arm(self.suite.attacks)
        if any(isinstance(a.attack, Tampering) for a in armed) and UNCHANGED not in self.suite.attacks:
            armed = arm(self.suite.attacks | {UNCHANGED: {}})
        return armed

    @cached_property
    def reasked(self) -> list[Armed]:
        """The prompting attacks that a changed model is asked with: the suite's `reasked`, or its own of tiers 0 and 1."""
        own = {a.name: a.given for a in self.attacks if a.attack.tier <= SHARED and a.attack.access == "black-box"}
        return [a for a in arm(self.suite.reasked or own) if isinstance(a.attack, Prompting) and self._applies(a)]

    @property
    def diagnostics(self) -> tuple[str, ...]:
        return tuple(a.name for a in self.attacks if a.attack.diagnostic)

    @property
    def memberships(self) -> list[tuple[str, Membership]]:
        return [(a.name, a.attack) for a in self.attacks if isinstance(a.attack, Membership)]

    @property
    def possible(self) -> bool:
        """Whether the null is large enough for thresholds, and so for survivors."""
        twins = len(self.inputs.twins)
        sizes = [self._count(s, "unseen") * (1 + twins) + self._count(s, "forget") * twins for s in self.suite.seeds]
        return sum(sizes) >= FEWEST_NULL

    @property
    def needs_thresholds(self) -> bool:
        return any(self.screened(m, a.attack.tier) for m in (*self.suite.methods, *self.suite.given) for a in self.attacks)

    def screened(self, name: str, tier: int) -> bool:
        """Whether a model's survivors of the cheaper tiers decide who is asked in this tier."""
        first = {"all": 99, "subset": SHARED + 1, "worst": 1}[self.suite.ask]
        return tier >= first and name not in (HELD, TWIN) and self.possible

    def asked(self, model: Model, attack: Attack) -> list[EncodedMemory]:
        """The memories that one attack is asked about on one model whatever came before, so without survivors."""
        roles = {"forget", "unseen"} if model.null else {"forget"}
        fitting = [m for m in model.memories if m.memory.kind in attack.kinds]
        chosen = [m for m in fitting if m.role in roles]
        if isinstance(attack, Prompting) and (attack.everyone or attack.asks_exactly):
            return fitting
        if self.screened(model.name, attack.tier) and self.suite.ask == "worst" and not attack.diagnostic:
            return []
        if attack.tier <= SHARED:
            return chosen
        few = self.fixed(model.seed)
        return [m for m in chosen if m.id in few or self._beyond(model.name, m.role, attack)]

    def _beyond(self, name: str, role: str, attack: Attack) -> bool:
        """Whether a role is asked beyond the subset by an expensive attack, though nothing depends on what came before.

        The null is asked alike however the methods are asked, so thresholds are the same: all of it in tier 2; in tier 3 only the
        forget memories on the twin, beside which the survivors of others stand.
        """
        if name != TWIN and role == "forget":
            return self.suite.ask == "all"
        if attack.diagnostic:
            return False
        return attack.tier == SHARED + 1 or (name == TWIN and role == "forget" and self.possible)

    def extra(self, scored: Sequence[EncodedMemory], seed: int) -> set[str]:
        """Ids of memories that an expensive attack is not asked about on every model alike: outside the subset; with ask=worst all."""
        alike = {"all": {m.id for m in scored}, "subset": self.fixed(seed), "worst": set()}[self.suite.ask]
        return {m.id for m in scored} - alike

    def fixed(self, seed: int) -> set[str]:
        """Ids of the fixed stratified subset of a seed."""
        return self.inputs.once(("fixed", seed), lambda: subset(self.inputs.encoded(seed), self.suite.subset))

    def _count(self, seed: int, role: str) -> int:
        return sum(m.role == role for m in self.inputs.encoded(seed))

    def known(self, seed: int) -> list[EncodedMemory]:
        return [m for m in self.inputs.encoded(seed) if m.role == "keep" and m.shown]

    def probes(self, seed: int) -> Probes:
        return self.inputs.once(("probes", seed), lambda: Probes(Tools(self.inputs.base, derive(seed, "attacks"), self.known(seed))))

    def validate(self) -> None:
        """Raise what can be known to go wrong before work begins."""
        if self.suite.ask == "worst" and not self.possible:
            raise UserError(
                f"ask=worst needs thresholds, and so at least {FEWEST_NULL} null values: more memories per role, or more seeds."
            )
        if not any(isinstance(a.attack, Prompting) and a.attack.tier == 0 and a.attack.asks_exactly for a in self.attacks):
            raise UserError(
                f"None of the attacks of suite {self.suite.name} ({', '.join(a.name for a in self.attacks) or 'none'}) asks with the exact "
                "opening in tier 0, which exact, leak and collateral are read from. Add prefix, or a prompting attack of yours with "
                'asks = {"VARIANT": "exact"}.'
            )
