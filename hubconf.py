"""`torch.hub.load(CHECKOUT, "ddr_sapc_u", source="local", pretrained=True)`: the networks by name."""

from functools import partial as _partial

import ddrsapc as _ddrsapc

dependencies = ["torch", "huggingface_hub", "safetensors", "numpy", "einops"]

for _name in _ddrsapc.list_models():
    globals()[_name] = _partial(_ddrsapc.create_model, _name)
    globals()[_name].__doc__ = f"{_ddrsapc.model_entrypoint(_name).__doc__}\n\nSee `ddrsapc.create_model`."
