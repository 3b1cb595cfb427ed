"""Models: the Llamba classes, the hybrid, and the stack of layers that the engine runs.

Importing this package tells transformers' Auto classes of Llamba and of the hybrid, so that
their checkpoints load without `trust_remote_code`.
"""

from transformers import AutoConfig, AutoModelForCausalLM

from optlayers.models.hybrid import HybridConfig, HybridForCausalLM
from optlayers.models.llamba import LlambaConfig, LlambaForCausalLM

AutoConfig.register("llamba", LlambaConfig, exist_ok=True)
AutoConfig.register("optlayers_hybrid", HybridConfig, exist_ok=True)
AutoModelForCausalLM.register(LlambaConfig, LlambaForCausalLM, exist_ok=True)
AutoModelForCausalLM.register(HybridConfig, HybridForCausalLM, exist_ok=True)
# So that `save_pretrained` writes the modeling files along, as an export has them.
HybridConfig.register_for_auto_class()
HybridForCausalLM.register_for_auto_class("AutoModelForCausalLM")

__all__ = ["HybridConfig", "HybridForCausalLM", "LlambaConfig", "LlambaForCausalLM"]
