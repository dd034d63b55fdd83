"""All that an attack imports: its base, what it is given, and tools that attacks share. Everything here is defined elsewhere."""

from __future__ import annotations

from .attack_tools.bases import Attack, Changed, Claims, Membership, Prompting, Searching, Tampering, Tools, Workshop
from .attack_tools.decoding import Decoding
from .attack_tools.gcg import TOKENS, Budget, Wanted, continuation_logits, elicit, last_tokens, replaced_embeddings
from .attack_tools.questions import VERDICTS, OtherPrompts, Verdict, said_tokens, verdict
from .attack_tools.relearning import Relearning
from .attack_tools.rewording import Options, Rewording, Substitution, fits, fitting, gives_away, led_by, once_per_model, whole_words
from .attack_tools.synonyms import WORD, substitute, synonyms
from .common.errors import UserError, unknown
from .common.limits import SOME, Count, CountOrZero, Counts, NotNegative, Positive, Share, Shares, one_of
from .common.memory import QUESTIONS, Kind
from .common.paths import CONFIGS
from .common.processes import device
from .common.types import HORIZON, Answer, Batch, EncodedMemory, Finding, Memory, Probe, Questions, Row, TokenReading
from .models.blocks import blocks
from .models.logits import hidden_states, logits_of
from .models.quantisation import round_by_torchao, round_to_nearest
from .models.saying import said, text_of
from .models.subject import Subject
from .models.weights import as_kept, by_output, covered, each_matrix, linear_weights, replaced
from .reading.reader import Reader
from .training.batches import IGNORED, collate
from .training.lora import Lora
from .training.losses import language_model_loss
from .training.recipe import Recipe
