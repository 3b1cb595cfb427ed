"""Llamba and the hybrid as transformers models.

Importing this package registers both with transformers' Auto classes, so that their checkpoints
load without `trust_remote_code`. `import optlayers` alone does not, since it stays free of torch.
"""

from transformers import AutoConfig, AutoModelForCausalLM

from optlayers.models.hybrid import HybridConfig, HybridForCausalLM
from optlayers.models.llamba import LlambaConfig, LlambaForCausalLM

AutoConfig.register("llamba", LlambaConfig, exist_ok=True)
AutoConfig.register("optlayers_hybrid", HybridConfig, exist_ok=True)
AutoModelForCausalLM.register(LlambaConfig, LlambaForCausalLM, exist_ok=True)
AutoModelForCausalLM.register(HybridConfig, HybridForCausalLM, exist_ok=True)
# `save_pretrained` then copies the modeling files, as an export does.
HybridConfig.register_for_auto_class()
HybridForCausalLM.register_for_auto_class("AutoModelForCausalLM")

__all__ = ["HybridConfig", "HybridForCausalLM", "LlambaConfig", "LlambaForCausalLM"]
