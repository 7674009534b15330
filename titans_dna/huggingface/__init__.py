"""Models and tokenisers for transformers 5: importing this registers them with `AutoModel`, `AutoTokenizer` and the like.

After `import titans_dna.huggingface`, `AutoModelForCausalLM.from_pretrained(directory or hub id)` takes what
`titans_dna.checkpoint.save` wrote, with no `trust_remote_code`, and `titans_dna.load` takes what `save_pretrained` wrote.
"""

from importlib.util import find_spec

if find_spec("transformers") is None:
    raise ImportError("titans_dna.huggingface: transformers is not installed, want pip install 'titans-dna[hf]'")

import transformers

if int(transformers.__version__.split(".")[0]) < 5:
    raise ImportError(
        f"titans_dna.huggingface: got transformers {transformers.__version__}, want pip install 'titans-dna[hf]'"
    )

from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
)

from titans_dna.huggingface.base import TitansDNAConfig, TitansDNAFineTunedConfig
from titans_dna.huggingface.modeling import (
    TitansDNAForCausalLM,
    TitansDNAForSequenceClassification,
    TitansDNAModel,
)
from titans_dna.huggingface.tokenization import TitansDNATokenizer

__all__ = [
    "TitansDNAConfig",
    "TitansDNAForCausalLM",
    "TitansDNAForSequenceClassification",
    "TitansDNAModel",
    "TitansDNATokenizer",
]

AutoConfig.register(TitansDNAConfig.model_type, TitansDNAConfig)
AutoConfig.register(TitansDNAFineTunedConfig.model_type, TitansDNAFineTunedConfig)
AutoTokenizer.register(TitansDNAConfig, slow_tokenizer_class=TitansDNATokenizer)
for auto, model in (
    (AutoModel, TitansDNAModel),
    (AutoModelForCausalLM, TitansDNAForCausalLM),
    (AutoModelForSequenceClassification, TitansDNAForSequenceClassification),
):
    auto.register(TitansDNAConfig, model)
